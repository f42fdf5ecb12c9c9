//! Owns the compat image: its config, and finding the entrypoint's bytes in its layers without unpacking them.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::{ArtifactForm, looks_like};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Hasher, parse_digest};

/// The largest entrypoint that is taken out of an image, in bytes.
const MAX_ENTRYPOINT_BYTES: u64 = 1 << 30;
/// The most that all layers together may unpack to while the entrypoint is looked for, in bytes.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// The most that an archive may say of one entry besides its header, in bytes.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// The most entries that all layers together may have.
const MAX_ENTRIES: u64 = 2_000_000;

/// The parts of an image config (image spec, "OCI Image Configuration") that decide the form and the command.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ImageConfig {
    /// `wasm`, or a machine's.
    #[serde(default)]
    pub architecture: String,
    /// `wasi`, `wasip1`, `wasip2`, `linux` …
    #[serde(default)]
    pub os: String,
    /// Execution parameters.
    #[serde(default)]
    pub config: Option<Execution>,
    /// Digests of the unpacked layers.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The `config` part.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    /// The command's fixed part.
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    /// Its default arguments, or the whole command where there is no entrypoint.
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    /// `KEY=VALUE` each.
    #[serde(default)]
    pub env: Option<Vec<String>>,
}

/// The `rootfs` part.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RootFs {
    /// The digest of each layer's uncompressed tar, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// The command of a compat image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntrypointFile {
    /// The file in the image, relative to its root.
    pub path: PathBuf,
    /// Arguments after it: the rest of the entrypoint, then the image's default command.
    pub fixed_args: Vec<String>,
    /// The image's default arguments, which a caller's own replace.
    pub default_args: Vec<String>,
    /// The image's environment.
    pub env: Vec<(String, String)>,
}

impl ImageConfig {
    /// Parses the config blob.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidContent`] when it isn't one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::new(ErrorKind::InvalidContent, format!("the image config is malformed: {e}")))
    }

    /// Form 4 or 5.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidContent`] for any other platform.
    pub fn form(&self) -> Result<ArtifactForm> {
        match (self.os.as_str(), self.architecture.as_str()) {
            ("wasi" | "wasip1" | "wasip2", "wasm" | "wasm32") => Ok(ArtifactForm::CompatImage),
            ("linux", _) => Ok(ArtifactForm::LinuxImage),
            (os, arch) => Err(Error::new(
                ErrorKind::InvalidContent,
                format!("the image is for {os}/{arch}, and only WASI and Linux images can run"),
            )),
        }
    }

    /// What to run in a compat image.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidContent`] when there is no command, or it isn't a `.wasm` file inside the image.
    pub fn entrypoint(&self) -> Result<EntrypointFile> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
        let execution = self.config.clone().unwrap_or_default();
        let mut fixed = execution.entrypoint.unwrap_or_default();
        let mut default_args = execution.cmd.unwrap_or_default();
        if fixed.is_empty() {
            fixed = default_args.drain(..1.min(default_args.len())).collect();
        }
        if fixed.is_empty() {
            return Err(invalid("the image names neither an entrypoint nor a command".to_owned()));
        }
        let program = fixed.remove(0);
        if !program.ends_with(".wasm") {
            return Err(invalid(format!("the image's entrypoint `{program}` is not a .wasm file"))
                .hint("set the entrypoint to the Wasm file itself"));
        }
        let path = inside(Path::new(program.trim_start_matches('/')))
            .ok_or_else(|| invalid(format!("the image's entrypoint `{program}` leads out of the image")))?;
        let env = execution
            .env
            .unwrap_or_default()
            .into_iter()
            .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        Ok(EntrypointFile { path, fixed_args: fixed, default_args, env })
    }
}

