//! Owns what a segment is to everybody else: its manifest, the tags it stands under, and how both are read back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, EMPTY_JSON, media, parse_digest, sha256};

/// The type of a segment.
pub const SEGMENT_TYPE: &str = "application/vnd.vyr.state.segment.v0";
/// The type of a statement that earlier segments of a writer are gone.
pub const BASE_TYPE: &str = "application/vnd.vyr.state.base.v0";
/// The type of a segment's one layer: a tar changeset (image spec 1.1, layer.md).
pub const LAYER_TYPE: &str = "application/vnd.vyr.state.segment.v0.tar";

/// The annotations' names.
mod key {
    pub(super) const NAME: &str = "dev.vyr.state.name";
    pub(super) const LINEAGE: &str = "dev.vyr.state.lineage";
    pub(super) const WRITER: &str = "dev.vyr.state.writer";
    pub(super) const SEQ: &str = "dev.vyr.state.seq";
    pub(super) const PREVIOUS: &str = "dev.vyr.state.previous";
    pub(super) const SEALED: &str = "dev.vyr.state.sealed";
    pub(super) const KIND: &str = "dev.vyr.state.kind";
    /// Of a base: the first place that is gone.
    pub(super) const FROM: &str = "dev.vyr.state.from";
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// One file that a guest closed in its outbox.
    Outbox,
    /// What changed in the state's other files since the segment of this kind before it.
    Changes,
}

impl SegmentKind {
    /// A stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Changes => "changes",
        }
    }

    pub(super) fn number(self) -> i64 {
        match self {
            Self::Outbox => 1,
            Self::Changes => 2,
        }
    }

    pub(super) fn from_number(number: i64) -> Option<Self> {
        [Self::Outbox, Self::Changes].into_iter().find(|kind| kind.number() == number)
    }
}

/// Who writes segments: the first 16 hexadecimal digits of the SHA-256 of a node's public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(String);

impl WriterId {
    /// From a key's id, `sha256:<hex>`; `None` for anything else.
    #[must_use]
    pub fn of_key(id: &str) -> Option<Self> {
        Self::parse(id.strip_prefix("sha256:")?.get(..16)?)
    }

    /// From its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for WriterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a tag of a sync repository says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncTag {
    /// A segment, by its place in its writer's chain.
    Segment(WriterId, u64),
    /// A writer's newest segment.
    Head(WriterId),
    /// That a writer's earlier segments are gone.
    Base(WriterId),
}

impl SyncTag {
    /// Reads a tag; `None` for one that is something else.
    #[must_use]
    pub fn parse(tag: &str) -> Option<Self> {
        let (kind, rest) = tag.split_once('-')?;
        match kind {
            "head" => WriterId::parse(rest).map(Self::Head),
            "base" => WriterId::parse(rest).map(Self::Base),
            "segment" => {
                let (writer, seq) = rest.split_once('-')?;
                let seq: u64 = seq.parse().ok().filter(|n| *n > 0)?;
                let tag_read = Self::Segment(WriterId::parse(writer)?, seq);
                // One way to write it, so that no segment has two tags.
                (tag_read.to_string() == tag).then_some(tag_read)
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for SyncTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Segment(writer, seq) => write!(f, "segment-{writer}-{seq:012}"),
            Self::Head(writer) => write!(f, "head-{writer}"),
            Self::Base(writer) => write!(f, "base-{writer}"),
        }
    }
}

/// One segment, as its manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The state's name on the node that wrote it.
    pub name: String,
    /// The state's identity across nodes.
    pub lineage: String,
    /// Who wrote it.
    pub writer: WriterId,
    /// Its place, counted from 1; a writer that goes on from another's segment counts on.
    pub seq: u64,
    /// The digest of the manifest before it.
    pub previous: Option<Digest>,
    /// When it was sealed, by the writer's clock, whole microseconds.
    pub sealed: SystemTime,
    /// What it holds.
    pub kind: SegmentKind,
    /// The layer's digest.
    pub layer: Digest,
    /// The layer's size in bytes.
    pub size: u64,
}

