//! Owns the layers to unpack: archives as they come, and such as a stranger would write on purpose; and the look afterwards,
//! whether all of them stayed in their folder.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use vyr_oci_fallback::snapshot::{Layer, Method, Rights, Snapshots};
use vyr_oci_fallback::unpack::Limits;

use crate::oci::sha256;

/// How much an input may come to, so that one doesn't take a second.
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 200, held: 1 << 20 };
const SECRET: &[u8] = b"nobody's to read or change";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// The first byte says how the rest is read: its lowest bit is the method, the next one the rights, and above them: one
/// archive as it is, one compressed by gzip or zstd, or two archives made of the rest.
pub(super) fn layer(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else { return };
    let method = if how & 1 == 0 { Method::Overlay } else { Method::Flat };
    // Whoever isn't root can't be root's unpacker.
    let root = how & 2 == 0 && rustix::process::geteuid().is_root();
    let rights = if root { Rights::Root } else { Rights::User };
    let scratch = super::scratch();
    let outside = Outside::new(scratch.path());
    let layers = match (how >> 2) % 4 {
        0 => vec![archive(summed(rest), TAR)],
        1 => vec![archive(rest.to_vec(), &format!("{TAR}+gzip"))],
        2 => vec![archive(rest.to_vec(), &format!("{TAR}+zstd"))],
        _ => {
            let (first, second) = rest.split_at(rest.len() / 2);
            [first, second].map(|part| archive(made(part, &outside), TAR)).into()
        }
    };
    let place = scratch.path().join("snapshots");
    let unpacked = Snapshots::open(&place, method, rights).map(|snapshots| snapshots.unpack(&layers, &LIMITS, &|_| {}));
    outside.is_untouched(scratch.path());
    let Ok(unpacked) = unpacked else { return };
    let roots: Vec<PathBuf> = unpacked.as_ref().map(|rootfs| rootfs.layers.clone()).unwrap_or_default();
    for (path, found) in walk(&place) {
        assert!(found.ino() != outside.secret || found.dev() != outside.device, "{} is the secret", path.display());
        let in_layer = roots.iter().any(|root| path.starts_with(root));
        let parts: Vec<String> = path
            .strip_prefix(&place)
            .map(|below| below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        let kept = match parts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [_] | [_, "tmp"] => true,
            [_, hex] => is_hex(hex),
            // A layer that is whole stays when one above it is refused.
            [_, hex, "fs" | "lock" | "durable", ..] => is_hex(hex),
            // The claim is a file of its own that lives as long as its maker.
            [_, "tmp", claim] => claim.strip_suffix(".claim").is_some_and(is_hex),
            _ => false,
        };
        assert!(in_layer || kept, "{} was left", path.display());
    }
    if let Ok(rootfs) = &unpacked {
        for path in ["l", "a", "a/b", "etc/passwd", "../secret", "/", "x/../../secret"] {
            let read = rootfs.read(path, 1 << 16);
            assert!(!read.is_ok_and(|content| content.as_deref() == Some(SECRET)), "{path} shows the secret");
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn archive(bytes: Vec<u8>, media_type: &str) -> Layer {
    let diff_id = sha256(&bytes).to_string();
    let size = bytes.len() as u64;
    let open = Box::new(move || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>));
    Layer { media_type: media_type.to_owned(), digest: diff_id.clone(), diff_id, size, open }
}

/// What must not be touched: a folder beside the one that is unpacked into.
struct Outside {
    folder: PathBuf,
    device: u64,
    secret: u64,
}

impl Outside {
    fn new(scratch: &Path) -> Self {
        let folder = scratch.join("outside");
        let secret = folder.join("secret");
        let made = fs::create_dir(&folder).and_then(|()| fs::write(&secret, SECRET)).and_then(|()| secret.metadata());
        let found = made.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        Self { folder, device: found.dev(), secret: found.ino() }
    }

    fn is_untouched(&self, scratch: &Path) {
        let names = |folder: &Path| -> Vec<String> {
            let listed = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
            let mut names: Vec<_> = listed.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.folder), ["secret"], "something landed outside");
        let beside = names(scratch);
        assert!(
            beside.iter().all(|name| matches!(name.as_str(), "outside" | "snapshots")),
            "{beside:?} landed outside"
        );
        let secret = self.folder.join("secret");
        assert_eq!(fs::read(&secret).ok().as_deref(), Some(SECRET), "the secret was changed");
        let found = secret.symlink_metadata().unwrap_or_else(|e| panic!("the secret: {e}"));
        assert_eq!((found.ino(), found.nlink()), (self.secret, 1), "the secret was replaced or linked to");
    }
}

/// All there is below a folder, no link followed.
fn walk(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            // A thread that marks snapshots as being on the disk may be at it.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            }
            found.push((entry.path(), metadata));
        }
    }
    found
}

