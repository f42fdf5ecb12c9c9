//! Owns compiled code as an artifact of its own: a referrer of what it was compiled from, made, signed, looked for, and
//! let in only by the right that the trust policy keeps for it.

use std::io::Read as _;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Vyr;
use super::prepare::examine;
use super::pull::{Purpose, blocking};
use super::resolve::{Located, PullMode, locate};
use super::sign::{keep, sign_in_registry};
use super::verify::{Policy, stored, verify};
use crate::artifact::Manifest;
use crate::engine::{Compiled, Engine, Kind, Precompiled, WASMTIME};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{
    ArtifactRef, Descriptor, Digest, ImageManifest, MAX_MANIFEST_BYTES, Reference, media, parse_digest, sha256,
};
use crate::store::Lease;
use crate::trust::{self, SignedSubject, SigningKey};

/// The largest config of compiled code that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 64 << 10;
/// The largest compiled code that is read, in bytes.
const MAX_CODE_BYTES: u64 = 2 << 30;
/// What a link and not a processor waits for is made small once: at this level code is 0.4 of what it was.
const COMPRESSION_LEVEL: i32 = 12;
/// Frames that need more than this to unpack are refused: 2 to the power of it, in bytes.
const MAX_WINDOW_LOG: u32 = 27;
/// The annotation with the engine's fingerprint, by which code for this machine is found among that for others.
pub(super) const FINGERPRINT: &str = "vnd.vyr.compiled.fingerprint";

/// What compiled code was made from and for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompiledConfig {
    /// The runtime's version.
    pub wasmtime: String,
    /// The machine, for people.
    pub target: String,
    /// Runtime, target, CPU features and configuration, hashed.
    pub fingerprint: String,
    /// The digest of the Wasm.
    pub wasm: String,
    /// `module` or `component`.
    pub kind: String,
}

/// What was compiled.
#[derive(Debug, Clone, Serialize)]
pub struct CompiledCode {
    /// The digest of the code's manifest.
    pub digest: String,
    /// The artifact's manifest that it belongs to.
    pub subject: String,
    /// What it was made from and for.
    pub config: CompiledConfig,
    /// The code's size in bytes.
    pub bytes: u64,
    /// `sha256:<hex>` of the key that signed it.
    pub key: String,
    /// Where it was pushed to.
    pub pushed: Option<String>,
}

/// Compiles an artifact that the trust policy accepts, for machines like this one, signs the code, and puts it into the
/// store beside the artifact; with `push` into its registry too.
///
/// # Errors
/// [`ErrorKind::Refused`] for an artifact that would not run here; what compiling, the key and the registry fail with.
#[tracing::instrument(skip_all, fields(%reference))]
pub async fn compile(vyr: &Vyr, reference: &ArtifactRef, key: &SigningKey, push: bool) -> Result<CompiledCode> {
    if push && !matches!(reference, ArtifactRef::Registry(_)) {
        return Err(Error::new(ErrorKind::Usage, format!("`{reference}` names no registry to push to"))
            .hint("name it host/repository:tag or host/repository@sha256:…"));
    }
    let located = locate(vyr, reference, PullMode::Missing, Purpose::Run).await?;
    let made = make(vyr, located, key).await?;
    let mut pushed = None;
    if let (true, ArtifactRef::Registry(reference)) = (push, reference) {
        send(vyr, reference, &made, key).await?;
        pushed = Some(reference.clone_with_digest(made.digest.to_string()).whole());
    }
    Ok(CompiledCode {
        digest: made.digest.to_string(),
        subject: made.subject.to_string(),
        config: made.config,
        bytes: made.code_bytes,
        key: key.key_id().to_owned(),
        pushed,
    })
}

/// Compiled code in the store.
pub(super) struct Made {
    /// Its manifest's digest.
    pub(super) digest: Digest,
    manifest: Vec<u8>,
    subject: Digest,
    config: CompiledConfig,
    config_bytes: Vec<u8>,
    code_bytes: u64,
    /// Digest and size of the code as it is kept, which is compressed.
    packed: (Digest, u64),
}