/// The path without `.` parts, or `None` if any part leads upwards or to the root.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// Finds the bytes of `wanted` in the layers (lowest first), as an overlay of them would show it, and checks each
/// layer's uncompressed bytes against its diff ID. Nothing is written to disk; a layer is read as a stream.
///
/// # Errors
/// [`ErrorKind::InvalidContent`] for a malformed or hostile archive (paths that lead out, links in place of the
/// entrypoint, a bomb) and when the file isn't there; [`ErrorKind::Refused`] when a diff ID doesn't match;
/// [`ErrorKind::Storage`] when a layer can't be read.
pub fn extract_entrypoint<R: Read>(
    wanted: &Path,
    diff_ids: &[String],
    layers: Vec<(Descriptor, R)>,
) -> Result<Vec<u8>> {
    let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
    if diff_ids.len() != layers.len() {
        return Err(invalid(format!("the image lists {} layers but {} diff IDs", layers.len(), diff_ids.len())));
    }
    let mut budget = Budget { bytes: MAX_UNPACKED_BYTES, entries: MAX_ENTRIES };
    let mut found: Option<Vec<u8>> = None;
    for ((descriptor, reader), diff_id) in layers.into_iter().zip(diff_ids) {
        let diff_id = parse_digest(diff_id)
            .map_err(|_| invalid(format!("the image config's diff ID `{diff_id}` is not a digest")))?;
        let name = descriptor.digest().to_string();
        match scan_layer(wanted, &descriptor, reader, &diff_id, &mut budget).map_err(|e| {
            e.attempted(format_args!("read layer {name}"))
                .hint("do not unpack it; ask who published it for a new build")
        })? {
            Seen::Nothing => {}
            Seen::File(bytes) => found = Some(bytes),
            Seen::Removed => found = None,
        }
    }
    let bytes = found.ok_or_else(|| {
        invalid(format!("the entrypoint /{} is in none of the image's layers", wanted.display()))
            .hint("check the image's ENTRYPOINT and what was copied into it")
    })?;
    if bytes.starts_with(super::WASM_MAGIC) {
        Ok(bytes)
    } else {
        Err(invalid(format!("the entrypoint /{} is not Wasm: it looks like {}", wanted.display(), looks_like(&bytes))))
    }
}

struct Budget {
    bytes: u64,
    entries: u64,
}

enum Seen {
    Nothing,
    File(Vec<u8>),
    Removed,
}

/// Counts and hashes what passes through, and stops at the budget.
struct Metered<'a, R> {
    inner: R,
    hasher: Hasher,
    budget: &'a mut Budget,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.budget.bytes = self.budget.bytes.checked_sub(count as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the layers unpack to more than {MAX_UNPACKED_BYTES} bytes"),
            )
        })?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

fn decompressed<'r, R: Read + 'r>(media_type: &str, reader: R) -> Result<Box<dyn Read + 'r>> {
    // Docker's `…tar.gzip` and OCI's `…tar+gzip` both end in the compression's name.
    if media_type.ends_with("gzip") {
        Ok(Box::new(flate2::read::MultiGzDecoder::new(reader)))
    } else if media_type.ends_with("zstd") {
        let decoder = zstd::stream::read::Decoder::new(reader).map_err(|e| {
            Error::new(ErrorKind::InvalidContent, format!("the layer's zstd stream can't be opened: {e}"))
        })?;
        Ok(Box::new(decoder))
    } else if media_type.ends_with("tar") {
        Ok(Box::new(reader))
    } else {
        Err(Error::new(ErrorKind::InvalidContent, format!("a layer of type {media_type} can't be unpacked")))
    }
}

/// What the entries before one say of it: GNU's long names, and the records of pax (POSIX.1-2024, pax, "pax Header Block").
#[derive(Default)]
struct Extended {
    path: Option<PathBuf>,
    link: Option<PathBuf>,
}

impl Extended {
    /// Whether the entry is about the next one.
    fn takes<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<bool> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
        let kind = entry.header().entry_type();
        if kind.is_gnu_sparse() {
            return Err(invalid("the archive has a sparse file, as no Wasm is".to_owned()));
        }
        if !(kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions()) {
            return Ok(kind.is_pax_global_extensions());
        }
        if entry.size() > MAX_EXTENSION_BYTES {
            return Err(invalid(format!(
                "the archive says of one entry {} bytes; at most {MAX_EXTENSION_BYTES} are read",
                entry.size()
            )));
        }
        let unreadable =
            |e: io::Error| Error::new(ErrorKind::InvalidContent, format!("the archive can't be read: {e}"));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(unreadable)?;
        let path = |bytes: &[u8]| {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            PathBuf::from(OsStr::from_bytes(bytes.get(..end).unwrap_or_default()))
        };
        if kind.is_gnu_longname() {
            self.path = Some(path(&bytes));
        } else if kind.is_gnu_longlink() {
            self.link = Some(path(&bytes));
        } else {
            for record in tar::PaxExtensions::new(&bytes) {
                let record = record.map_err(unreadable)?;
                match record.key_bytes() {
                    b"path" => self.path = Some(path(record.value_bytes())),
                    b"linkpath" => self.link = Some(path(record.value_bytes())),
                    // Only needed for more than 8 GiB, or for what is sparse.
                    b"size" | b"GNU.sparse.major" => {
                        return Err(invalid("the archive has a file of a size that no Wasm has".to_owned()));
                    }
                    _ => {}
                }
            }
        }
        Ok(true)
    }
}

