//! Owns the taking of a bundle into the store: all of it is looked through and asked about first, and comes whole or not
//! at all.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact::{Manifest, offer};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, OWN_HOST, media, repository_of, sha256};
use crate::ops::audit::Deed;
use crate::ops::pull::blocking;
use crate::ops::sign::signature_name;
use crate::ops::trust::{editing, save as save_policy};
use crate::ops::verify::Policy;
use crate::ops::{Vyr, audit};
use crate::store::{LayoutSource, Listed, Survey, Taken};
use crate::trust::{self, Acceptance, Grant, Granted, Override, Refusal, SignatureMaterial, TrustPolicy};

/// The largest trusted root that is taken, in bytes.
const MAX_ROOT_BYTES: usize = 4 << 20;

/// What to load.
#[derive(Debug)]
pub struct LoadRequest {
    /// The tar, or the folder of an OCI image layout.
    pub from: PathBuf,
    /// Take what the trust policy refuses, on record.
    pub allow_unsigned: bool,
    /// Trust the signers that come with it.
    pub take_policy: bool,
}

/// One artifact.
#[derive(Debug, Clone, Serialize)]
pub struct LoadedArtifact {
    /// Its digest.
    pub digest: String,
    /// The name it has now.
    pub name: Option<String>,
    /// Why it was taken.
    pub acceptance: Acceptance,
}

/// The signers that came with it.
#[derive(Debug, Clone, Serialize)]
pub struct Offer {
    /// Those that this machine doesn't trust yet, or didn't.
    pub adds: Vec<String>,
    /// Whether it does now.
    pub taken: bool,
}

/// What was loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Loaded {
    /// The artifacts.
    pub artifacts: Vec<LoadedArtifact>,
    /// What is about them: signatures, receipts, compiled code.
    pub referrers: usize,
    /// Manifests for other platforms that were left out of it.
    pub absent: Vec<String>,
    /// The signers that came with it.
    pub policy: Option<Offer>,
}

/// Takes a bundle into the store, once every byte of it is what its digest says and the trust policy accepts each artifact.
///
/// # Errors
/// [`ErrorKind::Refused`] for content that was altered, an archive that leads out, and what the policy refuses; the kinds
/// of what is missing or malformed. Nothing was taken then.
#[tracing::instrument(skip_all, fields(from = %request.from.display()))]
pub async fn load(vyr: &Vyr, request: LoadRequest) -> Result<Loaded> {
    let from = request.from.clone();
    let survey = blocking(move || Ok(Survey::of(LayoutSource::open(&from)?)?)).await?;
    let sorted = Sorted::of(&survey)?;

    let _turn = match request.take_policy {
        true => {
            let policy = vyr.config().trust_policy.clone();
            Some(blocking(move || editing(&policy)).await?)
        }
        false => None,
    };
    let mut policy = Policy::load(vyr)?;
    let offered = sorted.policy.as_ref().map(|listed| grants(&survey, listed)).transpose()?;
    let adds = match &offered {
        Some(grants) => policy.rules().lacking(grants, policy.machine_key())?,
        None => Vec::new(),
    };
    if request.take_policy {
        let mut rules = policy.rules().clone();
        take(vyr, &mut rules, &adds)?;
        policy = policy.with_rules(rules);
    }

    let mut artifacts = Vec::new();
    let mut taken = Vec::new();
    for listed in &sorted.artifacts {
        let repository = repository(listed);
        let acceptance = accept(&survey, &sorted, &policy, listed, repository.as_deref())
            .or_else(|refusal| overrule(vyr, &request, listed, refusal))?;
        // Names of the own registry are given by pushes to it alone, and one that holds a digest says nothing of a tag.
        let name = listed.name.clone().filter(|name| !is_own(name) && !name.contains('@'));
        artifacts.push(LoadedArtifact { digest: listed.digest.to_string(), name: name.clone(), acceptance });
        taken.push(Taken { digest: listed.digest.clone(), name, repository });
    }
    if artifacts.is_empty() && (!request.take_policy || adds.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, "there is no artifact in it")
            .hint("make one with `vyr save REF -o bundle.tar`"));
    }
    // What nobody was asked about gets no name but that by which it is found as a signature.
    taken.extend(sorted.referrers.iter().map(|listed| {
        let tag = listed.name.as_deref().filter(|name| is_about(last(name), listed.subject.as_ref()));
        let name = tag.map(|name| if is_own(name) { signature_name(last(name)) } else { name.to_owned() });
        Taken { digest: listed.digest.clone(), name, repository: None }
    }));
    vyr.store().await?.take(&survey, &taken).await?;
    if request.take_policy && !adds.is_empty() {
        save_policy(&vyr.config().trust_policy, policy.rules().to_toml())?;
    }
    Ok(Loaded {
        artifacts,
        referrers: sorted.referrers.len(),
        absent: survey.absent().iter().map(ToString::to_string).collect(),
        policy: offered
            .map(|_| Offer { adds: adds.iter().map(ToString::to_string).collect(), taken: request.take_policy }),
    })
}

