//! Owns the list of bad images.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::archives::{END, Raw, file, many};
use super::{Bad, outside};
use crate::case::{Compression, Types};
use crate::kit::Kit;
use crate::make::manifest;
use crate::oci::{Hashing, Layout, architecture, layer_type};

/// Where an image is put together.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    layout: Layout,
    kit: &'a Kit,
}

/// A layer's descriptor and its diff id.
type Layer = (Value, String);

impl<'a> Bench<'a> {
    pub(super) fn new(made: &Path, kit: &'a Kit) -> Result<Self> {
        Ok(Self { layout: Layout::create(made)?, kit })
    }

    /// A layer of these bytes, as a plain tar.
    fn layer(&self, tar: &[u8]) -> Result<Layer> {
        let kind = layer_type(Types::Oci, Compression::None);
        let descriptor = self.layout.blob(&kind, |out| Ok(out.write_all(tar)?))?;
        Ok((descriptor, format!("sha256:{}", hex::encode(Sha256::digest(tar)))))
    }

    fn busybox(&self) -> Result<Layer> {
        let program = std::fs::read(self.kit.path("busybox")?)?;
        let mut tar = file(b"bin/busybox", &program);
        tar.extend(Raw::new(b'2', b"bin/sh", 0).target(b"busybox").done());
        tar.extend(END);
        self.layer(&tar)
    }

    /// A layer of these entries.
    fn entries(&self, entries: &[Vec<u8>]) -> Result<Layer> {
        self.layer(&[&entries.concat()[..], &END].concat())
    }

    fn name(&self, run: &Value, layers: &[Layer]) -> Result<()> {
        let descriptor = manifest(&self.layout, Types::Oci, architecture(), run, layers)?;
        self.layout.name(descriptor)
    }

    /// busybox, a layer of these entries over it, and a shell command.
    fn with(&self, entries: &[Vec<u8>], command: &str) -> Result<()> {
        self.name(&shell(command), &[self.busybox()?, self.entries(entries)?])
    }

    /// The same with a second layer.
    fn with_two(&self, lower: &[Vec<u8>], upper: &[Vec<u8>], command: &str) -> Result<()> {
        self.name(&shell(command), &[self.busybox()?, self.entries(lower)?, self.entries(upper)?])
    }
}

fn shell(command: &str) -> Value {
    json!({ "Cmd": ["/bin/sh", "-c", command] })
}

fn link(name: &str, target: &Path) -> Vec<u8> {
    Raw::new(b'2', name.as_bytes(), 0).target(target.as_os_str().as_encoded_bytes()).done().to_vec()
}

fn outside_folder() -> PathBuf {
    outside().parent().unwrap_or(Path::new("/")).to_owned()
}

