//! Owns the comparison of unpacking here with `umoci unpack`: the same image of 300 MiB and five layers, both ways of making
//! root file systems, in turns.
//!
//! `cargo bench -p vyr-oci-fallback --bench unpack -- [SAMPLES.jsonl] [ROUNDS]`. It needs root, as images have owners, and umoci
//! (`envs/tools`).

#![expect(clippy::print_stdout, reason = "what it measured is told there")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use vyr_oci_fallback::snapshot::{Layer, Method, Rights, Snapshots};
use vyr_oci_fallback::unpack::Limits;

#[expect(dead_code, reason = "the tests use all of it, this a part")]
#[path = "../src/unpack/tests/layout.rs"]
mod layout;

use layout::{Entry, Tar};

/// All files together.
const BYTES: usize = 300 << 20;
const LAYERS: usize = 5;

/// xorshift: the same image in each run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % n
    }

    /// As in images of distributions: most files are small, most bytes are in a few.
    fn size(&mut self) -> usize {
        match self.below(1000) {
            0..600 => self.below(4 << 10),
            600..900 => self.below(32 << 10),
            900..998 => self.below(256 << 10),
            _ => (4 << 20) + self.below(20 << 20),
        }
    }

    /// Text, or what can't be compressed, or machine code's mixture of both.
    fn content(&mut self, size: usize, into: &mut Vec<u8>) {
        const WORDS: [&str; 16] = [
            "the ", "return ", "static ", "struct ", "license ", "of ", "import ", "self.", "\n    ", "(void)", "0x",
            "int ", "and ", "not ", "module ", "error\n",
        ];
        into.clear();
        let kind = self.below(3);
        while into.len() < size {
            match if kind == 2 { self.below(2) } else { kind } {
                0 => (0..16).for_each(|_| into.extend(WORDS[self.below(16)].as_bytes())),
                _ => (0..8).for_each(|_| into.extend(self.next().to_le_bytes())),
            }
        }
        into.truncate(size);
    }
}

fn image() -> (Vec<Vec<u8>>, usize) {
    let mut chance = Chance(0x5eed_0001);
    let mut layers = Vec::new();
    let mut files = 0;
    let mut data = Vec::new();
    for layer in 0..LAYERS {
        let mut tar = Tar::default();
        let mut bytes = 0;
        let mut folder = 0;
        let mut in_folder = 0;
        while bytes < BYTES / LAYERS {
            if in_folder == 0 {
                folder += 1;
                in_folder = 1 + chance.below(20);
                if folder % 40 == 1 {
                    tar = tar.dir(&format!("usr/share/l{}/p{}", layer % 3, folder / 40), 0o755);
                }
                tar = tar.dir(&format!("usr/share/l{}/p{}/d{folder}", layer % 3, folder / 40), 0o755);
            }
            in_folder -= 1;
            let name = format!("usr/share/l{}/p{}/d{folder}/file-{layer}-{files}", layer % 3, folder / 40);
            let size = chance.size();
            chance.content(size, &mut data);
            let mode = if files % 7 == 0 { 0o755 } else { 0o644 };
            tar = tar.put(Entry { name: name.as_bytes(), mode, data: &data, ..Entry::default() });
            if files % 50 == 0 {
                tar = tar.symlink(&format!("{name}.link"), "../other");
            }
            if layer >= 3 && files % 200 == 0 {
                tar = tar.file(&format!("usr/share/l0/p0/.wh.d{}", 1 + files % 30), b"");
            }
            bytes += size;
            files += 1;
        }
        layers.push(tar.end());
    }
    (layers, files)
}

/// Verifies the compressed bytes too, as umoci does.
struct Verified {
    inner: File,
    hash: Option<Context>,
    digest: String,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let some = self.inner.read(buffer)?;
        if some > 0 {
            if let Some(hash) = &mut self.hash {
                hash.update(&buffer[..some]);
            }
        } else if let Some(hash) = self.hash.take()
            && hex::encode(hash.finish()) != self.digest
        {
            return Err(io::Error::other("another blob"));
        }
        Ok(some)
    }
}