/// Compiles, signs and keeps.
pub(super) async fn make(vyr: &Vyr, mut located: Located, key: &SigningKey) -> Result<Made> {
    let found = examine(vyr, &located.root)?;
    let accepted = verify(vyr, &Policy::load(vyr)?, &mut located, &found.selected).await?;
    let verified = accepted.map(|()| found);
    let subject = verified.selected.clone();
    let subject_size = vyr.layout().blob_size(&subject)?.unwrap_or(0);
    let (layout, engine) = (vyr.layout().clone(), vyr.engine()?.clone());
    let (wasm, kind, code_bytes, packed) = blocking(move || {
        let loaded = verified.load(&layout)?;
        let (kind, code) = engine.compile(&loaded.bytes)?;
        let packed = zstd::bulk::compress(&code, COMPRESSION_LEVEL)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("the code can't be compressed: {e}")))?;
        Ok((loaded.code, kind, code.len() as u64, packed))
    })
    .await?;
    let config = CompiledConfig {
        wasmtime: WASMTIME.to_owned(),
        target: Engine::target(),
        fingerprint: vyr.engine()?.fingerprint().to_owned(),
        wasm: wasm.to_string(),
        kind: kind.as_str().to_owned(),
    };
    let failed = |e: serde_json::Error| Error::new(ErrorKind::Internal, format!("the manifest can't be written: {e}"));
    let config_bytes = serde_json::to_vec(&config).map_err(failed)?;
    let digest_of_code = sha256(&packed);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "artifactType": media::VYR_COMPILED,
        "config": {"mediaType": media::VYR_COMPILED_CONFIG, "digest": sha256(&config_bytes).to_string(),
            "size": config_bytes.len()},
        "layers": [{"mediaType": media::VYR_COMPILED_CODE_ZSTD, "digest": digest_of_code.to_string(),
            "size": packed.len()}],
        "subject": {"mediaType": media::MANIFEST, "digest": subject.to_string(), "size": subject_size},
        "annotations": {
            FINGERPRINT: config.fingerprint, "vnd.vyr.compiled.wasmtime": config.wasmtime,
            "vnd.vyr.compiled.target": config.target, "vnd.vyr.compiled.wasm": config.wasm,
        },
    }))
    .map_err(failed)?;
    let digest = sha256(&manifest);

    let store = vyr.store().await?;
    let lease = store.lease()?;
    let size = packed.len() as u64;
    put(vyr, &lease, vec![config_bytes.clone(), packed]).await?;
    let mut batch = store.batch()?;
    let origin = located.repository.as_deref();
    batch.put_manifest(&lease, Some(&digest), &manifest, Some(media::MANIFEST), None).await?;
    if let Some(origin) = origin {
        // It is about what is from there, and wasn't there itself yet.
        batch.claim(&digest, origin);
    }
    batch.commit().await?;
    let forms = trust::sign(key, origin, &subject_of(&digest, &manifest), None)?;
    keep(vyr, located.reference.as_ref(), &forms).await?;
    Ok(Made { digest, manifest, subject, config, config_bytes, code_bytes, packed: (digest_of_code, size) })
}

async fn put(vyr: &Vyr, lease: &Lease, contents: Vec<Vec<u8>>) -> Result<()> {
    let (layout, held) = (vyr.layout().clone(), lease.clone());
    blocking(move || {
        for content in contents {
            let mut writer = layout.writer(None, None)?;
            writer.add(&content)?;
            writer.commit(&held)?;
        }
        Ok(())
    })
    .await
}

fn subject_of(digest: &Digest, manifest: &[u8]) -> SignedSubject {
    SignedSubject { digest: digest.clone(), media_type: media::MANIFEST.to_owned(), size: manifest.len() as u64 }
}

/// Pushes it beside the artifact, signed in both forms.
async fn send(vyr: &Vyr, reference: &Reference, made: &Made, key: &SigningKey) -> Result<()> {
    let client = vyr.client(reference)?;
    let config = made.config_bytes.clone();
    client.push_blob_bytes(reference, &sha256(&config), config.into(), None, &()).await?;
    let (code, size) = &made.packed;
    let progress = vyr.reporter().begin("push the compiled code", *size);
    client.push_blob(reference, code, *size, &vyr.layout().blob_path(code), None, &*progress).await?;
    drop(progress);
    let kind = Some(media::VYR_COMPILED);
    client.push_referrer(reference, media::MANIFEST, &made.manifest, &made.subject, kind).await?;
    let forms = sign_in_registry(vyr, reference, &subject_of(&made.digest, &made.manifest), key).await?;
    keep(vyr, Some(reference), &forms).await
}

/// Whether the store has compiled code of `root` for machines like this one, whoever signed it.
pub(super) async fn is_there(vyr: &Vyr, root: &Digest) -> Result<bool> {
    let (subject, fingerprint) = (examine(vyr, root)?.selected, vyr.engine()?.fingerprint());
    let found = vyr.store().await?.referrers(&subject, Some(media::VYR_COMPILED)).await?;
    let said =
        |d: &Descriptor| d.annotations().as_ref().and_then(|a| a.get(FINGERPRINT)).is_some_and(|f| f == fingerprint);
    Ok(found.iter().any(said))
}

/// Whether a referrer is compiled code that this machine could use: its manifest, then.
pub(super) fn is_for(manifest: &[u8], fingerprint: &str) -> Option<ImageManifest> {
    let Ok(Manifest::Image(manifest)) = Manifest::parse(manifest, None) else { return None };
    let ours = manifest.artifact_type().as_ref().is_some_and(|kind| kind.as_ref() == media::VYR_COMPILED);
    let found = manifest.annotations().as_ref().and_then(|a| a.get(FINGERPRINT)).map(String::as_str);
    (ours && found == Some(fingerprint)).then_some(*manifest)
}