/// The archive with the sums of its headers put right, as far as it has any: else nearly every changed byte would end there.
fn summed(archive: &[u8]) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512).and_then(|block| <&mut [u8; 512]>::try_from(block).ok()) {
        if block.iter().any(|b| *b != 0) {
            sum(block);
        }
        let digits = block.get(124..136).unwrap_or_default();
        let digits: String = digits.iter().filter(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
        let size = usize::from_str_radix(&digits, 8).unwrap_or(0).min(1 << 20);
        at += 512 + size.next_multiple_of(512);
    }
    bytes
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive whose entries are chosen by the bytes: kinds, names and targets of those that are up to something.
fn made(data: &[u8], outside: &Outside) -> Vec<u8> {
    let absolute = outside.folder.to_string_lossy().into_owned();
    let up = format!("../../../../../../../../../..{absolute}");
    let names = [
        "a",
        "a/b",
        "l",
        "l/secret",
        "l/x",
        "l/..",
        "../secret",
        "../../outside/x",
        "/etc/passwd",
        ".",
        "./",
        "..",
        "a/../../x",
        ".wh.a",
        ".wh..wh..opq",
        "a/.wh..wh..opq",
        "l/.wh.secret",
        ".wh..",
        "a//b/./c",
        "",
        &absolute,
        &up,
        "l/l/l/secret",
    ];
    let targets = [
        "a",
        "..",
        ".",
        "/",
        "l",
        "a/b",
        "../outside",
        &absolute,
        &up,
        "/etc",
        "l/secret",
        "../../outside/secret",
        "",
        "../../../../../outside",
    ];
    let kinds = *b"0051122555000 6341LKxgSV7";
    let mut tar = Vec::new();
    for entry in data.chunks_exact(5).take(40) {
        let &[kind, name, target, mode, size] = entry else { continue };
        let of = |all: &[&str], at: u8| -> String {
            let first = all[usize::from(at) % all.len()];
            // Every fourth is two of them: names that lead through others.
            if at >= 192 { format!("{first}/{}", all[usize::from(at / 2) % all.len()]) } else { first.to_owned() }
        };
        let (name, target) = (of(&names, name), of(&targets, target));
        let kind = kinds[usize::from(kind) % kinds.len()];
        let content: Vec<u8> = match kind {
            b'L' => [name.as_bytes(), b"\0"].concat(),
            b'K' => [target.as_bytes(), b"\0"].concat(),
            b'x' | b'g' => [record("path", &name), record("linkpath", &target)].concat(),
            b'1' | b'2' | b'3' | b'4' | b'5' | b'6' => Vec::new(),
            _ => vec![mode; usize::from(size) * 3],
        };
        let mut block = [0_u8; 512];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            let length = bytes.len().min(most);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, 100, name.as_bytes());
        put(100, 8, format!("{:07o}", u32::from(mode) << 4).as_bytes());
        put(108, 8, b"0000000");
        put(116, 8, b"0000000");
        put(124, 12, format!("{:011o}", content.len()).as_bytes());
        put(136, 12, b"13744364000");
        put(156, 1, &[kind]);
        put(157, 100, target.as_bytes());
        put(257, 8, b"ustar\x0000");
        put(329, 8, format!("{size:07o}").as_bytes());
        put(337, 8, format!("{mode:07o}").as_bytes());
        sum(&mut block);
        tar.extend(block);
        tar.extend(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// A record of an extended header.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}
