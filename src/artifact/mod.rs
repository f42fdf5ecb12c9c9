//! Owns the artifact contract: which of the six accepted forms a manifest is, and which bytes in it are the Wasm.
//! Nothing here reads from anywhere; what must be fetched to decide is asked for by descriptor.

mod compat;
mod look;
mod wasm_config;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use compat::{EntrypointFile, ImageConfig, extract_entrypoint};
pub use look::{instead, looks_like};
pub use wasm_config::{ComponentConfig, WasmConfig};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, ImageIndex, ImageManifest, MAX_DESCRIPTORS, MAX_MANIFEST_BYTES, media};

/// The first bytes of every Wasm binary (core specification, 5.5.16).
pub const WASM_MAGIC: &[u8; 4] = b"\0asm";

/// The accepted forms, as the README numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactForm {
    /// 1: the CNCF Wasm OCI artifact, config v0.
    CncfWasm,
    /// 2: what `oras push REF file.wasm:application/wasm` makes.
    OrasWasm,
    /// 3: the older config and layer types.
    LegacyWasm,
    /// 4: an image whose platform is WASI and whose entrypoint is a `.wasm` file in its layers.
    CompatImage,
    /// 5: an ordinary image for `linux/<arch>`, which only the fallback runs.
    LinuxImage,
}

impl ArtifactForm {
    /// The word in machine output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CncfWasm => "cncf-wasm",
            Self::OrasWasm => "oras-wasm",
            Self::LegacyWasm => "legacy-wasm",
            Self::CompatImage => "compat-image",
            Self::LinuxImage => "linux-image",
        }
    }

    /// What people call it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::CncfWasm => "CNCF Wasm artifact",
            Self::OrasWasm => "Wasm artifact (oras)",
            Self::LegacyWasm => "Wasm artifact (older media types)",
            Self::CompatImage => "WASI compat image",
            Self::LinuxImage => "Linux container image",
        }
    }
}

/// A parsed manifest: of one artifact, or an index of several.
#[derive(Debug, Clone)]
pub enum Manifest {
    /// An image manifest (OCI or Docker schema 2).
    Image(Box<ImageManifest>),
    /// An image index (OCI) or manifest list (Docker).
    Index(Box<ImageIndex>),
}

/// The parts of a manifest that say what kind it is, read before anything else is believed.
#[derive(Deserialize)]
struct Probe {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Parses the bytes of a manifest whose digest was already checked. The media type inside the bytes counts;
    /// `transport_type` (a descriptor's or a `Content-Type`) only where there is none, and must agree where there is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidContent`] for what isn't a manifest or index, is over 4 MiB, lists too many descriptors or
    /// claims to be both kinds.
    pub fn parse(bytes: &[u8], transport_type: Option<&str>) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(invalid(format!(
                "the manifest has {} bytes; at most {MAX_MANIFEST_BYTES} are read",
                bytes.len()
            )));
        }
        let probe: Probe = serde_json::from_slice(bytes)
            .map_err(|e| invalid(format!("the manifest is not JSON of the OCI image spec: {e}")))?;
        if probe.schema_version != Some(2) {
            return Err(invalid(format!(
                "the manifest's schemaVersion is {}, not 2",
                probe.schema_version.map_or_else(|| "missing".to_owned(), |v| v.to_string())
            ))
            .hint("push the artifact again with a current client"));
        }
        if probe.manifests.is_some() && probe.layers.is_some() {
            // The same bytes read as an index by one tool and as an image by another (CVE-2021-41190).
            return Err(invalid(
                "the manifest lists both `manifests` and `layers`: it could be read in two ways".to_owned(),
            ));
        }
        let inner = probe.media_type.as_deref();
        if let (Some(inner), Some(outer)) = (inner, transport_type)
            && kind_of(outer).is_some()
            && kind_of(inner) != kind_of(outer)
        {
            return Err(invalid(format!("the manifest says it is {inner}, but was served as {outer}")));
        }
        let kind = match inner.or(transport_type).and_then(kind_of) {
            Some(kind) => kind,
            None if probe.manifests.is_some() => Kind::Index,
            None if probe.layers.is_some() => Kind::Image,
            None => {
                return Err(invalid(format!(
                    "the manifest is of type {}, which is neither an image manifest nor an index",
                    inner.or(transport_type).unwrap_or("unknown")
                )));
            }
        };
        let count_checked = |count: usize, what: &str| {
            if count > MAX_DESCRIPTORS {
                Err(invalid(format!("the manifest lists {count} {what}; at most {MAX_DESCRIPTORS} are accepted"))
                    .hint("no honest artifact looks like this; ask who published it"))
            } else {
                Ok(())
            }
        };
        match kind {
            Kind::Image => {
                let manifest: ImageManifest = serde_json::from_slice(bytes)
                    .map_err(|e| invalid(format!("the image manifest is malformed: {e}")))?;
                count_checked(manifest.layers().len(), "layers")?;
                Ok(Self::Image(Box::new(manifest)))
            }
            Kind::Index => {
                let index: ImageIndex =
                    serde_json::from_slice(bytes).map_err(|e| invalid(format!("the image index is malformed: {e}")))?;
                count_checked(index.manifests().len(), "manifests")?;
                Ok(Self::Index(Box::new(index)))
            }
        }
    }

    /// The media type to push or store these bytes under.
    #[must_use]
    pub fn media_type(&self) -> String {
        match self {
            Self::Image(m) => m.media_type().as_ref().map_or_else(|| media::MANIFEST.to_owned(), ToString::to_string),
            Self::Index(i) => i.media_type().as_ref().map_or_else(|| media::INDEX.to_owned(), ToString::to_string),
        }
    }

    /// The manifest's annotations, in a stable order.
    #[must_use]
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let annotations = match self {
            Self::Image(m) => m.annotations(),
            Self::Index(i) => i.annotations(),
        };
        annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    }
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Image,
    Index,
}

