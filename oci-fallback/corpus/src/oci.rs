//! Owns the writing of OCI layouts: blobs, compression, media types, and the index that names the image.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::case::{Compression, Types};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The tag of every image in its layout.
pub(crate) const TAG: &str = "image";

/// The media type of a layer.
pub(crate) fn layer_type(types: Types, compression: Compression) -> String {
    let (base, suffix) = match types {
        Types::Oci => ("application/vnd.oci.image.layer.v1.tar", ["+gzip", "+zstd"]),
        Types::Docker | Types::Mixed => ("application/vnd.docker.image.rootfs.diff.tar", [".gzip", ".zstd"]),
    };
    match compression {
        Compression::Gzip | Compression::Multi => format!("{base}{}", suffix[0]),
        Compression::Zstd => format!("{base}{}", suffix[1]),
        Compression::None => base.to_owned(),
    }
}

/// Passes bytes on and hashes them.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// `sha256:…`, the size, and what was written to.
    pub(crate) fn end(self) -> (String, u64, W) {
        (format!("sha256:{}", hex::encode(self.hasher.finalize())), self.size, self.inner)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Each member of a gzip file in several.
const MEMBER: u64 = 1 << 20;

/// Copies a stream compressed.
pub(crate) fn copy_compressed(mut from: impl Read, to: &mut impl Write, compression: Compression) -> Result<()> {
    let level = flate2::Compression::new(6);
    match compression {
        Compression::None => {
            io::copy(&mut from, to)?;
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(to, level);
            io::copy(&mut from, &mut encoder)?;
            encoder.finish()?;
        }
        Compression::Zstd => zstd::stream::copy_encode(from, to, 6)?,
        Compression::Multi => {
            let mut from = BufReader::new(from);
            loop {
                let mut encoder = flate2::write::GzEncoder::new(&mut *to, level);
                let copied = io::copy(&mut from.by_ref().take(MEMBER), &mut encoder)?;
                encoder.finish()?;
                if copied < MEMBER {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Bytes compressed.
pub(crate) fn compress(bytes: &[u8], compression: Compression) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    copy_compressed(bytes, &mut out, compression)?;
    Ok(out)
}

/// A layout folder that is being written.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn create(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root.join("blobs/sha256"))?;
        std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a blob as `write` gives it; its descriptor.
    pub(crate) fn blob(
        &self,
        media_type: &str,
        write: impl FnOnce(&mut Hashing<tempfile::NamedTempFile>) -> Result<()>,
    ) -> Result<Value> {
        let folder = self.root.join("blobs/sha256");
        let mut hashing = Hashing::new(tempfile::NamedTempFile::new_in(&folder)?);
        write(&mut hashing)?;
        let (digest, size, file) = hashing.end();
        let path = folder.join(digest.trim_start_matches("sha256:"));
        file.persist(&path).with_context(|| path.display().to_string())?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    }

    pub(crate) fn json(&self, media_type: &str, value: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(value)?;
        self.blob(media_type, |out| Ok(out.write_all(&bytes)?))
    }

    /// Names the one image of the layout.
    pub(crate) fn name(&self, mut descriptor: Value) -> Result<()> {
        descriptor["annotations"] = json!({ REF_NAME: TAG });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor] });
        Ok(std::fs::write(self.root.join("index.json"), serde_json::to_vec(&index)?)?)
    }
}

/// The descriptor of the image in a layout.
pub(crate) fn named(layout: &Path) -> Result<Value> {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let entries = index["manifests"].as_array().context("an index lists manifests")?;
    let found = entries.iter().find(|entry| entry["annotations"][REF_NAME] == TAG).or(entries.first());
    found.cloned().context("the layout is empty")
}

/// Where the blob of a descriptor lies in a layout.
pub(crate) fn path_of(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("a descriptor has a digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

/// A blob of a layout that is JSON.
pub(crate) fn read(layout: &Path, descriptor: &Value) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path_of(layout, descriptor)?)?)?)
}

/// The name of this machine's architecture in images.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_several_and_read_as_one() {
        let plain: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let packed = compress(&plain, Compression::Multi).unwrap();
        let members = packed.windows(3).filter(|bytes| *bytes == [0x1f, 0x8b, 8]).count();
        assert!(members >= 3, "{members}");
        let mut back = Vec::new();
        flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut back).unwrap();
        assert!(back == plain);
        let mut first = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut first).unwrap();
        assert_eq!(first.len(), 1 << 20);
    }
}