/// That earlier segments of a writer are gone, said by the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The state's identity across nodes.
    pub lineage: String,
    /// Who says so.
    pub writer: WriterId,
    /// The first of its segments that is gone.
    pub from: u64,
    /// The first of its segments that there is.
    pub first: u64,
    /// The digest of the one before, which is gone.
    pub previous: Option<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Named,
    layers: Vec<Named>,
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    fn new(artifact_type: &str, layer: Named, annotations: BTreeMap<String, String>) -> Self {
        Self {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            artifact_type: artifact_type.to_owned(),
            config: empty(),
            layers: vec![layer],
            annotations,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|e| unreachable!("strings and numbers are JSON: {e}"))
    }

    fn read(bytes: &[u8], artifact_type: &str) -> Result<Self, String> {
        let read: Self = serde_json::from_slice(bytes).map_err(|e| format!("it is no manifest of a state: {e}"))?;
        if read.artifact_type != artifact_type {
            return Err(format!("its type is {:.100}, not {artifact_type}", read.artifact_type));
        }
        if read.media_type != media::MANIFEST || read.schema_version != 2 {
            return Err("it is no image manifest".to_owned());
        }
        Ok(read)
    }

    fn annotation(&self, key: &str) -> Result<&str, String> {
        self.annotations.get(key).map(String::as_str).ok_or_else(|| format!("it has no annotation {key}"))
    }

    fn writer(&self) -> Result<WriterId, String> {
        WriterId::parse(self.annotation(key::WRITER)?).ok_or_else(|| "its writer is none".to_owned())
    }

    fn seq(&self) -> Result<u64, String> {
        let seq = self.annotation(key::SEQ)?.parse().ok().filter(|n| *n > 0);
        seq.ok_or_else(|| "its place in the chain is no number".to_owned())
    }

    fn previous(&self) -> Result<Option<Digest>, String> {
        let previous = self.annotations.get(key::PREVIOUS).map(|text| parse_digest(text));
        previous.transpose().map_err(|e| format!("its predecessor: {}", e.why()))
    }
}

fn empty() -> Named {
    Named { media_type: media::EMPTY.to_owned(), digest: sha256(EMPTY_JSON).to_string(), size: EMPTY_JSON.len() as u64 }
}

impl Segment {
    /// The manifest: a function of the fields.
    #[must_use]
    pub fn manifest(&self) -> Vec<u8> {
        let layer = Named { media_type: LAYER_TYPE.to_owned(), digest: self.layer.to_string(), size: self.size };
        let mut annotations = BTreeMap::from([
            (key::NAME.to_owned(), self.name.clone()),
            (key::LINEAGE.to_owned(), self.lineage.clone()),
            (key::WRITER.to_owned(), self.writer.to_string()),
            (key::SEQ.to_owned(), self.seq.to_string()),
            (key::SEALED.to_owned(), humantime::format_rfc3339_micros(self.sealed).to_string()),
            (key::KIND.to_owned(), self.kind.as_str().to_owned()),
        ]);
        if let Some(previous) = &self.previous {
            annotations.insert(key::PREVIOUS.to_owned(), previous.to_string());
        }
        Manifest::new(SEGMENT_TYPE, layer, annotations).bytes()
    }

    /// Reads a manifest back.
    ///
    /// # Errors
    /// In words, what keeps it from being a segment's.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let read = Manifest::read(bytes, SEGMENT_TYPE)?;
        let [layer] = read.layers.as_slice() else {
            return Err(format!("it has {} layers, not one", read.layers.len()));
        };
        if layer.media_type != LAYER_TYPE {
            return Err(format!("its layer is a {:.100}", layer.media_type));
        }
        let kind = read.annotation(key::KIND)?;
        Ok(Self {
            name: read.annotation(key::NAME)?.to_owned(),
            lineage: read.annotation(key::LINEAGE)?.to_owned(),
            writer: read.writer()?,
            seq: read.seq()?,
            previous: read.previous()?,
            sealed: humantime::parse_rfc3339(read.annotation(key::SEALED)?)
                .map_err(|e| format!("when it was sealed: {e}"))?,
            kind: [SegmentKind::Outbox, SegmentKind::Changes]
                .into_iter()
                .find(|known| known.as_str() == kind)
                .ok_or_else(|| format!("it is of the unknown kind {kind:.40}"))?,
            layer: parse_digest(&layer.digest).map_err(|e| e.why().to_owned())?,
            size: layer.size,
        })
    }
}