fn outside_name() -> String {
    outside().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// More folders than any root lies deep, and few enough for a header's hundred bytes.
const UPS: usize = 14;

/// From any root up to the host's, and down to the file.
fn climbing() -> Vec<u8> {
    let up = "../".repeat(UPS);
    file(format!("{up}{}", outside().display().to_string().trim_start_matches('/')).as_bytes(), b"escaped")
}

const fn bad(
    name: &'static str,
    tries: &'static str,
    exits: &'static [i32],
    words: &'static str,
    make: fn(&Bench<'_>) -> Result<()>,
) -> Bad {
    Bad { name, tries, make, options: &[], exits, words, seconds: 60 }
}

const FAILED: &[i32] = &[125];
const REFUSED: &[i32] = &[125, 126];
/// Docker's codes of programs that can't be executed, and VYR's of failing itself.
const NO_PROGRAM: &[i32] = &[125, 126, 127];

/// All of them.
pub(crate) const BAD: &[Bad] = &[
    bad("escape-by-dots", "a name that climbs out of the root", FAILED, "refused", |b| b.with(&[climbing()], "true")),
    bad("escape-by-link", "a link to a folder of the host, and a file through it", &[0], "inside", |b| {
        let through = file(format!("out/{}", outside_name()).as_bytes(), b"escaped");
        b.with(&[link("out", &outside_folder()), through], &format!("cat {} && echo inside", outside().display()))
    }),
    bad("escape-by-link-of-a-lower-layer", "the same in two layers", &[0], "inside", |b| {
        let through = file(format!("out/{}", outside_name()).as_bytes(), b"escaped");
        let command = format!("cat out/{} && echo inside", outside_name());
        b.with_two(&[link("out", &outside_folder())], &[through], &command)
    }),
    bad("escape-by-hard-link", "a hard link to a file of the host", FAILED, "hard link", |b| {
        let name = format!("{}etc/passwd", "../".repeat(UPS));
        b.with(&[Raw::new(b'1', b"stolen", 0).target(name.as_bytes()).done().to_vec()], "cat /stolen")
    }),
    bad("escape-by-whiteout", "a whiteout of the root's parent", FAILED, "refused|whiteout", |b| {
        b.with(&[file(b"a/.wh...", b"")], "true")
    }),
    bad("escape-by-entrypoint", "a program that is a link out of the root", NO_PROGRAM, "/program", |b| {
        let entries = [link("program", Path::new("/usr/bin/env"))];
        b.name(&json!({ "Cmd": ["/program"] }), &[b.entries(&entries)?])
    }),
    bad(
        "disk-device",
        "the host's disk as a device of a layer",
        &[0, 125],
        "denied|not permitted|refused|no such",
        |b| {
            let disk = Raw::new(b'4', b"disk", 0).device(254, 0).done().to_vec();
            let memory = Raw::new(b'3', b"mem", 0).device(1, 1).done().to_vec();
            b.with(
                &[disk, memory],
                "for d in /disk /mem; do head -c 1 $d > /dev/null && echo READ $d && exit 1; done; exit 0",
            )
        },
    ),
    Bad {
        seconds: 240,
        ..bad("ten-million-entries", "more files than a disk has inodes, in some megabytes", FAILED, "limit", |b| {
            let kind = layer_type(Types::Oci, Compression::Zstd);
            let mut id = String::new();
            let descriptor = b.layout.blob(&kind, |out| {
                let mut hashing = Hashing::new(zstd::Encoder::new(out, 1)?);
                many(&mut hashing, 10_000_000)?;
                hashing.write_all(&END)?;
                let (digest, _, encoder) = hashing.end();
                id = digest;
                encoder.finish()?;
                Ok(())
            })?;
            b.name(&shell("true"), &[b.busybox()?, (descriptor, id)])
        })
    },
    bad("tebibyte-of-hole", "a sparse file of 1 TiB", FAILED, "limit", |b| {
        b.with(&[Raw::new(b'S', b"hole", 0).hole(1 << 40).done().to_vec()], "true")
    }),
    bad("hundred-gibibytes-of-zeros", "100 GiB in some kilobytes", FAILED, "limit", |b| {
        // A frame of zeros again and again; nobody gets far enough to see that the diff id is a lie.
        let kind = layer_type(Types::Oci, Compression::Zstd);
        let frame = zstd::encode_all(&vec![0; 256 << 20][..], 3)?;
        let descriptor = b.layout.blob(&kind, |out| {
            out.write_all(&zstd::encode_all(&Raw::new(b'0', b"zeros", 100 << 30).done()[..], 1)?)?;
            for _ in 0..400 {
                out.write_all(&frame)?;
            }
            Ok(())
        })?;
        b.name(&shell("true"), &[b.busybox()?, (descriptor, format!("sha256:{}", "0".repeat(64)))])
    }),
    bad("ten-thousand-folders-deep", "a path that no call takes", FAILED, "refused|deep|long", |b| {
        let mut tar = tar::Builder::new(Vec::new());
        let path = "d/".repeat(10_000);
        tar.append_data(&mut crate::entries::header(tar::EntryType::Directory, 0o755, 0), path, std::io::empty())?;
        b.name(&shell("true"), &[b.busybox()?, b.layer(&tar.into_inner()?)?])
    }),
    bad("wrong-diff-id", "a layer that isn't the one that the config names", REFUSED, "config says|diff", |b| {
        let (descriptor, _) = b.entries(&[file(b"x", b"x")])?;
        b.name(&shell("true"), &[b.busybox()?, (descriptor, format!("sha256:{}", "a".repeat(64)))])
    }),
    bad("fewer-diff-ids", "a config that names fewer layers than the manifest", REFUSED, "layer|diff", |b| {
        let busybox = b.busybox()?;
        let config = json!({ "architecture": architecture(), "os": "linux", "config": shell("true"),
            "rootfs": { "type": "layers", "diff_ids": [] } });
        let config = b.layout.json(crate::oci::CONFIG, &config)?;
        let text =
            json!({ "schemaVersion": 2, "mediaType": crate::oci::MANIFEST, "config": config, "layers": [busybox.0] });
        b.layout.name(b.layout.json(crate::oci::MANIFEST, &text)?)
    }),
    bad("changed-blob", "a layer whose bytes aren't its digest's", REFUSED, "digest|sha256", |b| {
        // Of no other case: what the store has verified already is not read again.
        let (mut descriptor, id) = b.entries(&[file(b"x", b"as it was")])?;
        let (other, _) = b.entries(&[file(b"x", b"changed")])?;
        let path = |d: &Value| crate::oci::path_of(b.layout.root(), d);
        std::fs::copy(path(&other)?, path(&descriptor)?)?;
        descriptor["size"] = other["size"].clone();
        b.name(&shell("true"), &[b.busybox()?, (descriptor, id)])
    }),
    bad("cut-layer", "a gzip layer that ends in the middle", FAILED, "layer|unexpected end|incomplete|corrupt", |b| {
        let tar = [&file(b"x", &[7; 100_000])[..], &END].concat();
        let packed = crate::oci::compress(&tar, Compression::Gzip)?;
        let kind = layer_type(Types::Oci, Compression::Gzip);
        let half = b.layout.blob(&kind, |out| Ok(out.write_all(&packed[..packed.len() / 2])?))?;
        b.name(&shell("true"), &[b.busybox()?, (half, format!("sha256:{}", hex::encode(Sha256::digest(&tar))))])
    }),
    bad("no-command", "a config without a command", FAILED, "neither an entrypoint nor a command", |b| {
        b.name(&json!({}), &[b.busybox()?])
    }),
    bad("unknown-user", "a user that the image doesn't have", FAILED, "no user .*nobody-here", |b| {
        b.name(&json!({ "Cmd": ["/bin/busybox", "id"], "User": "nobody-here" }), &[b.busybox()?])
    }),
    bad("unknown-group", "a group that the image doesn't have", FAILED, "no group .*nobodies", |b| {
        b.name(&json!({ "Cmd": ["/bin/busybox", "id"], "User": "0:nobodies" }), &[b.busybox()?])
    }),
    bad("another-architecture", "an image for another processor", FAILED, "s390x", |b| {
        let descriptor = manifest(&b.layout, Types::Oci, "s390x", &shell("true"), &[b.busybox()?])?;
        b.layout.name(descriptor)
    }),
    bad("missing-program", "a command that isn't in the image", NO_PROGRAM, "/no/such", |b| {
        b.name(&json!({ "Cmd": ["/no/such"] }), &[b.busybox()?])
    }),
    bad(
        "program-without-a-loader",
        "a script whose interpreter isn't there",
        NO_PROGRAM,
        "/script|/no/interpreter",
        |b| {
            let program = file(b"script", b"#!/no/interpreter\n");
            b.name(&json!({ "Cmd": ["/script"] }), &[b.entries(&[program])?])
        },
    ),
    Bad {
        options: &["--timeout", "2s"],
        ..bad("ignores-the-stop-signal", "a first process that won't end", &[124], "wall clock", |b| {
            b.name(&shell("trap '' TERM INT HUP; while true; do sleep 1; done"), &[b.busybox()?])
        })
    },
    Bad {
        seconds: 120,
        ..bad("fills-the-disk", "writes until nothing fits", &[0, 1], "no space|quota", |b| {
            b.name(&shell("dd if=/dev/zero of=/tmp/x bs=1M count=4096"), &[b.busybox()?])
        })
    },
    Bad {
        options: &["--timeout", "5s"],
        ..bad("fork-bomb", "as many processes as it gets", &[1, 2, 124], "fork|time", |b| {
            b.name(&shell("f() { f | f & }; while true; do f; done"), &[b.busybox()?])
        })
    },
    Bad {
        options: &["--memory", "64MiB", "--timeout", "30s"],
        ..bad("takes-all-memory", "as much memory as it gets", &[125, 137], "memory", |b| {
            let hog = "BEGIN { s = \"x\"; while (1) { s = s s; a[length(s)] = s } }";
            b.name(&json!({ "Cmd": ["/bin/busybox", "awk", hog] }), &[b.busybox()?])
        })
    },
    Bad {
        options: &["--timeout", "10s"],
        ..bad("looks-for-the-host", "reads what of the host must not be seen", &[0], "nothing of the host", |b| {
            let command = "for f in /proc/kcore /proc/keys /sys/firmware/acpi/tables/DSDT; do head -c 1 $f 2>/dev/null | grep -q . && echo READ $f && exit 1; done; \
                echo b > /proc/sysrq-trigger 2>/dev/null && exit 1; echo x > /proc/sys/kernel/hostname 2>/dev/null && exit 1; \
                mount -t tmpfs x /mnt 2>/dev/null && exit 1; ls /proc/1/root/../../home 2>/dev/null | grep -q . && exit 1; echo nothing of the host";
            b.name(&shell(command), &[b.busybox()?])
        })
    },
];

/// The names are those of rows: a double would count once.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single() {
        let mut names: Vec<_> = BAD.iter().map(|bad| bad.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BAD.len());
    }
}