/// What is in a bundle, by what becomes of it.
struct Sorted<'a> {
    /// What the policy is asked about.
    artifacts: Vec<&'a Listed>,
    /// What is about one of those, or about one of these.
    referrers: Vec<&'a Listed>,
    policy: Option<&'a Listed>,
    about: HashMap<&'a Digest, Vec<&'a Listed>>,
}

impl<'a> Sorted<'a> {
    fn of(survey: &'a Survey) -> Result<Self> {
        let mut about: HashMap<&Digest, Vec<&Listed>> = HashMap::new();
        let (mut policy, mut artifacts) = (None, Vec::new());
        for listed in survey.listed() {
            if let Some(subject) = listed.subject.as_ref().filter(|subject| survey.has(subject)) {
                about.entry(subject).or_default().push(listed);
            } else if listed.artifact_type.as_deref() == Some(media::VYR_POLICY) {
                if policy.replace(listed).is_some() {
                    return Err(Error::new(ErrorKind::InvalidContent, "it has two trust policies"));
                }
            } else {
                // What claims to be about something that isn't here is judged by itself.
                artifacts.push(listed);
            }
        }
        // Two that are about each other hang on nothing that was judged: they aren't reached, and stay out.
        let (mut referrers, mut seen) = (Vec::new(), HashSet::new());
        let mut queue: Vec<Digest> = artifacts.iter().map(|listed| listed.digest.clone()).collect();
        while let Some(digest) = queue.pop() {
            for inside in survey.below(&digest) {
                if !seen.insert(inside.clone()) {
                    continue;
                }
                for listed in about.get(&inside).into_iter().flatten() {
                    referrers.push(*listed);
                    queue.push(listed.digest.clone());
                }
            }
        }
        Ok(Self { artifacts, referrers, policy, about })
    }

    /// The signatures of `digest` in both forms.
    fn signatures(&self, survey: &Survey, digest: &Digest) -> Result<Vec<SignatureMaterial>> {
        let mut material = Vec::new();
        let wanted = trust::sig_tag(digest);
        for listed in self.about.get(digest).into_iter().flatten() {
            let bytes = survey.manifest(&listed.digest)?;
            if listed.name.as_deref().map(last) == Some(wanted.as_str()) {
                material.extend(trust::material_from_sig_manifest(&bytes, |layer| survey.small(layer))?);
                continue;
            }
            match trust::bundle_descriptor(&bytes) {
                Ok(None) => {}
                Err(unusable) => material.push(unusable.into()),
                Ok(Some(layer)) => material.extend(trust::material_from_referrer(&bytes, survey.small(&layer)?)),
            }
        }
        Ok(material)
    }
}

