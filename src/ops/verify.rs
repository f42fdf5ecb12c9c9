//! Owns the question to the trust policy: which signatures the store holds for a digest, and what the policy says.

use super::audit::Deed;
use super::pull::refresh_signatures;
use super::resolve::{Located, prove_origin};
use super::{Vyr, audit};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, MAX_MANIFEST_BYTES};
use crate::store::StoreError;
use crate::telemetry;
use crate::trust::{
    self, Acceptance, Override, Refusal, SignatureMaterial, TrustPolicy, Unusable, Verified, VerifyingKey,
};

/// The largest signature blob that is read, in bytes: over it the trust module refuses by itself.
const MAX_SIGNATURE_BYTES: u64 = 8 << 20;

/// The policy in force on this machine.
#[derive(Debug)]
pub struct Policy {
    policy: TrustPolicy,
    machine_key: Option<VerifyingKey>,
    hash: String,
}

impl Policy {
    /// Reads the policy and this machine's public key. No key is parsed yet: a run that was verified before needs only
    /// the hash.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for a policy that can't be read or parsed: then nothing runs.
    pub fn load(vyr: &Vyr) -> Result<Self> {
        let config = vyr.config();
        let policy = if config.trust_policy_named {
            TrustPolicy::load(&config.trust_policy)
        } else {
            TrustPolicy::load_or_default(&config.trust_policy)
        };
        let policy = policy.map_err(|e| {
            let e = Error::from(e);
            let path = config.trust_policy.display().to_string();
            let why = if e.why().contains(&path) { e.why().to_owned() } else { format!("{path}: {}", e.why()) };
            Error::new(e.kind(), why).hint(e.next().unwrap_or("see docs/trust.md for what a policy may say"))
        })?;
        let path = config.home.machine_public_key();
        let machine_key = match std::fs::read_to_string(&path) {
            Ok(pem) => Some(VerifyingKey::from_pem(&pem)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::new(ErrorKind::Storage, format!("{} can't be read: {e}", path.display()))),
        };
        let hash = policy.hash(machine_key.as_ref()).to_string();
        Ok(Self { policy, machine_key, hash })
    }

    /// What the memo of a verification is keyed by.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// This machine's public key.
    pub(super) fn machine_key(&self) -> Option<&VerifyingKey> {
        self.machine_key.as_ref()
    }

    /// What the policy says of a digest with these signatures.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn judge_one(
        &self,
        repository: &str,
        digest: &Digest,
        material: &[SignatureMaterial],
        overrule: Override,
    ) -> Result<trust::Acceptance, Refusal> {
        trust::verify(&self.policy, self.machine_key.as_ref(), Some(repository), digest, material, overrule)
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &TrustPolicy {
        &self.policy
    }

    /// The same with other rules, which nothing remembers yet.
    pub(super) fn with_rules(self, policy: TrustPolicy) -> Self {
        Self { hash: policy.hash(self.machine_key.as_ref()).to_string(), policy, machine_key: self.machine_key }
    }

    /// What it says about `digests`, of which one has to be vouched for, each with the signatures that were found.
    pub(super) fn judge(
        &self,
        repository: Option<&str>,
        digests: &[(Digest, Vec<SignatureMaterial>)],
        overrule: Override,
    ) -> Result<Verified<()>, Refusal> {
        let mut first: Option<Refusal> = None;
        for (digest, material) in digests {
            let machine = self.machine_key.as_ref();
            match trust::verify_value((), &self.policy, machine, repository, digest, material, overrule) {
                Ok(verified) => return Ok(verified),
                // "Has no signature" says least: another digest's refusal says more.
                Err(refusal) if first.as_ref().is_none_or(|f| matches!(f, Refusal::Unsigned { .. })) => {
                    first = Some(refusal);
                }
                Err(_) => {}
            }
        }
        let unsigned = || digests.first().map_or_else(String::new, |(digest, _)| digest.to_string());
        Err(first.unwrap_or_else(|| Refusal::Unsigned { digest: unsigned() }))
    }
}

