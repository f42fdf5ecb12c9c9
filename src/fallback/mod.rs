//! Owns the decision whether an artifact that can't run as Wasm may run as the container beside it, and why it does.
//!
//! Only a Wasm that did not *start* falls back: a guest that ran may have had effects, and a refusal by a digest, a signature
//! or the trust policy is never got round. The caller holds a verified artifact in its hands on both sides of the decision.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::StartError;
use crate::error::Error;

/// Which ways of running an artifact are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathChoice {
    /// As Wasm, and as the container beside it where the Wasm can't be started.
    #[default]
    Auto,
    /// As Wasm or not at all.
    Wasm,
    /// As the container, whatever the Wasm could do.
    Container,
}

impl FromStr for PathChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "wasm" => Ok(Self::Wasm),
            "container" => Ok(Self::Container),
            _ => Err(format!("`{text}` is not auto, wasm or container")),
        }
    }
}

/// Why the container ran and not the Wasm. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FallbackReason {
    /// The artifact holds no Wasm.
    NoWasm,
    /// What it calls Wasm isn't.
    NotWasm,
    /// It begins like Wasm and doesn't validate.
    Malformed,
    /// It needs a Wasm proposal that the runtime doesn't have: threads, say.
    Unsupported,
    /// It imports what nobody here provides.
    UnknownImport,
    /// It is for another version of WASI.
    WasiVersion,
    /// It imports something as something else than what is provided.
    IncompatibleImport,
    /// It is a library, not a command.
    NoEntry,
    /// The code generator could not do it.
    Compile,
    /// It needs more to start than its limit allows.
    Limit,
    /// It could not be instantiated.
    Instantiate,
    /// The Wasm runtime doesn't work on this machine.
    Engine,
    /// The container was asked for.
    Requested,
}

impl FallbackReason {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::NoWasm,
        Self::NotWasm,
        Self::Malformed,
        Self::Unsupported,
        Self::UnknownImport,
        Self::WasiVersion,
        Self::IncompatibleImport,
        Self::NoEntry,
        Self::Compile,
        Self::Limit,
        Self::Instantiate,
        Self::Engine,
        Self::Requested,
    ];

    /// The word in records, metrics and machine output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoWasm => "no_wasm",
            Self::NotWasm => "not_wasm",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::UnknownImport => "unknown_import",
            Self::WasiVersion => "wasi_version",
            Self::IncompatibleImport => "incompatible_import",
            Self::NoEntry => "no_entry",
            Self::Compile => "compile",
            Self::Limit => "limit",
            Self::Instantiate => "instantiate",
            Self::Engine => "engine",
            Self::Requested => "requested",
        }
    }

    /// Whether it would be the same at the next run with the same engine: then it needn't be found out again. A limit is a
    /// run's own.
    #[must_use]
    pub fn lasts(self) -> bool {
        !matches!(self, Self::Limit | Self::Instantiate | Self::Engine | Self::Requested)
    }
}

impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the container ran, with what was said of the Wasm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// The reason.
    pub reason: FallbackReason,
    /// What the Wasm's failed start was, in words.
    pub message: String,
}

/// Whether a Wasm that failed to start so may be run as the container beside it. What another moment, another folder or
/// another rule would mend is not the Wasm's failure, and does not fall back.
#[must_use]
pub fn decide(error: &StartError) -> Option<FallbackReason> {
    match error {
        StartError::NotWasm { .. } => Some(FallbackReason::NotWasm),
        StartError::Malformed { .. } => Some(FallbackReason::Malformed),
        StartError::Unsupported { .. } => Some(FallbackReason::Unsupported),
        StartError::UnknownImport { .. } if error.is_of_another_wasi() => Some(FallbackReason::WasiVersion),
        StartError::UnknownImport { .. } => Some(FallbackReason::UnknownImport),
        StartError::IncompatibleImport { .. } => Some(FallbackReason::IncompatibleImport),
        StartError::NoEntry { .. } => Some(FallbackReason::NoEntry),
        StartError::Compile { .. } => Some(FallbackReason::Compile),
        StartError::Limit { .. } => Some(FallbackReason::Limit),
        StartError::Instantiate { .. } => Some(FallbackReason::Instantiate),
        StartError::Engine { .. } => Some(FallbackReason::Engine),
        StartError::Foreign { .. }
        | StartError::Busy { .. }
        | StartError::DirUnavailable { .. }
        | StartError::NetUnavailable { .. } => None,
    }
}

/// The same for an error that has left the engine: it still names its cause.
#[must_use]
pub fn decided(error: &Error) -> Option<Fallback> {
    let reason = FallbackReason::ALL.into_iter().find(|reason| Some(reason.as_str()) == error.cause())?;
    (reason != FallbackReason::Requested).then(|| Fallback { reason, message: error.why().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn import(module: &str) -> StartError {
        StartError::UnknownImport { module: module.into(), name: None, import: module.into(), hint: "" }
    }

    #[test]
    fn what_could_not_start_falls_back_and_what_another_moment_would_mend_does_not() {
        let io = || std::io::Error::other("x");
        let why = || "x".to_owned();
        for (error, expected) in [
            (StartError::NotWasm { looks_like: why() }, Some("not_wasm")),
            (StartError::Malformed { why: why() }, Some("malformed")),
            (StartError::Unsupported { why: why() }, Some("unsupported")),
            (import("env"), Some("unknown_import")),
            (import("wasi_unstable"), Some("wasi_version")),
            (import("wasi:cli/run@0.3.0"), Some("wasi_version")),
            (import("wasi:http/types@0.2.0"), Some("unknown_import")),
            (StartError::IncompatibleImport { import: why(), why: why() }, Some("incompatible_import")),
            (StartError::NoEntry { why: why(), hint: "" }, Some("no_entry")),
            (StartError::Compile { why: why() }, Some("compile")),
            (StartError::Limit { what: "bytes of memory", needed: 2, limit: 1 }, Some("limit")),
            (StartError::Instantiate { why: why() }, Some("instantiate")),
            (StartError::Engine { why: why() }, Some("engine")),
            (StartError::Foreign { why: why() }, None),
            (StartError::Busy { why: why() }, None),
            (StartError::DirUnavailable { host: "/x".into(), guest: why(), source: io() }, None),
            (StartError::NetUnavailable { rule: why(), source: io() }, None),
        ] {
            assert_eq!(decide(&error).map(FallbackReason::as_str), expected, "{error:?}");
            // The word survives the way out of the engine.
            let said = error.to_string();
            let outside = decided(&Error::from(error));
            assert_eq!(outside.as_ref().map(|fallback| fallback.reason.as_str()), expected);
            assert!(outside.is_none_or(|fallback| fallback.message == said));
        }
    }

    #[test]
    fn no_refusal_is_got_round() {
        assert_eq!(decided(&Error::new(ErrorKind::Refused, "the digest is another")), None);
        assert_eq!(decided(&Error::new(ErrorKind::CannotStart, "x").because("requested")), None);
    }
}
