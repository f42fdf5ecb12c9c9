//! Owns what a submit may ask for: every bound of a [`TaskSpec`], each violation with its field's name.

use std::str::FromStr;

use vyr_proto::v0::{ExecutionPath, OnBusy, OnInterrupt, PullPolicy, RetryOn, TaskSpec};

use super::view::LAST_SECOND;
use super::{MAX_ATTEMPTS, MAX_LOG_BYTES};
use crate::oci::ArtifactRef;

/// The most standard input that a submit may carry, in bytes.
pub const MAX_STDIN_BYTES: usize = 1 << 20;
/// The longest that a container may have between the stop signal and being killed.
pub(super) const MAX_STOP_GRACE: std::time::Duration = std::time::Duration::from_secs(600);
const MAX_ARGS: usize = 4096;
const MAX_ENV: usize = 4096;
/// Arguments and environment together, in bytes: a guest's copy is made at each start.
const MAX_WORDS_BYTES: usize = 1 << 20;
const MAX_LABELS: usize = 64;
/// What version 00 of the format has is 55 bytes; later ones may be longer.
const MAX_TRACEPARENT_BYTES: usize = 256;
const MAX_KEY_BYTES: usize = 128;
const MAX_ALLOW_NET: usize = 64;
const MAX_STATES: usize = 64;