/// Asks the policy about `located` and the manifest `selected` that runs (the same, or one that the index lists; the
/// signature of either counts). Where the store's signatures don't do and there is a network, the registry is asked
/// for newer ones once.
///
/// # Errors
/// [`ErrorKind::Refused`], with the refusal that came nearest to success.
#[tracing::instrument(name = "verify", skip_all, err(Display), fields(digest = %located.root, repository = located.repository))]
pub async fn verify(vyr: &Vyr, policy: &Policy, located: &mut Located, selected: &Digest) -> Result<Verified<()>> {
    let mut digests = vec![located.root.clone()];
    if *selected != located.root {
        digests.push(selected.clone());
    }
    let mut refusal = match ask(vyr, policy, located, &digests, Override::None).await? {
        Ok(accepted) => return Ok(accepted),
        Err(refusal) => refusal,
    };
    // Where it's said to be from can be asked.
    if matches!(refusal, Refusal::OnlySaid { .. }) && !vyr.config().offline {
        match prove_origin(vyr, located).await {
            Ok(()) => match ask(vyr, policy, located, &digests, Override::None).await? {
                Ok(accepted) => return Ok(accepted),
                Err(now) => refusal = now,
            },
            Err(e) => vyr.reporter().note(&format!("where it is from could not be looked up: {}", e.why())),
        }
    }
    // The artifact may have been signed after it was pulled.
    if let Some(reference) = located.reference.clone().filter(|_| !located.pulled && !vyr.config().offline) {
        match refresh_signatures(vyr, &reference, &digests).await {
            Ok(unusable) => {
                located.unusable = unusable;
                match ask(vyr, policy, located, &digests, Override::None).await? {
                    Ok(accepted) => return Ok(accepted),
                    Err(newer) => refusal = newer,
                }
            }
            Err(e) => vyr.reporter().note(&format!("newer signatures could not be looked up: {}", e.why())),
        }
    }
    telemetry::count::refused(refusal.word());
    Err(refusal.into())
}

/// Whether it is refused for want of any signature. That is no verdict on it where nobody has asked to run it: its signature
/// may be on its way.
///
/// # Errors
/// The store can't be read.
pub(super) async fn is_unsigned(vyr: &Vyr, policy: &Policy, located: &Located, selected: &Digest) -> Result<bool> {
    let digests = [located.root.clone(), selected.clone()];
    Ok(matches!(ask(vyr, policy, located, &digests, Override::None).await?, Err(Refusal::Unsigned { .. })))
}

/// As [`verify`], but goes on where the policy refuses, and records it first.
///
/// # Errors
/// As [`verify`], but for refusals; when it can't be recorded.
pub async fn verify_or_overrule(
    vyr: &Vyr,
    policy: &Policy,
    located: &mut Located,
    selected: &Digest,
    deed: Deed<'_>,
) -> Result<Verified<()>> {
    let refusal = match verify(vyr, policy, located, selected).await {
        Err(e) if e.kind() == ErrorKind::Refused => e,
        other => return other,
    };
    // A rule that rejects stays: then this refuses too.
    let digests = [located.root.clone()];
    let overruled = ask(vyr, policy, located, &digests, Override::AllowUnsigned).await??;
    audit::unsigned(vyr, deed, &located.root, refusal.why())?;
    vyr.reporter().warning(&format!("running although {} (--allow-unsigned)", refusal.why()));
    Ok(overruled)
}

async fn ask(
    vyr: &Vyr,
    policy: &Policy,
    located: &Located,
    digests: &[Digest],
    overrule: Override,
) -> Result<Result<Verified<()>, Refusal>> {
    let mut found = Vec::new();
    for digest in digests {
        let mut material = stored(vyr, digest, located.repository.as_deref()).await?;
        material.extend(located.unusable.iter().cloned());
        found.push((digest.clone(), material));
    }
    let repository = located.repository.as_deref();
    let judged = policy.judge(repository, &found, overrule);
    // A rule that lets in what nobody signed goes by the place alone, and who brought this said which place that is.
    if located.claimed
        && matches!(&judged, Ok(accepted) if matches!(accepted.acceptance(), Acceptance::Unsigned { .. }))
    {
        return Ok(policy.judge(None, &found, overrule).map_err(|refusal| match refusal {
            // That is not overruled.
            Refusal::RejectedByRule { .. } if matches!(overrule, Override::AllowUnsigned) => refusal,
            _ => Refusal::OnlySaid {
                digest: located.root.to_string(),
                repository: repository.unwrap_or_default().to_owned(),
            },
        }));
    }
    Ok(judged)
}

