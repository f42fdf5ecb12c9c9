//! Owns what the store needs to know of a manifest: its kind and what it names. The bytes stay as they are.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Result, StoreError};
use crate::oci::{Descriptor, Digest, MAX_DESCRIPTORS, MAX_MANIFEST_BYTES, MediaType, media};

/// The largest size that a descriptor may claim, in bytes: sums of [`MAX_DESCRIPTORS`] of them fit an `i64`.
const MAX_CLAIMED: u64 = 1 << 50;

/// What an edge of the graph leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EdgeKind {
    Config,
    Layer,
    Manifest,
}

impl EdgeKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Layer => "layer",
            Self::Manifest => "manifest",
        }
    }
}

/// The layers that registries needn't have (image spec 1.1, layer.md, "Non-Distributable Layers"), and Docker's.
pub(super) const NOT_DISTRIBUTED: [&str; 5] = [
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) kind: EdgeKind,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: String,
}

impl Edge {
    /// Whether the manifest can be stored without it: children of an index may be absent, and so may layers that must
    /// not be distributed (image spec 1.1, layer.md, "Non-Distributable Layers").
    pub(super) fn may_be_absent(&self) -> bool {
        let is_layer = self.kind == EdgeKind::Layer;
        self.kind == EdgeKind::Manifest || is_layer && NOT_DISTRIBUTED.contains(&self.media_type.as_str())
    }
}

/// A manifest or index, read leniently: what the store doesn't use isn't looked at.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) media_type: String,
    pub(super) artifact_type: Option<String>,
    pub(super) config_media_type: Option<String>,
    pub(super) subject: Option<Digest>,
    /// The size that the subject's descriptor gives, in bytes.
    pub(super) subject_size: u64,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) edges: Vec<Edge>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

/// The parts of a descriptor that matter here (image spec 1.1, descriptor.md). `oci-spec`'s own type refuses platforms
/// that registries hold in practice.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawDescriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Parsed {
    /// Reads the manifest `bytes` whose digest is `digest` (checked by the caller).
    pub(super) fn read(digest: &Digest, bytes: &[u8], said_type: Option<&str>) -> Result<Self> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(StoreError::TooLarge { what: format!("manifest {digest}"), limit: MAX_MANIFEST_BYTES });
        }
        parse(digest, bytes, said_type).map_err(|why| StoreError::Manifest { what: digest.clone(), why })
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        let mut out = Descriptor::new(MediaType::from(self.media_type.as_str()), self.size, self.digest.clone());
        out.set_artifact_type(self.artifact_type.as_deref().map(MediaType::from));
        out
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|e| e.kind == EdgeKind::Manifest)
    }

    pub(super) fn blobs(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|e| e.kind != EdgeKind::Manifest)
    }
}

fn parse(digest: &Digest, bytes: &[u8], said_type: Option<&str>) -> Result<Parsed, String> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if raw.schema_version != 2 {
        return Err(format!("its schemaVersion is {}, and 2 is understood", raw.schema_version));
    }
    let said_type = said_type.map(|t| t.split(';').next().unwrap_or(t).trim()).filter(|t| !t.is_empty());
    let own_type = raw.media_type.as_deref().filter(|t| !t.is_empty());
    if let (Some(own), Some(said)) = (own_type, said_type)
        && own != said
    {
        return Err(format!("it says that it is {own}, but was handed over as {said}"));
    }
    let is_index = match (raw.config.is_some() || raw.layers.is_some(), raw.manifests.is_some()) {
        (false, true) => true,
        (true, false) if raw.config.is_some() => false,
        (true, false) => return Err("it has layers but no config".into()),
        // CVE-2021-41190: content that can be read as either is neither.
        (true, true) => return Err("it has both layers and manifests".into()),
        (false, false) => return Err("it has neither a config nor manifests".into()),
    };
    let default = if is_index { media::INDEX } else { media::MANIFEST };
    let media_type = own_type.or(said_type).unwrap_or(default);
    let known = if is_index { [media::INDEX, media::DOCKER_LIST] } else { [media::MANIFEST, media::DOCKER_MANIFEST] };
    if !known.contains(&media_type) {
        return Err(format!("its media type {media_type} doesn't go with its content"));
    }
    let config_media_type = raw.config.as_ref().map(|c| c.media_type.clone());
    let edges: Vec<Edge> = raw
        .config
        .into_iter()
        .map(|d| (EdgeKind::Config, d))
        .chain(raw.layers.into_iter().flatten().map(|d| (EdgeKind::Layer, d)))
        .chain(raw.manifests.into_iter().flatten().map(|d| (EdgeKind::Manifest, d)))
        .map(|(kind, d)| Edge { kind, digest: d.digest, size: d.size, media_type: d.media_type })
        .collect();
    if edges.len() > MAX_DESCRIPTORS + 1 {
        return Err(format!("it lists {} descriptors, and {MAX_DESCRIPTORS} are the most", edges.len()));
    }
    for edge in &edges {
        crate::oci::Hasher::for_digest(&edge.digest).map_err(|e| e.why().to_owned())?;
        if edge.size > MAX_CLAIMED {
            return Err(format!("it gives {} a size of {} bytes", edge.digest, edge.size));
        }
    }
    Ok(Parsed {
        digest: digest.clone(),
        size: bytes.len() as u64,
        media_type: media_type.to_owned(),
        artifact_type: raw.artifact_type.filter(|t| !t.is_empty()),
        config_media_type,
        subject_size: raw.subject.as_ref().map_or(0, |d| d.size),
        subject: raw.subject.map(|d| d.digest),
        annotations: raw.annotations.unwrap_or_default(),
        edges,
    })
}