fn kind_of(media_type: &str) -> Option<Kind> {
    // A Content-Type may carry parameters.
    match media_type.split(';').next().unwrap_or_default().trim() {
        media::MANIFEST | media::DOCKER_MANIFEST => Some(Kind::Image),
        media::INDEX | media::DOCKER_LIST => Some(Kind::Index),
        _ => None,
    }
}

/// What must be read to get at an artifact's code.
#[derive(Debug, Clone, PartialEq)]
pub enum Code {
    /// The layer is the Wasm binary.
    Layer(Box<Descriptor>),
    /// The config names a file in the layers.
    Entrypoint {
        /// The image config, whose entrypoint and diff IDs are needed.
        config: Box<Descriptor>,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

/// What an image manifest turned out to be, as far as the manifest alone tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Recognised {
    /// Forms 1 to 3: the layer is named.
    Wasm {
        /// Which of them.
        form: ArtifactForm,
        /// The one layer that is Wasm.
        layer: Box<Descriptor>,
    },
    /// Forms 4 or 5: an image; its config must be read to tell which ([`ImageConfig::form`]).
    Image {
        /// The config.
        config: Box<Descriptor>,
        /// The layers, lowest first.
        layers: Vec<Descriptor>,
    },
}

/// Tells the form of an image manifest by its media types.
///
/// # Errors
/// [`ErrorKind::InvalidContent`] when it holds no Wasm layer and isn't an image, or holds more than one Wasm layer.
pub fn recognise(manifest: &ImageManifest) -> Result<Recognised> {
    let invalid = |why: String| Error::new(ErrorKind::InvalidContent, why);
    let config_type = manifest.config().media_type().to_string();
    let wasm: Vec<&Descriptor> = manifest.layers().iter().filter(|l| wasm_layer(l.media_type().as_ref())).collect();
    match wasm.as_slice() {
        [layer] => {
            let older = layer.media_type().to_string() != media::WASM_LAYER;
            let form = match config_type.as_str() {
                media::WASM_CONFIG_V0 if manifest.layers().len() > 1 => {
                    return Err(invalid(format!(
                        "the Wasm artifact lists {} layers; the CNCF layout has exactly one",
                        manifest.layers().len()
                    )));
                }
                media::WASM_CONFIG_V0 if !older => ArtifactForm::CncfWasm,
                media::WASM_CONFIG_V1 => ArtifactForm::LegacyWasm,
                _ if older => ArtifactForm::LegacyWasm,
                _ => ArtifactForm::OrasWasm,
            };
            Ok(Recognised::Wasm { form, layer: Box::new((*layer).clone()) })
        }
        [] => match config_type.as_str() {
            media::IMAGE_CONFIG | "application/vnd.docker.container.image.v1+json" => {
                Ok(Recognised::Image { config: Box::new(manifest.config().clone()), layers: manifest.layers().clone() })
            }
            _ => Err(invalid(format!(
                "the manifest holds no layer of type {} and is no container image (config {config_type}{})",
                media::WASM_LAYER,
                manifest.artifact_type().as_ref().map(|t| format!(", artifactType {t}")).unwrap_or_default(),
            ))
            .hint("push Wasm with `vyr push REF FILE` or `oras push REF FILE:application/wasm`")),
        },
        several => {
            Err(invalid(format!("the manifest lists {} Wasm layers, and nothing says which one to run", several.len()))
                .hint("push one Wasm file an artifact"))
        }
    }
}

fn wasm_layer(media_type: &str) -> bool {
    matches!(media_type, media::WASM_LAYER | media::WASM_CONTENT_LAYER | media::WASM_MODULE_LAYER)
}

/// What an index offers this machine; at least one of the two, or an index below that may.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Offer {
    /// A manifest for WASI, or an index that is said to hold one.
    pub wasm: Option<Descriptor>,
    /// An image for this machine's own platform.
    pub image: Option<Descriptor>,
    /// Indexes without a platform: what they hold isn't known yet.
    pub below: Vec<Descriptor>,
}

