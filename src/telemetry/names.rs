//! Owns what spans and instruments are called: `docs/telemetry.md` lists them, and tests see each.

/// The spans' names.
pub mod span {
    /// A whole `vyr run`.
    pub const RUN: &str = "run";
    /// A task of a node, from its submit to its end.
    pub const TASK: &str = "task";
    /// A task waits for a place.
    pub const QUEUE: &str = "queue";
    /// A task's guest is made ready.
    pub const PREPARE: &str = "prepare";
    /// States are bound, which may be a wait for their writers.
    pub const BIND: &str = "bind";
    /// What a task is about to do is put on disk.
    pub const PERSIST: &str = "persist";
    /// A name becomes a digest.
    pub const RESOLVE: &str = "resolve";
    /// Content moves from a registry into the store.
    pub const PULL: &str = "pull";
    /// Signatures are held against the policy.
    pub const VERIFY: &str = "verify";
    /// The container is made ready that runs in the Wasm's place.
    pub const FALLBACK: &str = "fallback";
    /// The layers of its image become files.
    pub const UNPACK: &str = "unpack";
    /// Wasm becomes machine code.
    pub const COMPILE: &str = "compile";
    /// The guest is put together.
    pub const INSTANTIATE: &str = "instantiate";
    /// The guest runs.
    pub const EXECUTE: &str = "execute";
    /// Output and end of a task are put on disk.
    pub const COMPLETE: &str = "complete";
}

/// The instruments' names, as the node has them; Prometheus sees them with `_` for `.` and the unit at the end.
pub mod metric {
    /// Tasks that were acknowledged.
    pub const SUBMITTED: &str = "vyr.tasks.submitted";
    /// Tasks that ended, by `status`.
    pub const ENDED: &str = "vyr.tasks.ended";
    /// From a submit's arrival to the guest's entry point, by `tier`.
    pub const START: &str = "vyr.task.start.duration";
    /// Tasks that are prepared or run.
    pub const RUNNING: &str = "vyr.tasks.running";
    /// Tasks that wait.
    pub const QUEUED: &str = "vyr.tasks.queued";
    /// Linear memory that guests hold.
    pub const MEMORY: &str = "vyr.guests.memory";
    /// Compiled code that is mapped.
    pub const MAPPED: &str = "vyr.code.mapped";
    /// Artifacts that were pulled, by `outcome`.
    pub const PULLS: &str = "vyr.pulls";
    /// What the trust policy refused, by `reason`.
    pub const REFUSED: &str = "vyr.verifications.refused";
    /// Containers that ran in a Wasm's place, by `reason`.
    pub const FALLBACKS: &str = "vyr.fallbacks";
    /// Segments of states that were pushed.
    pub const STATE_PUSHED: &str = "vyr.state.segments.pushed";
    /// Their bytes.
    pub const STATE_PUSHED_BYTES: &str = "vyr.state.bytes.pushed";
    /// Syncs of states that failed.
    pub const STATE_FAILED: &str = "vyr.state.syncs.failed";
    /// Segments that wait to be pushed.
    pub const STATE_PENDING: &str = "vyr.state.segments.pending";
    /// How long the oldest of them waits.
    pub const STATE_LAG: &str = "vyr.state.sync.lag";
    /// Spans for the collector, by `outcome`.
    pub const SPANS: &str = "vyr.telemetry.spans";
}