/// The signatures of `digest` that the store holds, re-hashed as they are read; those that stand in `repository`
/// (`host[:port]/repository`) first, since only so many are looked at and anybody who may write elsewhere in this store can
/// put some there. What is damaged or absent can't be used, and hides no other.
///
/// # Errors
/// The disk's own.
pub async fn stored(vyr: &Vyr, digest: &Digest, repository: Option<&str>) -> Result<Vec<SignatureMaterial>> {
    let store = vyr.store().await?;
    let wanted = trust::sig_tag(digest);
    // The host of a name is what this machine is called; the path is what says where in a registry it stands.
    let path = |name: &str| name.split_once('/').map_or_else(|| name.to_owned(), |(_, path)| path.to_owned());
    let own = repository.map(path);
    let stands_here = |name: &str| own.is_some() && name.rsplit_once(':').map(|(name, _)| path(name)) == own;
    let mut tagged: Vec<(bool, Digest)> = Vec::new();
    for (name, manifest) in store.signature_tags(digest).await? {
        if name.rsplit_once(':').is_some_and(|(_, tag)| tag == wanted) {
            tagged.push((!stands_here(&name), manifest));
        }
    }
    let here = match &own {
        Some(own) => store.shown_referrers(own, digest, None).await?,
        None => Vec::new(),
    };
    let mut referring: Vec<(bool, Digest)> = store
        .referrers(digest, None)
        .await?
        .into_iter()
        .filter(|referrer| !trust::states_something_else(referrer.annotations().as_ref()))
        .map(|referrer| (!here.iter().any(|h| h.digest() == referrer.digest()), referrer.digest().clone()))
        .collect();
    tagged.sort_by_key(|(elsewhere, _)| *elsewhere);
    referring.sort_by_key(|(elsewhere, _)| *elsewhere);
    let all = |elsewhere: bool| {
        let of = move |carriers: &[(bool, Digest)]| -> Vec<Digest> {
            carriers.iter().filter(|(e, _)| *e == elsewhere).map(|(_, digest)| digest.clone()).collect()
        };
        of(&tagged).into_iter().map(|digest| (true, digest)).chain(of(&referring).into_iter().map(|d| (false, d)))
    };
    let mut material: Vec<SignatureMaterial> = Vec::new();
    for (is_tag, carrier) in all(false).chain(all(true)) {
        if material.len() > trust::MAX_SIGNATURES {
            break;
        }
        for one in carried(vyr, &carrier, is_tag)? {
            if !material.contains(&one) {
                material.push(one);
            }
        }
    }
    Ok(material)
}

/// The signatures in one manifest: of the tag's form, or a referrer with a bundle.
fn carried(vyr: &Vyr, manifest: &Digest, is_tag: bool) -> Result<Vec<SignatureMaterial>> {
    // The error of a damaged or absent one says what it is; the disk's own is nobody's doing.
    let read = |digest: &Digest, most: u64| match vyr.layout().read_verified(digest, most) {
        Ok(bytes) => Ok(Ok(bytes)),
        Err(e @ StoreError::Io { .. }) => Err(e),
        Err(e) => Ok(Err(e.to_string())),
    };
    let bytes = match read(manifest, MAX_MANIFEST_BYTES)? {
        Ok(bytes) => bytes,
        Err(why) if is_tag => return Ok(vec![Unusable::Payload(why).into()]),
        Err(why) => return Ok(vec![Unusable::Bundle(why).into()]),
    };
    if is_tag {
        let (layers, mut material) = trust::sig_layers(&bytes);
        for layer in layers.into_iter().take(trust::MAX_SIGNATURES + 1) {
            material.push(match read(layer.descriptor.digest(), MAX_SIGNATURE_BYTES)? {
                Ok(payload) => layer.material(payload),
                Err(why) => Unusable::Payload(why).into(),
            });
        }
        return Ok(material);
    }
    Ok(match trust::bundle_descriptor(&bytes) {
        Ok(None) => Vec::new(),
        Err(unusable) => vec![unusable.into()],
        Ok(Some(layer)) => match read(layer.digest(), MAX_SIGNATURE_BYTES)? {
            Ok(bundle) => trust::material_from_referrer(&bytes, bundle).into_iter().collect(),
            Err(why) => vec![Unusable::Bundle(why).into()],
        },
    })
}