impl Offer {
    /// The indexes that have to be looked into before the offer is known.
    #[must_use]
    pub fn unresolved(&self) -> Vec<Descriptor> {
        let listed = self.wasm.iter().chain(&self.image).filter(|d| is_index(d));
        listed.chain(&self.below).take(MAX_NESTED).cloned().collect()
    }

    /// Puts what one of those indexes offers into its place.
    pub fn absorb(&mut self, index: &Descriptor, inner: Self) {
        let same = |d: &Descriptor| d.digest() == index.digest();
        self.below.retain(|d| !same(d));
        for (mine, theirs) in [(&mut self.wasm, inner.wasm), (&mut self.image, inner.image)] {
            if mine.as_ref().is_none_or(same) {
                // One more level is nobody's honest artifact.
                *mine = theirs.filter(|d| !is_index(d));
            }
        }
    }

    /// What is tried first.
    #[must_use]
    pub fn first(&self) -> Option<&Descriptor> {
        self.wasm.as_ref().or(self.image.as_ref()).or(self.below.first())
    }
}

/// How many indexes below one are looked into.
const MAX_NESTED: usize = 8;

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type().as_ref(), media::INDEX | media::DOCKER_LIST)
}

/// The architecture of this machine by the names of the image spec, which are Go's.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How well an image of this variant runs here: the higher, the better; `None`: not at all. Without one it is the
/// architecture's baseline.
fn fitness(variant: Option<&str>) -> Option<u8> {
    match (std::env::consts::ARCH, variant.unwrap_or_default()) {
        ("x86_64", "" | "v1") => Some(1),
        ("x86_64", level) => {
            let level: u8 = level.strip_prefix('v')?.parse().ok()?;
            (level <= x86_level()).then_some(level)
        }
        ("aarch64", "" | "v8") => Some(1),
        (_, "") => Some(1),
        _ => None,
    }
}

/// The microarchitecture level of this processor (x86-64 psABI, "Microarchitecture levels").
#[cfg(target_arch = "x86_64")]
fn x86_level() -> u8 {
    let has2 = std::is_x86_feature_detected!("sse4.2")
        && std::is_x86_feature_detected!("popcnt")
        && std::is_x86_feature_detected!("ssse3");
    let has3 = has2
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi1")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("lzcnt")
        && std::is_x86_feature_detected!("movbe");
    let has4 = has3
        && std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512cd")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl");
    1 + u8::from(has2) + u8::from(has3) + u8::from(has4)
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_level() -> u8 {
    1
}

