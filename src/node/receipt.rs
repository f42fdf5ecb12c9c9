//! Owns the receipts of tasks: made of a task's record when it ends, signed, kept beside it.

use bytes::Bytes;
use vyr_proto::v0::{ExecutionPath, Task};

use super::Node;
use super::live::Live;
use crate::engine::{Limits, WASMTIME};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, parse_digest, repository_of};
use crate::receipt::{
    ArtifactFacts, EndFacts, EngineFacts, InputFacts, LimitFacts, MadeFacts, Predicate, Receipt, Sealed, StartFacts,
    TaskFacts, UseFacts, VerifiedFacts, Word, digest_of,
};
use crate::task::{StatusExt as _, TaskId, instant, reason_word, rfc3339, tier_word, timestamp, to_duration};

fn micros(duration: Option<prost_types::Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(to_duration(d).as_micros()).unwrap_or(u64::MAX))
}

impl Node {
    /// The signed receipt of a task that ends so; `None` where there are none, and for one whose artifact's digest was
    /// never known: it has no subject.
    pub(super) fn receipt_of(&self, live: &Live, record: &Task) -> Option<Bytes> {
        let key = self.inner.receipt_key.as_ref()?;
        let receipt = receipt(live, record)?;
        match Sealed::seal(key, &receipt) {
            Ok(sealed) => Some(sealed.to_bytes().into()),
            Err(e) => {
                tracing::error!(task = %live.id, error = %e, "a task's receipt could not be signed");
                None
            }
        }
    }

    /// The receipt of a task that has ended, as a Sigstore bundle.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: there is no such task, it has not ended, or it has none.
    pub async fn receipt(&self, id: TaskId) -> Result<Vec<u8>> {
        // Says so where there is no such task.
        let task = self.get(id, None).await?;
        let kept = self.inner.db.receipt(id).await?.as_deref().and_then(Sealed::from_bytes);
        let Some(kept) = kept else {
            let error = if task.ended_at.is_none() {
                Error::new(ErrorKind::NotFound, format!("task {id} has not ended"))
                    .hint(format_args!("`vyr wait {id}`"))
            } else {
                Error::new(ErrorKind::NotFound, format!("task {id} has no receipt")).hint(
                    "receipts are made where the node makes them (not under --no-receipts) and the artifact's digest \
                     came to be known",
                )
            };
            return Err(error);
        };
        kept.bundle()
    }
}

fn subject(live: &Live, record: &Task) -> Option<(Digest, String)> {
    let reference: Option<ArtifactRef> = live.spec.reference.parse().ok();
    let ran = record.execution.as_ref().and_then(|execution| parse_digest(&execution.digest).ok());
    let asked = || reference.as_ref()?.digest().ok().flatten();
    let digest = ran.or_else(asked).or_else(|| live.root.get().cloned())?;
    let name = match &reference {
        Some(ArtifactRef::Registry(reference)) => repository_of(reference),
        _ => digest.to_string(),
    };
    Some((digest, name))
}

fn receipt(live: &Live, record: &Task) -> Option<Receipt> {
    let (subject, name) = subject(live, record)?;
    let spec = &live.spec;
    let execution = record.execution.clone().unwrap_or_default();
    let end = record.end.clone().unwrap_or_default();
    let limits = spec.limits.unwrap_or_default();
    let runnable = live.runnable();
    let path = match execution.path() {
        ExecutionPath::Wasm => "wasm",
        ExecutionPath::Container => "container",
        ExecutionPath::Unspecified => "",
    };
    let tier = if path.is_empty() { String::new() } else { tier_word(execution.tier()).to_owned() };
    let time = |time: Option<prost_types::Timestamp>| time.map(|time| rfc3339(instant(time)));
    let predicate = Predicate {
        task: TaskFacts {
            id: live.id.to_string(),
            attempt: record.attempt,
            submitter: live.submitter.to_string(),
            trace_id: live.trace.trace_id(),
        },
        artifact: ArtifactFacts {
            reference: spec.reference.clone(),
            manifest: execution.manifest,
            code: execution.code,
            form: execution.form,
            path: path.to_owned(),
            fallback_reason: execution.fallback_reason,
        },
        verified: VerifiedFacts {
            acceptance: execution.acceptance,
            signed_digest: execution.signed_digest,
            policy: runnable.map(|runnable| runnable.policy.clone()).unwrap_or_default(),
        },
        inputs: InputFacts {
            args: spec.args.iter().map(|arg| Word::new(arg, spec.receipt_values)).collect(),
            env: spec.env.iter().map(|(name, value)| (name.clone(), Word::new(value, spec.receipt_values))).collect(),
            stdin: digest_of(&spec.stdin),
            allow_net: spec.allow_net.clone(),
            states: live.state_facts(),
        },
        limits: LimitFacts {
            memory_bytes: if limits.memory_bytes == 0 { Limits::default().memory_bytes } else { limits.memory_bytes },
            wall_us: micros(limits.timeout),
            cpu_us: micros(limits.cpu),
        },
        outputs: live.log.sums(),
        end: EndFacts {
            status: record.status().word().to_owned(),
            reason: reason_word(end.reason()),
            exit_code: end.exit_code,
            message: end.message,
            at: time(record.ended_at).unwrap_or_default(),
        },
        used: UseFacts {
            run_us: micros(execution.run),
            cpu_us: micros(execution.cpu),
            peak_memory_bytes: execution.peak_memory_bytes,
        },
        start: StartFacts {
            tier,
            submitted: rfc3339(instant(timestamp(live.submitted_us))),
            started: time(record.started_at),
        },
        engine: EngineFacts {
            vyr: env!("CARGO_PKG_VERSION").into(),
            wasmtime: WASMTIME.into(),
            container: execution.engine,
            platform: format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
            deterministic: spec.deterministic.map(|made| {
                let made = super::attempt::made(made);
                MadeFacts { seed: made.seed, start: rfc3339(made.start) }
            }),
        },
    };
    Some(Receipt { subject, name, predicate })
}