fn is_own(name: &str) -> bool {
    name.strip_prefix(OWN_HOST).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a tag is one of those by which cosign finds what is about `subject`.
fn is_about(tag: &str, subject: Option<&Digest>) -> bool {
    let stem = subject.map(|subject| trust::sig_tag(subject).trim_end_matches(".sig").to_owned());
    stem.is_some_and(|stem| tag.strip_prefix(&stem).is_some_and(|rest| matches!(rest, ".sig" | ".att" | ".sbom")))
}

/// The tag in a name.
fn last(name: &str) -> &str {
    name.rsplit([':', '/']).next().unwrap_or(name)
}

/// The repository that an entry claims to come from.
fn repository(listed: &Listed) -> Option<String> {
    let named = listed.name.as_deref().and_then(|name| name.parse().ok());
    match named {
        Some(ArtifactRef::Registry(reference)) if listed.name.as_deref().is_some_and(|n| n.contains('/')) => {
            Some(repository_of(&reference))
        }
        _ => listed.repository.clone(),
    }
}

/// Why an artifact may be taken, or why not.
enum No {
    Refused(Box<Refusal>),
    /// A rule would let it in unsigned, for where it comes from; and a file can say that it comes from anywhere.
    Place(String),
    Failed(Error),
}

fn accept(
    survey: &Survey,
    sorted: &Sorted<'_>,
    policy: &Policy,
    listed: &Listed,
    repository: Option<&str>,
) -> Result<Acceptance, No> {
    let failed = |e: Error| No::Failed(e);
    let mut digests = vec![listed.digest.clone()];
    let bytes = survey.manifest(&listed.digest).map_err(|e| failed(e.into()))?;
    if let Manifest::Index(index) = Manifest::parse(&bytes, None).map_err(failed)?
        && let Some(child) = offer(&index).ok().and_then(|offer| offer.first().cloned())
    {
        if !survey.has(child.digest()) {
            let why = format!("{} needs {} on this machine, which is not in the bundle", listed.digest, child.digest());
            return Err(failed(Error::new(ErrorKind::NotFound, why).hint("save it again, without --this-platform")));
        }
        digests.push(child.digest().clone());
    }
    let found = digests.into_iter().map(|digest| Ok((digest.clone(), sorted.signatures(survey, &digest)?)));
    let found = found.collect::<Result<Vec<_>>>().map_err(failed)?;
    let judge = |repository| policy.judge(repository, &found, Override::None);
    match judge(repository) {
        Ok(accepted) if matches!(accepted.acceptance(), Acceptance::Unsigned { .. }) && judge(None).is_err() => {
            Err(No::Place(format!(
                "{} has no signature that counts, and a bundle can't prove that it comes from {}, whose content needs none",
                listed.digest,
                repository.unwrap_or("anywhere")
            )))
        }
        Ok(accepted) => Ok(accepted.acceptance().clone()),
        Err(refusal) => Err(No::Refused(Box::new(refusal))),
    }
}

/// `--allow-unsigned`: on record, and not where a rule rejects.
fn overrule(vyr: &Vyr, request: &LoadRequest, listed: &Listed, no: No) -> Result<Acceptance> {
    let (refusal, error, rejected) = match no {
        No::Failed(error) => return Err(error),
        No::Place(why) => {
            let error = Error::new(ErrorKind::Refused, &why).hint("have it signed, or load it with --allow-unsigned");
            (why, error, false)
        }
        No::Refused(refusal) => {
            let rejected = matches!(*refusal, Refusal::RejectedByRule { .. });
            let why = refusal.to_string();
            let error = match Error::from(*refusal) {
                e if rejected => e,
                e => Error::new(e.kind(), e.why()).hint(
                    "trust its signer with `vyr trust add --key FILE`, take the policy that comes with it with --take-policy, \
                     or load it with --allow-unsigned",
                ),
            };
            (why, error, rejected)
        }
    };
    if rejected || !request.allow_unsigned {
        return Err(error);
    }
    let from = request.from.display().to_string();
    audit::unsigned(vyr, Deed { verb: "load", reference: &from, asked_by: None }, &listed.digest, &refusal)?;
    vyr.reporter().warning(&format!("loading although {refusal} (--allow-unsigned)"));
    Ok(Acceptance::Unverified { overruled: refusal })
}

/// The signers in a bundle's policy artifact.
fn grants(survey: &Survey, listed: &Listed) -> Result<Vec<Grant>> {
    let bad = |why: String| Error::new(ErrorKind::InvalidContent, format!("its trust policy can't be read: {why}"));
    let bytes = survey.manifest(&listed.digest)?;
    let Manifest::Image(manifest) = Manifest::parse(&bytes, None)? else {
        return Err(bad("it is an index".to_owned()));
    };
    let layer = manifest.layers().iter().find(|layer| layer.media_type().as_ref() == media::VYR_POLICY_GRANTS);
    let layer = layer.ok_or_else(|| bad(format!("it has no {}", media::VYR_POLICY_GRANTS)))?;
    serde_json::from_slice(&survey.small(layer)?).map_err(|e| bad(e.to_string()))
}

/// Adds signers to the rules. Trusted roots become files, named by their content, beside the keys.
fn take(vyr: &Vyr, rules: &mut TrustPolicy, adds: &[Grant]) -> Result<()> {
    for grant in adds {
        let mut file = PathBuf::new();
        if let Granted::Identity { trusted_root, .. } = &grant.signer {
            if trusted_root.len() > MAX_ROOT_BYTES {
                return Err(Error::new(ErrorKind::Refused, "a trusted root in its policy is too large"));
            }
            let folder = vyr.config().home.root().join("keys/roots");
            file = folder.join(format!("{}.json", sha256(trusted_root.as_bytes()).digest()));
            write(&folder, &file, trusted_root)
                .map_err(|e| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", file.display())))?;
        }
        rules.take(grant, &file.to_string_lossy())?;
    }
    Ok(())
}

fn write(folder: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut temporary, text.as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(file).map(drop).map_err(|e| e.error)
}