/// What an index offers: Wasm by architecture first, then by OS, and the image for `linux/<this machine>` of the best variant
/// that runs here. An entry that is itself an index counts by its platform, and where it has none it is for the caller to
/// look into.
///
/// # Errors
/// [`ErrorKind::InvalidContent`] when nothing in it could run here, listing what there is.
pub fn offer(index: &ImageIndex) -> Result<Offer> {
    let platform = |d: &Descriptor| {
        d.platform().as_ref().map(|p| (p.architecture().to_string(), p.os().to_string())).unwrap_or_default()
    };
    let wasi = |os: &str| matches!(os, "wasip2" | "wasip1" | "wasi");
    let wasm: Vec<&Descriptor> =
        index.manifests().iter().filter(|d| matches!(platform(d).0.as_str(), "wasm" | "wasm32")).collect();
    let here = (architecture().to_owned(), "linux".to_owned());
    let variant = |d: &Descriptor| {
        let platform = d.platform().as_ref();
        fitness(platform.and_then(|p| p.variant().as_deref()))
    };
    let mut image: Option<(u8, &Descriptor)> = None;
    for candidate in index.manifests().iter().filter(|d| platform(d) == here) {
        // The first of the best, as the order in an index is its author's preference.
        if let Some(fit) = variant(candidate)
            && image.is_none_or(|(best, _)| fit > best)
        {
            image = Some((fit, candidate));
        }
    }
    let below = index.manifests().iter().filter(|d| platform(d).0.is_empty() && is_index(d));
    let offer = Offer {
        wasm: wasm.iter().find(|d| wasi(&platform(d).1)).or(wasm.first()).map(|d| (*d).clone()),
        image: image.map(|(_, d)| d.clone()),
        below: below.cloned().collect(),
    };
    if offer.first().is_some() {
        return Ok(offer);
    }
    let offered: Vec<String> = index
        .manifests()
        .iter()
        .map(|d| match platform(d) {
            (arch, _) if arch.is_empty() => format!("no platform ({})", d.media_type()),
            (arch, os) => {
                let variant = d.platform().as_ref().and_then(|p| p.variant().clone());
                format!("{os}/{arch}{}", variant.map(|v| format!("/{v}")).unwrap_or_default())
            }
        })
        .collect();
    Err(Error::new(
        ErrorKind::InvalidContent,
        format!(
            "the index offers neither wasip1/wasm, wasip2/wasm nor linux/{}, only: {}",
            architecture(),
            offered.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn manifest(config: &str, layers: &[&str]) -> Vec<u8> {
        json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": {"mediaType": config, "digest": digest(1), "size": 2},
            "layers": layers.iter().map(|l| json!({"mediaType": l, "digest": digest(2), "size": 8})).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes()
    }

    fn form(config: &str, layers: &[&str]) -> Result<Recognised> {
        match Manifest::parse(&manifest(config, layers), None)? {
            Manifest::Image(m) => recognise(&m),
            Manifest::Index(_) => unreachable!(),
        }
    }

    #[test]
    fn the_three_wasm_forms_are_told_apart_by_media_type() -> Result<()> {
        for (config, layer, expected) in [
            (media::WASM_CONFIG_V0, media::WASM_LAYER, ArtifactForm::CncfWasm),
            (media::EMPTY, media::WASM_LAYER, ArtifactForm::OrasWasm),
            ("application/vnd.unknown.config.v1+json", media::WASM_LAYER, ArtifactForm::OrasWasm),
            (media::WASM_CONFIG_V1, media::WASM_CONTENT_LAYER, ArtifactForm::LegacyWasm),
            (media::EMPTY, media::WASM_MODULE_LAYER, ArtifactForm::LegacyWasm),
        ] {
            match form(config, &[layer])? {
                Recognised::Wasm { form, .. } => assert_eq!(form, expected, "{config} {layer}"),
                other => panic!("{other:?}"),
            }
        }
        Ok(())
    }

    #[test]
    fn an_image_needs_its_config_to_tell() -> Result<()> {
        assert!(matches!(
            form(media::IMAGE_CONFIG, &["application/vnd.oci.image.layer.v1.tar+gzip"])?,
            Recognised::Image { .. }
        ));
        Ok(())
    }

    #[test]
    fn two_wasm_layers_or_none_are_refused_with_words() {
        let two = form(media::WASM_CONFIG_V0, &[media::WASM_LAYER, media::WASM_LAYER]).map_err(|e| e.to_string());
        assert!(two.as_ref().is_err_and(|e| e.contains("2 Wasm layers")), "{two:?}");
        let none = form(media::EMPTY, &["text/plain"]).map_err(|e| e.to_string());
        assert!(none.as_ref().is_err_and(|e| e.contains("no layer of type")), "{none:?}");
    }

    #[test]
    fn manifests_that_lie_about_themselves_are_invalid() {
        let both = json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string();
        let old = json!({"schemaVersion": 1}).to_string();
        let many: Vec<&str> = vec![media::WASM_LAYER; MAX_DESCRIPTORS + 1];
        for (bytes, served, words) in [
            (both.into_bytes(), None, "two ways"),
            (old.into_bytes(), None, "schemaVersion"),
            (b"not json".to_vec(), None, "not JSON"),
            (manifest(media::EMPTY, &[media::WASM_LAYER]), Some(media::INDEX), "served as"),
            (manifest(media::EMPTY, &many), None, "at most"),
            (vec![b' '; usize::try_from(MAX_MANIFEST_BYTES).unwrap_or(0) + 1], None, "bytes"),
        ] {
            let error = Manifest::parse(&bytes, served).err();
            assert!(
                error.as_ref().is_some_and(|e| e.to_string().contains(words) && e.kind() == ErrorKind::InvalidContent),
                "{words}: {error:?}"
            );
        }
    }

    fn index(platforms: &[(&str, &str)]) -> Result<Offer> {
        let text = json!({
            "schemaVersion": 2, "mediaType": media::INDEX,
            "manifests": platforms.iter().enumerate().map(|(i, (os, arch))| {
                let mut parts = arch.split('/');
                let mut platform = json!({"os": os, "architecture": parts.next()});
                if let Some(variant) = parts.next() {
                    platform["variant"] = json!(variant);
                }
                json!({"mediaType": media::MANIFEST, "digest": digest(u8::try_from(i).unwrap_or(9) + 16), "size": 3,
                    "platform": platform})
            }).collect::<Vec<_>>(),
        });
        match Manifest::parse(text.to_string().as_bytes(), None)? {
            Manifest::Index(i) => offer(&i),
            Manifest::Image(_) => unreachable!(),
        }
    }

    fn which(descriptor: Option<&Descriptor>) -> Option<String> {
        descriptor.map(|d| d.digest().to_string())
    }

    #[test]
    fn an_index_offers_wasm_and_the_image_for_this_machine() -> Result<()> {
        for wasm in [("wasip1", "wasm"), ("wasip2", "wasm"), ("wasi", "wasm"), ("wasi", "wasm32")] {
            let offer = index(&[("linux", "s390x"), ("linux", architecture()), wasm])?;
            assert_eq!(which(offer.wasm.as_ref()), Some(digest(18)));
            assert_eq!(which(offer.image.as_ref()), Some(digest(17)));
            assert_eq!(which(offer.first()), Some(digest(18)));
        }
        let offer = index(&[("linux", "s390x"), ("linux", architecture())])?;
        assert_eq!((offer.wasm.as_ref(), which(offer.first())), (None, Some(digest(17))));
        let none = index(&[("windows", "amd64")]).map_err(|e| e.to_string());
        assert!(none.as_ref().is_err_and(|e| e.contains("windows/amd64")), "{none:?}");
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn of_several_variants_the_best_that_runs_here_is_taken() -> Result<()> {
        let image = |platforms: &[(&str, &str)]| index(platforms).map(|offer| which(offer.image.as_ref()));
        assert_eq!(image(&[("linux", "amd64"), ("linux", "amd64/v9")])?, Some(digest(16)));
        assert!(image(&[("linux", "amd64/v9")]).is_err(), "no processor has that");
        if x86_level() > 1 {
            assert_eq!(image(&[("linux", "amd64/v1"), ("linux", "amd64/v2")])?, Some(digest(17)));
        }
        Ok(())
    }
}
