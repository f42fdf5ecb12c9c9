//! Owns how a task's specification is put together.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;
use vyr_proto::v0::{
    Container, Deterministic, ExecutionPath, Limits, OnInterrupt, PullPolicy, RetryOn, RetryPolicy, StateBinding,
    TaskSpec,
};

use crate::client::proto;

/// What is to be executed, and how. A [`TaskSpec`] with methods that set its fields; whatever it has no method for is set on
/// the fields themselves. The node's bounds are in docs/api-v0.md, "Limits"; it names each field that breaks one.
///
/// ```
/// # use std::time::Duration;
/// use vyr_client::Spec;
///
/// let mut spec = Spec::new("localhost:5000/thumbnails:v1")
///     .args(["--size", "200"])
///     .env("LANG", "C")
///     .memory(64 << 20)
///     .timeout(Duration::from_secs(30))
///     .state("cache", "thumbnail-cache");
/// spec.receipt_values = true;
/// assert_eq!(spec.args, ["--size", "200"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Spec(TaskSpec);

impl Spec {
    /// A task of the artifact `host[:port]/repository[:tag][@digest]`, or of a bare digest that the node's store has.
    pub fn new(reference: impl Into<String>) -> Self {
        Self(TaskSpec { reference: reference.into(), ..TaskSpec::default() })
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.args.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the guest's environment, which inherits nothing.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The guest's standard input; at most 1 MiB.
    pub fn stdin(mut self, bytes: impl Into<Bytes>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The most memory, in bytes. Without it: 1 GiB.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.limits_mut().memory_bytes = bytes;
        self
    }

    /// The most wall-clock time of one attempt, from the guest's start. Without it: no limit.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limits_mut().timeout = Some(proto(limit));
        self
    }

    /// The most CPU time of one attempt. Without it: no limit.
    pub fn cpu(mut self, limit: Duration) -> Self {
        self.limits_mut().cpu = Some(proto(limit));
        self
    }

    /// How much of its output is kept, in bytes. Without it: 4 MiB.
    pub fn log_bytes(mut self, bytes: u64) -> Self {
        self.limits_mut().log_bytes = bytes;
        self
    }

    /// Gives the guest the state `name` as the folder `/state/<alias>`, to read and write.
    pub fn state(self, alias: impl Into<String>, name: impl Into<String>) -> Self {
        self.state_binding(StateBinding { alias: alias.into(), state: name.into(), ..StateBinding::default() })
    }

    /// The same, to read only.
    pub fn state_read_only(self, alias: impl Into<String>, name: impl Into<String>) -> Self {
        let binding =
            StateBinding { alias: alias.into(), state: name.into(), read_only: true, ..StateBinding::default() };
        self.state_binding(binding)
    }

    /// The same, as the binding says.
    pub fn state_binding(mut self, binding: StateBinding) -> Self {
        self.states.push(binding);
        self
    }

    /// Adds a word for finding it again.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Lets the guest connect to `host:port`. Without any there is no network.
    pub fn allow_net(mut self, address: impl Into<String>) -> Self {
        self.allow_net.push(address.into());
        self
    }

    /// Tries the task again, up to `attempts` times in all, when it ends for one of these reasons.
    pub fn attempts(mut self, attempts: u32, on: impl IntoIterator<Item = RetryOn>) -> Self {
        let on = on.into_iter().map(Into::into).collect();
        self.retry = Some(RetryPolicy { max_attempts: attempts, on, ..self.retry.take().unwrap_or_default() });
        self
    }

    /// What becomes of it if the node dies while it runs. Without it: it ends as lost.
    pub fn on_interrupt(mut self, what: OnInterrupt) -> Self {
        self.on_interrupt = what.into();
        self
    }

    /// When the registry is asked. Without it: a digest only if the store lacks it, a tag each time.
    pub fn pull(mut self, policy: PullPolicy) -> Self {
        self.pull = policy.into();
        self
    }

    /// Goes on where the trust policy refuses; refused itself unless the node was started to accept it.
    pub fn allow_unsigned(mut self) -> Self {
        self.allow_unsigned = true;
        self
    }

    /// Makes time and chance from a seed, so that the output is the same each time and everywhere.
    pub fn deterministic(mut self, seed: u64) -> Self {
        self.deterministic = Some(Deterministic { seed, start: None });
        self
    }

    /// Which way it is executed. Without it: as Wasm, and as the container beside it where the Wasm can't be started.
    pub fn path(mut self, path: ExecutionPath) -> Self {
        self.path = path.into();
        self
    }

    /// How its container is run, where that is the way.
    pub fn container(mut self, container: Container) -> Self {
        self.container = Some(container);
        self
    }

    fn limits_mut(&mut self) -> &mut Limits {
        self.limits.get_or_insert_default()
    }
}

impl Deref for Spec {
    type Target = TaskSpec;

    fn deref(&self) -> &TaskSpec {
        &self.0
    }
}

impl DerefMut for Spec {
    fn deref_mut(&mut self) -> &mut TaskSpec {
        &mut self.0
    }
}

impl From<TaskSpec> for Spec {
    fn from(spec: TaskSpec) -> Self {
        Self(spec)
    }
}

impl From<Spec> for TaskSpec {
    fn from(spec: Spec) -> Self {
        spec.0
    }
}

impl From<&str> for Spec {
    fn from(reference: &str) -> Self {
        Self::new(reference)
    }
}

impl From<String> for Spec {
    fn from(reference: String) -> Self {
        Self::new(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_sets_its_field() {
        let made: TaskSpec = Spec::new("localhost:5000/app:v1")
            .arg("a")
            .args(["b", "c"])
            .env("K", "v")
            .stdin("in")
            .memory(1)
            .timeout(Duration::from_millis(1500))
            .cpu(Duration::MAX)
            .log_bytes(2)
            .state("s", "name")
            .state_read_only("r", "other")
            .label("team", "blue")
            .allow_net("example.com:443")
            .attempts(3, [RetryOn::Failure])
            .on_interrupt(OnInterrupt::RunAgain)
            .pull(PullPolicy::Never)
            .allow_unsigned()
            .deterministic(7)
            .path(ExecutionPath::Wasm)
            .container(Container { user: "nobody".into(), ..Container::default() })
            .into();
        let binding = |alias: &str, state: &str, read_only| StateBinding {
            alias: alias.into(),
            state: state.into(),
            read_only,
            ..StateBinding::default()
        };
        let wanted = TaskSpec {
            reference: "localhost:5000/app:v1".into(),
            args: ["a", "b", "c"].map(String::from).into(),
            env: [("K".into(), "v".into())].into(),
            stdin: "in".into(),
            limits: Some(Limits {
                memory_bytes: 1,
                timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                cpu: Some(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 }),
                log_bytes: 2,
            }),
            states: vec![binding("s", "name", false), binding("r", "other", true)],
            labels: [("team".into(), "blue".into())].into(),
            allow_net: vec!["example.com:443".into()],
            retry: Some(RetryPolicy { max_attempts: 3, on: vec![RetryOn::Failure.into()], ..RetryPolicy::default() }),
            on_interrupt: OnInterrupt::RunAgain.into(),
            pull: PullPolicy::Never.into(),
            allow_unsigned: true,
            deterministic: Some(Deterministic { seed: 7, start: None }),
            path: ExecutionPath::Wasm.into(),
            container: Some(Container { user: "nobody".into(), ..Container::default() }),
            ..TaskSpec::default()
        };
        assert_eq!(made, wanted);
    }
}