fn layers(image: &Path, digests: &[String], tars: &[String]) -> Vec<Layer> {
    let one = |(digest, diff_id): (&String, &String)| {
        let hex = digest[7..].to_owned();
        let path = image.join("blobs/sha256").join(&hex);
        let size = path.metadata().map_or(0, |meta| meta.len());
        let open = Box::new(move || {
            let hash = Some(Context::new(&SHA256));
            Ok(Box::new(Verified { inner: File::open(&path)?, hash, digest: hex.clone() }) as Box<dyn Read + Send>)
        });
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
        Layer { media_type, digest: digest.clone(), diff_id: diff_id.clone(), size, open }
    };
    digests.iter().zip(tars).map(one).collect()
}

/// Nothing of the round before is still being written, and the blobs can be read from memory.
fn calm(image: &Path) -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    for entry in std::fs::read_dir(image.join("blobs/sha256"))? {
        io::copy(&mut File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(())
}

fn median(samples: &[Duration]) -> f64 {
    let mut sorted: Vec<_> = samples.iter().map(Duration::as_secs_f64).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> io::Result<()> {
    // Cargo adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut raw = arguments.first().map(File::create).transpose()?;
    let rounds = arguments.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envs/tools");
    let umoci = Command::new(tools).args(["path", "umoci"]).output()?;
    if !umoci.status.success() {
        return Err(io::Error::other("umoci is missing: run envs/tools"));
    }
    let umoci = PathBuf::from(String::from_utf8_lossy(&umoci.stdout).trim());

    let dir = tempfile::tempdir()?;
    let store = dir.path().join("image");
    let (tars, files) = image();
    let digests = layout::layout(&store, &tars);
    let diff_ids: Vec<_> = tars.iter().map(|tar| layout::sha256(tar)).collect();
    drop(tars);
    let layers = layers(&store, &digests, &diff_ids);
    let packed: u64 = layers.iter().map(|layer| layer.size).sum();
    println!("{files} files, {LAYERS} layers, {} MiB, {} MiB compressed", BYTES >> 20, packed >> 20);

    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut settles = Vec::new();
    let names = ["umoci", "overlay", "flat"];
    for round in 0..rounds {
        for turn in 0..names.len() {
            let which = (round + turn) % names.len();
            let target = dir.path().join("target");
            calm(&store)?;
            let began = Instant::now();
            let took;
            if which == 0 {
                let image = format!("{}:latest", store.display());
                let out = Command::new(&umoci).args(["unpack", "--image", &image]).arg(&target).output()?;
                took = began.elapsed();
                if !out.status.success() {
                    return Err(io::Error::other(String::from_utf8_lossy(&out.stderr).into_owned()));
                }
            } else {
                let method = if which == 1 { Method::Overlay } else { Method::Flat };
                let snapshots = Snapshots::open(&target, method, Rights::Root)?;
                let rootfs = snapshots.unpack(&layers, &Limits::default(), &|_| {}).map_err(io::Error::other)?;
                took = began.elapsed();
                drop(rootfs);
                let settling = Instant::now();
                rustix::fs::sync();
                snapshots.settle()?;
                settles.push(settling.elapsed());
                // The thread that the unpacking started has nothing left to do by now, or soon.
                std::thread::sleep(Duration::from_millis(200));
            }
            times[which].push(took);
            if let Some(raw) = &mut raw {
                let seconds = took.as_secs_f64();
                writeln!(raw, r#"{{"round":{round},"what":"{}","seconds":{seconds:.6}}}"#, names[which])?;
            }
            std::fs::remove_dir_all(&target)?;
        }
    }
    let umoci = median(&times[0]);
    for (name, times) in names.iter().zip(&times) {
        println!("{name:8} median {:.3} s, {:.2} of umoci's", median(times), median(times) / umoci);
    }
    println!("reaching the disk afterwards: median {:.3} s", median(&settles));
    Ok(())
}