impl Base {
    /// The manifest: a function of the fields.
    #[must_use]
    pub fn manifest(&self) -> Vec<u8> {
        let mut annotations = BTreeMap::from([
            (key::LINEAGE.to_owned(), self.lineage.clone()),
            (key::WRITER.to_owned(), self.writer.to_string()),
            (key::SEQ.to_owned(), self.first.to_string()),
            (key::FROM.to_owned(), self.from.to_string()),
        ]);
        if let Some(previous) = &self.previous {
            annotations.insert(key::PREVIOUS.to_owned(), previous.to_string());
        }
        Manifest::new(BASE_TYPE, empty(), annotations).bytes()
    }

    /// Reads a manifest back.
    ///
    /// # Errors
    /// In words, what keeps it from being one of these.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let read = Manifest::read(bytes, BASE_TYPE)?;
        Ok(Self {
            lineage: read.annotation(key::LINEAGE)?.to_owned(),
            writer: read.writer()?,
            from: read.annotation(key::FROM)?.parse().map_err(|e| format!("what it says is gone: {e}"))?,
            first: read.seq()?,
            previous: read.previous()?,
        })
    }
}

/// `time` as far as a manifest and a row can both say it.
pub(super) fn whole_micros(time: SystemTime) -> SystemTime {
    let micros = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Segment {
        Segment {
            name: "readings".into(),
            lineage: "0195-x".into(),
            writer: WriterId::parse("0123456789abcdef").unwrap(),
            seq: 7,
            previous: Some(sha256(b"6")),
            sealed: whole_micros(SystemTime::now()),
            kind: SegmentKind::Outbox,
            layer: sha256(b"layer"),
            size: 5,
        }
    }

    #[test]
    fn a_manifest_says_all_of_it_and_is_the_same_each_time() {
        let one = segment();
        assert_eq!(one.manifest(), one.manifest());
        assert_eq!(Segment::parse(&one.manifest()).unwrap(), one);
        let first = Segment { seq: 1, previous: None, kind: SegmentKind::Changes, ..segment() };
        assert_eq!(Segment::parse(&first.manifest()).unwrap(), first);
        let base = Base { lineage: "l".into(), writer: one.writer, from: 2, first: 9, previous: Some(sha256(b"8")) };
        assert_eq!(Base::parse(&base.manifest()).unwrap(), base);
        assert!(Segment::parse(&base.manifest()).is_err() && Base::parse(&first.manifest()).is_err());
    }

    #[test]
    fn what_is_no_segment_is_refused() {
        let text = String::from_utf8(segment().manifest()).unwrap();
        for (from, to) in [
            (SEGMENT_TYPE, "application/vnd.example"),
            (LAYER_TYPE, "application/wasm"),
            ("\"dev.vyr.state.seq\":\"7\"", "\"dev.vyr.state.seq\":\"0\""),
            ("\"dev.vyr.state.seq\":\"7\"", "\"dev.vyr.state.seq\":\"x\""),
            ("0123456789abcdef", "0123456789ABCDEF"),
            ("\"outbox\"", "\"other\""),
            ("dev.vyr.state.lineage", "dev.vyr.state.other"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(Segment::parse(changed.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn tags_sort_heads_first_and_are_written_one_way() {
        let writer = segment().writer;
        let tags = [SyncTag::Base(writer.clone()), SyncTag::Head(writer.clone()), SyncTag::Segment(writer, 12)];
        let written: Vec<String> = tags.iter().map(ToString::to_string).collect();
        assert!(written.is_sorted(), "{written:?}");
        for (tag, text) in tags.iter().zip(&written) {
            assert_eq!(SyncTag::parse(text).as_ref(), Some(tag));
        }
        assert_eq!(written[2], "segment-0123456789abcdef-000000000012");
        for other in
            ["segment-0123456789abcdef-12", "segment-0123456789abcdef-000000000000", "head-x", "v1", "sha256-ab.sig"]
        {
            assert_eq!(SyncTag::parse(other), None, "{other}");
        }
    }
}
