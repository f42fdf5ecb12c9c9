//! Owns archives made by hand, also such as no tool would write, and the image layouts they are put in.

use std::io::Write;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};

/// A tar archive that is being made.
#[derive(Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

/// One header's fields.
pub(super) struct Entry<'a> {
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) mtime: u64,
    /// What the header says, if not the length of the data.
    pub(super) size: Option<u64>,
    pub(super) device: (u32, u32),
    pub(super) data: &'a [u8],
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: b'0',
            name: b"",
            target: b"",
            mode: 0o644,
            owner: (0, 0),
            mtime: 1_600_000_000,
            size: None,
            device: (0, 0),
            data: b"",
        }
    }
}

/// A header block with its sum.
pub(super) fn header(entry: &Entry<'_>) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &entry.name[..entry.name.len().min(100)]);
    put(100, format!("{:07o}", entry.mode).as_bytes());
    put(108, format!("{:07o}", entry.owner.0).as_bytes());
    put(116, format!("{:07o}", entry.owner.1).as_bytes());
    let size = entry.size.unwrap_or(entry.data.len() as u64);
    if size < 1 << 33 {
        put(124, format!("{size:011o}").as_bytes());
    } else {
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, format!("{:011o}", entry.mtime).as_bytes());
    put(148, b"        ");
    put(156, &[entry.kind]);
    put(157, &entry.target[..entry.target.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", entry.device.0).as_bytes());
    put(337, format!("{:07o}", entry.device.1).as_bytes());
    sum(&mut block);
    block
}

/// Writes the sum.
pub(super) fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

impl Tar {
    pub(super) fn put(mut self, entry: Entry<'_>) -> Self {
        self.0.extend(header(&entry));
        self.data(entry.data)
    }

    /// Data, padded.
    pub(super) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &[u8]) -> Self {
        self.put(Entry { name: name.as_bytes(), data, ..Entry::default() })
    }

    pub(super) fn dir(self, name: &str, mode: u32) -> Self {
        self.put(Entry { kind: b'5', name: name.as_bytes(), mode, ..Entry::default() })
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        let (name, target) = (name.as_bytes(), target.as_bytes());
        self.put(Entry { kind: b'2', name, target, mode: 0o777, ..Entry::default() })
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.put(Entry { kind: b'1', name: name.as_bytes(), target: target.as_bytes(), ..Entry::default() })
    }

    /// An extended header.
    pub(super) fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend(format!("{length} {key}=").as_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.put(Entry { kind, name: b"pax", data: &data, ..Entry::default() })
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).expect("gzip");
    encoder.finish().expect("gzip")
}

/// Writes an OCI layout with one image, tagged `latest`, whose layers are these archives, compressed with gzip. Gives the
/// layers' digests.
pub(super) fn layout(dir: &Path, layers: &[Vec<u8>]) -> Vec<String> {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a layout");
    let blob = |bytes: &[u8]| {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(&digest[7..]), bytes).expect("a blob");
        digest
    };
    let mut digests = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let packed = gzip(layer);
        digests.push(blob(&packed));
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digests.last(), "size": packed.len(),
        }));
    }
    let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }));
    let config = config.expect("json");
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(&config), "size": config.len(),
        },
        "layers": descriptors,
    }));
    let manifest = manifest.expect("json");
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": blob(&manifest), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "latest"},
        }],
    });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("an index");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout");
    digests
}