/// The digest in a tag (or the tag of a reference) of the form `sha256-<hex>.sig`, `.att` or `.sbom`: cosign's way to
/// attach content without a referrers API (cosign, specs/SIGNATURE_SPEC.md, "Storage").
pub(super) fn signed_digest(name: &str) -> Option<Digest> {
    let tag = name.rsplit([':', '/']).next()?;
    let stem = [".sig", ".att", ".sbom"].iter().find_map(|end| tag.strip_suffix(end))?;
    let (algorithm, hex) = stem.split_once('-')?;
    matches!(algorithm, "sha256" | "sha512").then(|| format!("{algorithm}:{hex}").parse().ok()).flatten()
}

/// Checks that `name` can stand as `org.opencontainers.image.ref.name` and be typed after `oci:PATH:`.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:@+/".contains(c);
    if !name.is_empty()
        && name.len() <= 1024
        && name.chars().all(fits)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    {
        Ok(())
    } else {
        Err(StoreError::BadName(name.chars().take(128).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(json: &str, said: Option<&str>) -> Result<Parsed> {
        Parsed::read(&crate::oci::sha256(json.as_bytes()), json.as_bytes(), said)
    }

    fn descriptor() -> String {
        format!(r#"{{"mediaType":"a/b","digest":"sha256:{HEX}","size":0,"platform":{{"os":7}}}}"#)
    }

    #[test]
    fn each_kind_is_told_by_its_content() -> Result<()> {
        let d = descriptor();
        for (json, said, wanted) in [
            (format!(r#"{{"schemaVersion":2,"config":{d},"layers":null}}"#), None, media::MANIFEST),
            (
                format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#),
                Some(media::DOCKER_MANIFEST),
                media::DOCKER_MANIFEST,
            ),
            (format!(r#"{{"schemaVersion":2,"manifests":[{d}],"subject":{d}}}"#), None, media::INDEX),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, media::DOCKER_LIST),
                None,
                media::DOCKER_LIST,
            ),
        ] {
            assert_eq!(read(&json, said)?.media_type, wanted, "{json}");
        }
        Ok(())
    }

    #[test]
    fn what_is_ambiguous_or_malformed_is_refused() {
        let d = descriptor();
        let many = vec![d.clone(); MAX_DESCRIPTORS + 2].join(",");
        for json in [
            String::new(),
            "not json".into(),
            "[]".into(),
            r#"{"schemaVersion":2}"#.into(),
            format!(r#"{{"schemaVersion":1,"config":{d},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"layers":[{d}]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":2,"config":{d},"config":{d},"layers":[]}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{d},"layers":[]}}"#, media::INDEX),
            format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#),
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc","size":1}]}"#.into(),
            r#"{"schemaVersion":2,"manifests":[{"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}]}"#.into(),
            format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{HEX}","size":-1}}]}}"#),
            format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"sha256:{HEX}","size":9223372036854775807}}]}}"#),
            "[".repeat(100_000),
        ] {
            assert!(
                matches!(read(&json, None), Err(StoreError::Manifest { .. })),
                "{}",
                json.chars().take(80).collect::<String>()
            );
        }
        let json = format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{d},"layers":[]}}"#, media::MANIFEST);
        assert!(read(&json, Some(media::INDEX)).is_err());
        assert!(read(&json, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).is_ok());
    }

    #[test]
    fn signature_tags_are_told_from_others() {
        let wanted = Some(format!("sha256:{HEX}"));
        for (name, is) in [
            (format!("localhost:5000/app:sha256-{HEX}.sig"), true),
            (format!("sha256-{HEX}.att"), true),
            (format!("sha256-{HEX}"), false),
            (format!("app:sha256-{}.sig", &HEX[1..]), false),
            (format!("app:md5-{HEX}.sig"), false),
            ("app:v1".into(), false),
        ] {
            assert_eq!(signed_digest(&name).map(|d| d.to_string()), wanted.clone().filter(|_| is), "{name}");
        }
    }
}