/// Looks in the store for code that was compiled elsewhere for the Wasm `code` of `subject`, and takes the first that may
/// be and can be loaded.
///
/// # Errors
/// The store's own. `Ok(Err(…))` are the reasons against each that was found.
pub(super) async fn adopt(
    vyr: &Vyr,
    engine: &Engine,
    policy: &Policy,
    repository: Option<&str>,
    subject: &Digest,
    wasm: &Digest,
) -> Result<Result<Compiled, Vec<String>>> {
    let cache = vyr.code_cache()?;
    let mut reasons = Vec::new();
    for referrer in vyr.store().await?.referrers(subject, Some(media::VYR_COMPILED)).await? {
        let digest = referrer.digest();
        match one(vyr, engine, policy, repository, digest, wasm).await {
            Ok(native) => {
                let (cache, engine, wasm, hash) =
                    (cache.clone(), engine.clone(), wasm.clone(), policy.hash().to_owned());
                let adopted = blocking(move || Ok(cache.adopt(&engine, &wasm, &hash, &native)?)).await;
                match adopted {
                    Ok(compiled) => return Ok(Ok(compiled)),
                    Err(e) => reasons.push(format!("{digest}: {}", e.why())),
                }
            }
            Err(e) => reasons.push(e.why().to_owned()),
        }
    }
    Ok(Err(reasons))
}

/// One candidate: whom it is from is asked before its code is read.
async fn one(
    vyr: &Vyr,
    engine: &Engine,
    policy: &Policy,
    repository: Option<&str>,
    digest: &Digest,
    wasm: &Digest,
) -> Result<trust::Native<Precompiled>> {
    let refused = |why: String| Error::new(ErrorKind::Refused, format!("the compiled code {digest} {why}"));
    let layout = vyr.layout();
    let bytes = layout.read_verified(digest, MAX_MANIFEST_BYTES)?;
    let Manifest::Image(manifest) = Manifest::parse(&bytes, None)? else { return Err(refused("is an index".into())) };
    let config = layout.read_verified(manifest.config().digest(), MAX_CONFIG_BYTES)?;
    let config: CompiledConfig =
        serde_json::from_slice(&config).map_err(|e| refused(format!("has a config that can't be read: {e}")))?;
    let fingerprint = engine.fingerprint();
    if config.fingerprint != fingerprint {
        return Err(refused(format!(
            "is for Wasmtime {:.20} on {:.60} with the fingerprint {:.12}…; this is Wasmtime {WASMTIME} on {} with {:.12}…",
            config.wasmtime,
            config.target,
            config.fingerprint,
            Engine::target(),
            fingerprint
        )));
    }
    if parse_digest(&config.wasm).ok().as_ref() != Some(wasm) {
        return Err(refused(format!("was made from {:.80}, not from {wasm}", config.wasm)));
    }
    let kind = match config.kind.as_str() {
        "module" => Kind::Module,
        "component" => Kind::Component,
        other => return Err(refused(format!("says that it is a `{other:.20}`"))),
    };
    let [layer] = manifest.layers().as_slice() else { return Err(refused("has not one layer".into())) };
    let layer: Descriptor = layer.clone();
    let material = stored(vyr, digest, repository).await?;
    let native = trust::verify_native((), policy.rules(), policy.machine_key(), repository, digest, &material)?;
    let layout = layout.clone();
    let code = blocking(move || {
        let packed = layout.read_verified(layer.digest(), MAX_CODE_BYTES)?;
        match layer.media_type().as_ref() {
            media::VYR_COMPILED_CODE_ZSTD => unpack(&packed, MAX_CODE_BYTES),
            _ => Ok(packed),
        }
    })
    .await
    .map_err(|e| refused(format!("can't be read: {}", e.why())))?;
    Ok(native.map(|()| Precompiled { kind, fingerprint: config.fingerprint, wasm: wasm.clone(), code }))
}

/// Code as it was before it was compressed.
fn unpack(packed: &[u8], most: u64) -> Result<Vec<u8>> {
    let mut code = Vec::new();
    let unpacked = zstd::stream::read::Decoder::new(packed).and_then(|mut decoder| {
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        decoder.take(most + 1).read_to_end(&mut code)
    });
    match unpacked {
        Ok(bytes) if bytes as u64 > most => {
            Err(Error::new(ErrorKind::Refused, format!("it unpacks to more than {most} bytes")))
        }
        Ok(_) => Ok(code),
        Err(e) => Err(Error::new(ErrorKind::Refused, format!("it can't be unpacked: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::unpack;

    #[test]
    fn what_was_compressed_is_unpacked_up_to_a_bound() {
        let code: Vec<u8> = (0..100_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&code, super::COMPRESSION_LEVEL).unwrap();
        assert!(packed.len() < code.len() / 2);
        assert_eq!(unpack(&packed, code.len() as u64).unwrap(), code);
        let error = unpack(&packed, code.len() as u64 - 1).unwrap_err();
        assert!(error.why().contains("unpacks to more than"), "{}", error.why());
        // Cut off, and something else.
        assert!(unpack(&packed[..packed.len() / 2], 1 << 20).is_err());
        assert!(unpack(b"machine code", 1 << 20).is_err());
    }
}
