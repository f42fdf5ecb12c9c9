//! Owns what a receipt states, field by field. The names are stable; fields may be added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest_of;

/// What is stated of an execution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Predicate {
    /// Which execution.
    pub task: TaskFacts,
    /// What was executed.
    pub artifact: ArtifactFacts,
    /// Why it was allowed to.
    pub verified: VerifiedFacts,
    /// What it was given.
    pub inputs: InputFacts,
    /// What it may have used.
    pub limits: LimitFacts,
    /// What came out; none where the node died meanwhile, and nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<OutputFacts>,
    /// How it ended.
    pub end: EndFacts,
    /// What it used.
    #[serde(rename = "use")]
    pub used: UseFacts,
    /// When it started, and from what.
    pub start: StartFacts,
    /// What executed it.
    pub engine: EngineFacts,
}

/// Which execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskFacts {
    /// The task's id; a name of its own for a run without a node.
    pub id: String,
    /// Which attempt this is the receipt of: the last one.
    pub attempt: u32,
    /// Who submitted it, as the node knows callers.
    pub submitter: String,
    /// The W3C trace id.
    pub trace_id: String,
}

/// What was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactFacts {
    /// The reference as it was submitted.
    pub reference: String,
    /// The manifest that ran: the subject, or one that it lists.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub manifest: String,
    /// The layer with the code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Its form.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub form: String,
    /// `wasm` or `container`; none where nothing ran.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Why not the Wasm, where the container ran.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fallback_reason: String,
}

/// Why it was allowed to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedFacts {
    /// In words, with the key or identity that signed.
    pub acceptance: String,
    /// The digest whose signature counted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signed_digest: String,
    /// The hash of the trust policy that said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
}

/// A value, or what it hashes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// The value itself: somebody asked for that.
    Value {
        /// It.
        value: String,
    },
    /// Its SHA-256.
    Hash(Hashed),
}

/// `sha256:<hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashed {
    /// The digest.
    pub digest: String,
}

impl Word {
    /// `value`, or its hash.
    #[must_use]
    pub fn new(value: &str, open: bool) -> Self {
        if open {
            Self::Value { value: value.to_owned() }
        } else {
            Self::Hash(Hashed { digest: digest_of(value.as_bytes()) })
        }
    }

    /// Whether `value` is what it stands for.
    #[must_use]
    pub fn is(&self, value: &str) -> bool {
        match self {
            Self::Value { value: own } => own == value,
            Self::Hash(hashed) => hashed.digest == digest_of(value.as_bytes()),
        }
    }
}

/// What it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputFacts {
    /// The arguments.
    pub args: Vec<Word>,
    /// The environment.
    pub env: BTreeMap<String, Word>,
    /// The digest of the standard input.
    pub stdin: String,
    /// Whom it may have reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_net: Vec<String>,
    /// Its states.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateFacts>,
}

/// A state that was bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateFacts {
    /// Seen as `/state/<alias>`.
    pub alias: String,
    /// Its name on the node.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Only to be read.
    pub read_only: bool,
    /// The digest of its content before; none where it was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The digest of its content after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// What it may have used. 0: no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitFacts {
    /// Linear memory, in bytes.
    pub memory_bytes: u64,
    /// Wall-clock time, in microseconds.
    pub wall_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
}

/// What came out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputFacts {
    /// Standard output.
    pub stdout: StreamFacts,
    /// Standard error.
    pub stderr: StreamFacts,
}

/// All that was written to one stream, what wasn't kept included.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamFacts {
    /// Its digest.
    pub digest: String,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndFacts {
    /// `succeeded`, `failed`, …: the task's status.
    pub status: String,
    /// Why, exactly: `exited`, `trapped`, …
    pub reason: String,
    /// The guest's own exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// In words.
    pub message: String,
    /// When, RFC 3339.
    pub at: String,
}

/// What it used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UseFacts {
    /// Wall-clock time of the guest, in microseconds.
    pub run_us: u64,
    /// CPU time, in microseconds.
    pub cpu_us: u64,
    /// The most linear memory, in bytes.
    pub peak_memory_bytes: u64,
}

/// When it started, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartFacts {
    /// `S0` to `S3`; none where nothing ran.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// When it was submitted, RFC 3339.
    pub submitted: String,
    /// When the guest started, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
}

/// What executed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineFacts {
    /// The version of VYR.
    pub vyr: String,
    /// The version of Wasmtime.
    pub wasmtime: String,
    /// What ran the container, where one ran.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The processor and system that it ran on.
    pub platform: String,
    /// What time and chance were made from, where they weren't the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<MadeFacts>,
}

/// What time and chance were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeFacts {
    /// Chance.
    pub seed: u64,
    /// The wall clock at the guest's start, RFC 3339.
    pub start: String,
}