fn scan_layer<R: Read>(
    wanted: &Path,
    descriptor: &Descriptor,
    reader: R,
    diff_id: &Digest,
    budget: &mut Budget,
) -> Result<Seen> {
    let unreadable = |e: io::Error| Error::new(ErrorKind::InvalidContent, format!("the archive can't be read: {e}"));
    let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
    let stream = decompressed(descriptor.media_type().as_ref(), io::BufReader::with_capacity(256 << 10, reader))?;
    let mut entries_left = budget.entries;
    let mut metered = Metered { inner: stream, hasher: Hasher::for_digest(diff_id)?, budget };
    let mut seen = Seen::Nothing;
    {
        let mut archive = tar::Archive::new(&mut metered);
        let mut extended = Extended::default();
        // Raw: else the library reads names of any length into memory.
        for entry in archive.entries().map_err(unreadable)?.raw(true) {
            let mut entry = entry.map_err(unreadable)?;
            if extended.takes(&mut entry)? {
                continue;
            }
            let Extended { path: long_path, link: long_link } = std::mem::take(&mut extended);
            entries_left = entries_left
                .checked_sub(1)
                .ok_or_else(|| invalid(format!("the layers have more than {MAX_ENTRIES} entries")))?;
            let raw = match long_path {
                Some(path) => path,
                None => entry.path().map_err(unreadable)?.into_owned(),
            };
            let path = inside(&raw).ok_or_else(|| {
                invalid(format!("the archive has an entry that leads out of the image: `{}`", raw.display()))
            })?;
            let kind = entry.header().entry_type();
            if kind.is_hard_link() || kind.is_symlink() {
                let target = match long_link {
                    Some(target) => target,
                    None => entry.link_name().map_err(unreadable)?.unwrap_or_default().into_owned(),
                };
                if kind.is_hard_link() && inside(&target).is_none() {
                    return Err(invalid(format!(
                        "the archive has a hard link that leads out of the image: `{}` → `{}`",
                        path.display(),
                        target.display()
                    )));
                }
                if path == wanted {
                    return Err(invalid(format!(
                        "the entrypoint /{} is a link to `{}`; only a regular file is run",
                        wanted.display(),
                        target.display()
                    ))
                    .hint("set the image's entrypoint to the file itself"));
                }
                continue;
            }
            if path == wanted && kind.is_file() {
                if entry.size() > MAX_ENTRYPOINT_BYTES {
                    return Err(invalid(format!(
                        "the entrypoint has {} bytes; at most {MAX_ENTRYPOINT_BYTES} are accepted",
                        entry.size()
                    )));
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(unreadable)?;
                seen = Seen::File(bytes);
            } else if whites_out(&path, wanted) && !matches!(seen, Seen::File(_)) {
                seen = Seen::Removed;
            }
        }
    }
    // The diff ID covers the whole stream, the padding after the archive's end too.
    io::copy(&mut metered, &mut io::sink()).map_err(unreadable)?;
    let found = metered.hasher.finish();
    budget.entries = entries_left;
    if found == *diff_id {
        Ok(seen)
    } else {
        Err(Error::new(
            ErrorKind::Refused,
            format!("the layer unpacks to {found}, but the image config says {diff_id}"),
        )
        .hint("the image was put together wrongly or altered; build and push it again"))
    }
}

/// Whether an entry of this layer hides `wanted` of the layers below (image spec, "Whiteouts").
fn whites_out(entry: &Path, wanted: &Path) -> bool {
    let Some(name) = entry.file_name().and_then(|n| n.to_str()) else { return false };
    let folder = entry.parent().unwrap_or_else(|| Path::new(""));
    match name.strip_prefix(".wh.") {
        Some(".wh..opq") => wanted != folder && wanted.starts_with(folder),
        Some(hidden) => wanted.starts_with(folder.join(hidden)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::oci::{MediaType, sha256};

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    enum Item<'a> {
        File(&'a str, &'a [u8]),
        Link(tar::EntryType, &'a str, &'a str),
    }

    fn layer(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for item in items {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            // Written raw: the crate's own setters refuse what these tests need.
            let set = |header: &mut tar::Header, name: &str| {
                header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            };
            match item {
                Item::File(name, bytes) => {
                    set(&mut header, name);
                    header.set_size(bytes.len() as u64);
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_cksum();
                    builder.append(&header, *bytes).expect("append");
                }
                Item::Link(kind, name, target) => {
                    set(&mut header, name);
                    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
                    header.set_size(0);
                    header.set_entry_type(*kind);
                    header.set_cksum();
                    builder.append(&header, io::empty()).expect("append");
                }
            }
        }
        builder.into_inner().expect("tar")
    }

    fn extract(layers: &[Vec<u8>]) -> Result<Vec<u8>> {
        let ids: Vec<String> = layers.iter().map(|l| sha256(l).to_string()).collect();
        let parts = layers
            .iter()
            .map(|l| {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(l).expect("gzip");
                let bytes = gz.finish().expect("gzip");
                let descriptor = Descriptor::new(MediaType::ImageLayerGzip, bytes.len() as u64, sha256(&bytes));
                (descriptor, io::Cursor::new(bytes))
            })
            .collect();
        extract_entrypoint(Path::new("app.wasm"), &ids, parts)
    }

    /// An entry that says something of the next one.
    fn extension(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        let mut all = header.as_bytes().to_vec();
        all.extend(bytes);
        all.resize(all.len().next_multiple_of(512), 0);
        all
    }

    #[test]
    fn long_names_count_and_none_is_read_without_end() -> Result<()> {
        let file = layer(&[Item::File("cut-off", WASM)]);
        let pax = |record: &str| {
            let line = format!("{} {record}\n", record.len() + 4);
            extension(b'x', line.as_bytes())
        };
        for before in [extension(b'L', b"app.wasm\0"), pax("path=app.wasm")] {
            assert_eq!(extract(&[[before, file.clone()].concat()])?, WASM);
        }
        let last = [extension(b'g', b"13 comment=x\n"), layer(&[Item::File("app.wasm", WASM)])].concat();
        assert_eq!(extract(&[last])?, WASM);
        for (before, why) in [
            (extension(b'L', &vec![b'a'; 2 << 20]), "at most"),
            (extension(b'x', &vec![b'a'; 2 << 20]), "at most"),
            (pax("size=4"), "a size that no Wasm has"),
            (extension(b'S', b""), "sparse"),
            (extension(b'L', b"../app.wasm\0"), "leads out"),
        ] {
            let refused = extract(&[[before, file.clone()].concat()]).expect_err(why);
            assert!(refused.to_string().contains(why), "{refused}");
        }
        Ok(())
    }

    #[test]
    fn the_topmost_copy_counts_and_whiteouts_hide() -> Result<()> {
        let low = layer(&[Item::File("app.wasm", b"\0asmold")]);
        assert_eq!(extract(&[low.clone(), layer(&[Item::File("./app.wasm", WASM)])])?, WASM);
        for hidden in [layer(&[Item::File(".wh.app.wasm", b"")]), layer(&[Item::File(".wh..wh..opq", b"")])] {
            let error = extract(&[low.clone(), hidden]).map_err(|e| e.to_string());
            assert!(error.as_ref().is_err_and(|e| e.contains("none of the image's layers")), "{error:?}");
        }
        Ok(())
    }

    #[test]
    fn archives_that_lead_out_are_refused_with_the_entry() {
        for (items, words) in [
            (vec![Item::File("../evil", b"x")], "../evil"),
            (vec![Item::File("a/../../evil", b"x")], "leads out"),
            (vec![Item::File("/etc/passwd", b"x")], "/etc/passwd"),
            (vec![Item::Link(tar::EntryType::Link, "app.wasm", "../../etc/passwd")], "hard link"),
            (vec![Item::Link(tar::EntryType::Symlink, "app.wasm", "/etc/passwd")], "is a link"),
            (vec![Item::File("app.wasm", b"\x7fELF...")], "ELF"),
        ] {
            let error = extract(&[layer(&items)]).map_err(|e| (e.kind(), e.to_string()));
            assert!(
                error.as_ref().is_err_and(|(k, e)| *k == ErrorKind::InvalidContent && e.contains(words)),
                "{words}: {error:?}"
            );
        }
    }

    #[test]
    fn a_layer_that_is_not_its_diff_id_is_refused() {
        let bytes = layer(&[Item::File("app.wasm", WASM)]);
        let descriptor = Descriptor::new(MediaType::ImageLayer, bytes.len() as u64, sha256(&bytes));
        let wrong = vec![sha256(b"other").to_string()];
        let error = extract_entrypoint(Path::new("app.wasm"), &wrong, vec![(descriptor, io::Cursor::new(bytes))]);
        assert_eq!(error.map_err(|e| e.kind()), Err(ErrorKind::Refused));
    }

    #[test]
    fn entrypoints_follow_docker_rules() -> Result<()> {
        let parse = |text: &str| ImageConfig::parse(text.as_bytes()).and_then(|c| c.entrypoint());
        let both = parse(r#"{"config":{"Entrypoint":["/bin/app.wasm","-v"],"Cmd":["a"],"Env":["K=V=W"]}}"#)?;
        assert_eq!(
            (both.path.as_path(), both.fixed_args.len(), both.default_args.len()),
            (Path::new("bin/app.wasm"), 1, 1)
        );
        assert_eq!(both.env, [("K".to_owned(), "V=W".to_owned())]);
        let cmd = parse(r#"{"config":{"Cmd":["app.wasm","a"]}}"#)?;
        assert_eq!((cmd.path.as_path(), cmd.default_args), (Path::new("app.wasm"), vec!["a".to_owned()]));
        for bad in [r#"{}"#, r#"{"config":{"Entrypoint":["/bin/sh"]}}"#, r#"{"config":{"Entrypoint":["../x.wasm"]}}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
