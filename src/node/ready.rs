//! Owns the guests that are ready to be instantiated: verified under the trust policy in force, compiled, linked, mapped.
//! The least recently used go when their code takes more than was set.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use vyr_proto::v0::{ExecutionPath, PullPolicy, StartTier, TaskSpec};

use crate::error::{Error, Result};
use crate::fallback::PathChoice;
use crate::oci::{ArtifactRef, Digest, parse_reference};
use crate::ops::Vyr;
use crate::ops::audit::AskedBy;
use crate::ops::prepare::{Runnable, Wanted, prepare, prepare_instead};
use crate::ops::pull::Purpose;
use crate::ops::resolve::{PullMode, locate};
use crate::ops::verify::Policy;

/// Roughly how many guests are kept; the bound is their bytes.
const GUESTS: usize = 512;
/// A guest's bookkeeping, counted with its code, in bytes.
const OVERHEAD: u64 = 64 << 10;
/// The trust policy's files are looked at for each task; the keys it names are read again this often.
const RELOAD: Duration = Duration::from_secs(2);
/// How long a failure is kept for those who waited for the attempt: they look at once.
const FAILED: Duration = Duration::from_secs(10);

/// Guests by the reference with digest that they were submitted under: what the trust policy says depends on both, and on
/// where the content is from, which was asked when they were made.
#[derive(Debug)]
pub(super) struct ReadyGuests {
    guests: Cache<String, Arc<Runnable>, ByCode>,
    policy: Mutex<PolicyInForce>,
    /// Failures of the last seconds, by the same names.
    failed: Mutex<HashMap<String, (Instant, Error)>>,
    compiled_only: bool,
}

#[derive(Debug, Clone)]
struct ByCode;

impl Weighter<String, Arc<Runnable>> for ByCode {
    fn weight(&self, _reference: &String, guest: &Arc<Runnable>) -> u64 {
        guest.mapped_bytes() as u64 + OVERHEAD
    }
}

/// What a file looked like: device, inode, size, modification and change times.
type Look = Option<(u64, u64, u64, i64, i64, i64, i64)>;

#[derive(Debug, Default)]
struct PolicyInForce {
    looks: [Look; 2],
    loaded: Option<Instant>,
    hash: Option<Arc<str>>,
}

fn look(path: &Path) -> Look {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()))
}

impl ReadyGuests {
    pub(super) fn new(code_bytes: u64, compiled_only: bool) -> Self {
        Self {
            guests: Cache::with_weighter(GUESTS, code_bytes, ByCode),
            policy: Mutex::default(),
            failed: Mutex::default(),
            compiled_only,
        }
    }