/// Everything that is wrong with a submit, each as the field's path and what is wrong with it.
#[must_use]
pub fn check(spec: &TaskSpec, idempotency_key: &str) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut say = |field: &str, why: String| wrong.push((field.to_owned(), why));
    match ArtifactRef::from_str(&spec.reference) {
        Ok(ArtifactRef::Layout { .. }) => {
            say("spec.reference", "a path of this machine can't be submitted; name a registry or a digest".into());
        }
        Ok(_) => {}
        Err(e) => say("spec.reference", e.why().to_owned()),
    }
    if spec.args.len() > MAX_ARGS {
        say("spec.args", format!("{} arguments; at most {MAX_ARGS} are taken", spec.args.len()));
    }
    if spec.env.len() > MAX_ENV {
        say("spec.env", format!("{} variables; at most {MAX_ENV} are taken", spec.env.len()));
    }
    if let Some(key) = spec.env.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
        say("spec.env", format!("`{}` can't name a variable", key.escape_debug()));
    }
    if spec.args.iter().chain(spec.env.values()).any(|word| word.contains('\0')) {
        say("spec.args", "an argument or a variable holds a NUL, which ends a string in the guest".into());
    }
    let words = spec.args.iter().map(String::len).sum::<usize>()
        + spec.env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    if words > MAX_WORDS_BYTES {
        say("spec.args", format!("arguments and variables take {words} bytes; at most {MAX_WORDS_BYTES} are taken"));
    }
    if spec.stdin.len() > MAX_STDIN_BYTES {
        say("spec.stdin", format!("{} bytes; at most {MAX_STDIN_BYTES} are taken", spec.stdin.len()));
    }
    if OnInterrupt::try_from(spec.on_interrupt).is_err() {
        say("spec.on_interrupt", format!("{} is not a value of OnInterrupt", spec.on_interrupt));
    }
    if PullPolicy::try_from(spec.pull).is_err() {
        say("spec.pull", format!("{} is not a value of PullPolicy", spec.pull));
    }
    if ExecutionPath::try_from(spec.path).is_err() {
        say("spec.path", format!("{} is not a value of ExecutionPath", spec.path));
    }
    if spec.deterministic.is_some() && spec.path() == ExecutionPath::Container {
        say("spec.deterministic", "a container has the machine's own time and chance; leave the path open".into());
    }
    if let Some(start) = spec.deterministic.as_ref().and_then(|made| made.start)
        && !u64::try_from(start.seconds).is_ok_and(|seconds| seconds <= LAST_SECOND)
    {
        say("spec.deterministic.start", "must be from 1970 to 9999".into());
    }
    if let Some(container) = &spec.container {
        let words = container.entrypoint.iter().chain([&container.user, &container.working_dir]);
        if container.entrypoint.len() > MAX_ARGS || words.clone().map(String::len).sum::<usize>() > MAX_WORDS_BYTES {
            say("spec.container", format!("at most {MAX_ARGS} words of {MAX_WORDS_BYTES} bytes together are taken"));
        }
        if words.into_iter().any(|word| word.contains('\0')) {
            say("spec.container", "a word holds a NUL, which ends a string in the container".into());
        }
        if !container.working_dir.is_empty() && !container.working_dir.starts_with('/') {
            say("spec.container.working_dir", "must be an absolute path".into());
        }
        let bounded = |grace| std::time::Duration::try_from(grace).is_ok_and(|grace| grace <= MAX_STOP_GRACE);
        if container.stop_grace.is_some_and(|grace| !bounded(grace)) {
            say("spec.container.stop_grace", format!("must be 0 to {} s", MAX_STOP_GRACE.as_secs()));
        }
    }
    if let Some(limits) = &spec.limits {
        for (field, limit) in [("spec.limits.timeout", limits.timeout), ("spec.limits.cpu", limits.cpu)] {
            if limit.is_some_and(|l| std::time::Duration::try_from(l).map_or(true, |l| l.is_zero())) {
                say(field, "must be longer than 0".into());
            }
        }
        if limits.log_bytes > MAX_LOG_BYTES {
            say("spec.limits.log_bytes", format!("at most {MAX_LOG_BYTES}"));
        }
    }
    if let Some(retry) = &spec.retry {
        if retry.max_attempts == 0 || retry.max_attempts > MAX_ATTEMPTS {
            say("spec.retry.max_attempts", format!("must be 1 to {MAX_ATTEMPTS}"));
        }
        if retry.on.is_empty() {
            say("spec.retry.on", "must say what another attempt is made for".into());
        }
        if retry.on.iter().any(|on| matches!(RetryOn::try_from(*on), Err(_) | Ok(RetryOn::Unspecified))) {
            say("spec.retry.on", "holds what is not a value of RetryOn".into());
        }
        let waits =
            [("spec.retry.initial_backoff", retry.initial_backoff), ("spec.retry.max_backoff", retry.max_backoff)];
        for (field, wait) in waits {
            if wait.is_some_and(|w| std::time::Duration::try_from(w).is_err()) {
                say(field, "must not be negative".into());
            }
        }
    }
    if spec.allow_net.len() > MAX_ALLOW_NET {
        say("spec.allow_net", format!("{} rules; at most {MAX_ALLOW_NET} are taken", spec.allow_net.len()));
    }
    if spec.deterministic.is_some() && !spec.allow_net.is_empty() {
        say(
            "spec.deterministic",
            "what comes over the network is not the same each time; leave allow_net empty".into(),
        );
    }
    if spec.states.len() > MAX_STATES {
        say("spec.states", format!("{} states; at most {MAX_STATES} are taken", spec.states.len()));
    }
    if spec.states.iter().any(|binding| OnBusy::try_from(binding.on_busy).is_err()) {
        say("spec.states", "holds what is not a value of OnBusy".into());
    }
    if spec.labels.len() > MAX_LABELS {
        say("spec.labels", format!("{} labels; at most {MAX_LABELS} are taken", spec.labels.len()));
    }
    if spec.labels.iter().any(|(k, v)| k.is_empty() || k.len() > 63 || v.len() > 255) {
        say("spec.labels", "keys have 1 to 63 bytes, values at most 255".into());
    }
    if spec.traceparent.len() > MAX_TRACEPARENT_BYTES {
        say("spec.traceparent", format!("at most {MAX_TRACEPARENT_BYTES} bytes"));
    }
    if idempotency_key.len() > MAX_KEY_BYTES {
        say("idempotency_key", format!("at most {MAX_KEY_BYTES} bytes"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::Container;

    use super::*;

    fn spec() -> TaskSpec {
        TaskSpec { reference: format!("localhost:5000/app@sha256:{}", "a".repeat(64)), ..Default::default() }
    }

    #[test]
    fn each_bound_is_named_by_its_field() {
        assert_eq!(check(&spec(), ""), []);
        let fields = |change: &dyn Fn(&mut TaskSpec)| {
            let mut spec = spec();
            change(&mut spec);
            check(&spec, "").into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&|s| s.reference.clear()), ["spec.reference"]);
        assert_eq!(fields(&|s| s.reference = "oci:/etc".into()), ["spec.reference"]);
        assert_eq!(fields(&|s| s.args = vec!["x".repeat(2 << 20)]), ["spec.args"]);
        assert_eq!(fields(&|s| s.env = (0..100_000).map(|i| (format!("V{i}"), String::new())).collect()), ["spec.env"]);
        assert_eq!(fields(&|s| drop(s.env.insert("A=B".into(), String::new()))), ["spec.env"]);
        assert_eq!(fields(&|s| s.stdin = vec![0; (1 << 20) + 1].into()), ["spec.stdin"]);
        assert_eq!(fields(&|s| s.on_interrupt = 77), ["spec.on_interrupt"]);
        assert_eq!(fields(&|s| s.retry = Some(Default::default())), ["spec.retry.max_attempts", "spec.retry.on"]);
        assert_eq!(fields(&|s| s.path = 77), ["spec.path"]);
        assert_eq!(
            fields(&|s| {
                s.path = ExecutionPath::Container.into();
                s.deterministic = Some(Default::default());
            }),
            ["spec.deterministic"]
        );
        for seconds in [-1, 253_402_300_800, i64::MAX] {
            let start = Some(prost_types::Timestamp { seconds, nanos: 0 });
            let made = vyr_proto::v0::Deterministic { start, ..Default::default() };
            assert_eq!(fields(&|s| s.deterministic = Some(made)), ["spec.deterministic.start"], "{seconds}");
        }
        assert_eq!(
            fields(&|s| s.container = Some(Container { working_dir: "relative".into(), ..Default::default() })),
            ["spec.container.working_dir"]
        );
        assert_eq!(
            fields(&|s| s.container = Some(Container { user: "a\0b".into(), ..Default::default() })),
            ["spec.container"]
        );
        let zero = prost_types::Duration { seconds: 0, nanos: 0 };
        assert_eq!(
            fields(&|s| s.limits = Some(vyr_proto::v0::Limits { timeout: Some(zero), ..Default::default() })),
            ["spec.limits.timeout"]
        );
        assert_eq!(check(&spec(), &"k".repeat(129)).len(), 1);
    }
}