    /// What the guests take, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.guests.weight()
    }

    /// The hash of the trust policy in force; `None` when it can't be loaded: then nothing is ready.
    fn policy(&self, vyr: &Vyr) -> Option<Arc<str>> {
        let config = vyr.config();
        let looks = [look(&config.trust_policy), look(&config.home.machine_public_key())];
        let mut known = self.policy.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looks != looks || known.loaded.is_none_or(|at| at.elapsed() > RELOAD) {
            let hash = Policy::load(vyr).ok().map(|policy| Arc::from(policy.hash()));
            *known = PolicyInForce { looks, loaded: Some(Instant::now()), hash };
        }
        known.hash.clone()
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, (Instant, Error)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The failure of an attempt that ended since `came`.
    fn failed_since(&self, name: &str, came: Instant) -> Option<Error> {
        self.failures().get(name).filter(|(ended, _)| *ended >= came).map(|(_, e)| e.clone())
    }

    fn note_failed(&self, name: &str, error: &Error) {
        let mut failures = self.failures();
        failures.retain(|_, (ended, _)| ended.elapsed() < FAILED);
        failures.insert(name.to_owned(), (Instant::now(), error.clone()));
    }

    /// The guest of a task, if it is ready and nothing has to be asked.
    pub(super) fn hot(&self, vyr: &Vyr, spec: &TaskSpec) -> Option<Arc<Runnable>> {
        if spec.pull() == PullPolicy::Always || spec.allow_unsigned {
            return None;
        }
        self.under_policy(vyr, &key(vyr, &spec.reference, spec))
    }

    fn under_policy(&self, vyr: &Vyr, reference: &str) -> Option<Arc<Runnable>> {
        let guest = self.guests.get(reference)?;
        self.policy(vyr).is_some_and(|policy| *policy == *guest.policy).then_some(guest)
    }

    /// What is mapped: the digests that were asked for.
    pub(super) fn digests(&self) -> HashSet<Digest> {
        self.guests.iter().map(|(_, guest)| guest.root.clone()).collect()
    }

    fn wanted(&self, spec: &TaskSpec, reference: ArtifactRef, pull: PullMode, asked_by: AskedBy) -> Wanted {
        Wanted {
            asked_by: Some(asked_by),
            reference,
            pull,
            allow_unsigned: spec.allow_unsigned,
            compiled_only: self.compiled_only,
            deterministic: spec.deterministic.is_some(),
            path: match spec.path() {
                ExecutionPath::Unspecified => PathChoice::Auto,
                ExecutionPath::Wasm => PathChoice::Wasm,
                ExecutionPath::Container => PathChoice::Container,
            },
        }
    }

    /// Makes the container ready that is beside a Wasm which could not be started.
    pub(super) async fn instead(
        &self,
        vyr: &Vyr,
        spec: &TaskSpec,
        runnable: &Runnable,
        error: Error,
        asked_by: AskedBy,
    ) -> Result<(Arc<Runnable>, StartTier)> {
        let wanted = self.wanted(spec, spec.reference.parse()?, PullMode::Missing, asked_by);
        let container = prepare_instead(vyr, &wanted, runnable, error).await?;
        let tier = tier(&container);
        Ok((Arc::new(container), tier))
    }

    /// Makes a task's guest ready, once for all that want it at a time. `root` is told which digest the reference names, as
    /// soon as that is known.
    pub(super) async fn prepare(
        &self,
        vyr: &Vyr,
        spec: &TaskSpec,
        asked_by: AskedBy,
        root: &OnceLock<Digest>,
    ) -> Result<(Arc<Runnable>, StartTier)> {
        let mut reference: ArtifactRef = spec.reference.parse()?;
        let mut pull = match spec.pull() {
            PullPolicy::Always => PullMode::Always,
            PullPolicy::Never => PullMode::Never,
            PullPolicy::Missing | PullPolicy::Unspecified => PullMode::Missing,
        };
        if spec.allow_unsigned {
            // Each such run is on record by itself, and proves nothing for another.
            let runnable = prepare(vyr, &self.wanted(spec, reference, pull, asked_by)).await?;
            let tier = tier(&runnable);
            return Ok((Arc::new(runnable), tier));
        }
        let mut pulled = false;
        let mut name = spec.reference.clone();
        if let ArtifactRef::Registry(registry) = &reference
            && (registry.digest().is_none() || pull == PullMode::Always)
        {
            let located = locate(vyr, &reference, pull, Purpose::Run).await?;
            pulled = located.pulled;
            let _ = root.set(located.root.clone());
            name = format!("{}/{}@{}", registry.registry(), registry.repository(), located.root);
            reference = ArtifactRef::Registry(parse_reference(&name)?);
            pull = PullMode::Missing;
        }
        let name = key(vyr, &name, spec);
        if let Some(runnable) = self.under_policy(vyr, &name) {
            return Ok((runnable, if pulled { StartTier::S0 } else { StartTier::S3 }));
        }
        // What is there was made ready under another policy; one that is being made ready now stays, to be waited for.
        let policy = self.policy(vyr);
        self.guests.remove_if(&name, |guest| policy.as_deref() != Some(&*guest.policy));
        let (mut own, came) = (None, Instant::now());
        let guest = self
            .guests
            .get_or_insert_async(&name, async {
                // Whoever waited for one that failed has its failure: to try again one after the other would take for ever.
                if let Some(e) = self.failed_since(&name, came) {
                    return Err(e);
                }
                match prepare(vyr, &self.wanted(spec, reference, pull, asked_by)).await {
                    Ok(runnable) => {
                        own = Some(tier(&runnable));
                        Ok(Arc::new(runnable))
                    }
                    Err(e) => {
                        self.note_failed(&name, &e);
                        Err(e)
                    }
                }
            })
            .await?;
        let tier = match own {
            Some(_) if pulled => StartTier::S0,
            Some(tier) => tier,
            None => StartTier::S3,
        };
        Ok((guest, tier))
    }
}

/// Guests that give the same output everywhere are compiled apart, and which way may be taken decides what is ready. Whose
/// rule counts for a digest alone depends on what the store knows of where it's from.
fn key(vyr: &Vyr, reference: &str, spec: &TaskSpec) -> String {
    let way = match (spec.deterministic.is_some(), spec.path()) {
        (true, _) => "#deterministic",
        (false, ExecutionPath::Unspecified) => "",
        (false, ExecutionPath::Wasm) => "#wasm",
        (false, ExecutionPath::Container) => "#container",
    };
    match reference.starts_with("sha256:") || reference.starts_with("sha512:") {
        true => format!("{reference}{way}#{}", vyr.origins_version()),
        false if way.is_empty() => reference.to_owned(),
        false => format!("{reference}{way}"),
    }
}

fn tier(runnable: &Runnable) -> StartTier {
    match runnable.tier {
        "S0" => StartTier::S0,
        "S1" => StartTier::S1,
        _ => StartTier::S2,
    }
}
