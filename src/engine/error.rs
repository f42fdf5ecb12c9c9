//! Owns the ways in which a guest can fail to start, and what each means to the user.

use std::io;
use std::path::PathBuf;

use super::toolchain;
use crate::artifact::instead;
use crate::error::{Error, ErrorKind};

/// Why a guest could not be started. Whatever is reported this way, no instruction of the guest had an
/// effect outside of it: another way of running the artifact may be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The bytes don't begin like Wasm.
    #[error("this is not a Wasm binary: it looks like {looks_like}")]
    NotWasm {
        /// What the first bytes look like.
        looks_like: String,
    },
    /// They begin like Wasm, but don't validate.
    #[error("this is not valid Wasm: {why}")]
    Malformed {
        /// The validator's words, with the offset.
        why: String,
    },
    /// A Wasm proposal or encoding that this runtime doesn't have.
    #[error("the Wasm needs a feature that this runtime doesn't have: {why}")]
    Unsupported {
        /// The validator's words.
        why: String,
    },
    /// An import that nobody provides.
    #[error("the Wasm imports `{import}`, which nobody here provides")]
    UnknownImport {
        /// The import's module (or, for a component, its interface).
        module: String,
        /// The name in the module; `None` where a whole interface is missing.
        name: Option<String>,
        /// Both, as they are shown.
        import: String,
        /// What would provide it.
        hint: &'static str,
    },
    /// An import that is provided, but as something else.
    #[error("the Wasm imports `{import}` as something other than what is provided: {why}")]
    IncompatibleImport {
        /// The import.
        import: String,
        /// The mismatch.
        why: String,
    },
    /// No `_start` (module) or `wasi:cli/run` (component).
    #[error("the Wasm is not a command: {why}")]
    NoEntry {
        /// What is missing, and what is there.
        why: String,
        /// How to build it so that it is there.
        hint: &'static str,
    },
    /// The code generator failed.
    #[error("the Wasm could not be compiled: {why}")]
    Compile {
        /// The compiler's words.
        why: String,
    },
    /// Code that was compiled elsewhere and doesn't do here.
    #[error("the compiled code can't be used: {why}")]
    Foreign {
        /// What is wrong with it.
        why: String,
    },
    /// The guest needs more at its start than the limit allows.
    #[error("the guest needs {} {} to start, the limit is {}", amount(*needed, what), unit(what), amount(*limit, what))]
    Limit {
        /// What is limited, with its unit: "bytes of memory", "table elements", "instances".
        what: &'static str,
        /// What it needs.
        needed: u64,
        /// What it may have.
        limit: u64,
    },
    /// All instance slots of this engine are in use.
    #[error("no more instances fit into this engine now: {why}")]
    Busy {
        /// Which pool is full.
        why: String,
    },
    /// A folder that should be given to the guest can't be opened.
    #[error("the folder {} can't be given to the guest as {guest}: {source}", host.display())]
    DirUnavailable {
        /// The folder on this machine.
        host: PathBuf,
        /// Its name in the guest.
        guest: String,
        /// The cause.
        source: io::Error,
    },
    /// A host in a network rule has no address.
    #[error("the host of the network rule `{rule}` can't be resolved: {source}")]
    NetUnavailable {
        /// The rule.
        rule: String,
        /// The cause.
        source: io::Error,
    },
    /// Instantiation failed before any guest code had run.
    #[error("the Wasm could not be instantiated: {why}")]
    Instantiate {
        /// The runtime's words.
        why: String,
    },
    /// The runtime itself can't be set up on this machine.
    #[error("the Wasm runtime could not be set up: {why}")]
    Engine {
        /// The runtime's words.
        why: String,
    },
}

impl StartError {
    /// A stable word for machine output and records.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotWasm { .. } => "not_wasm",
            Self::Malformed { .. } => "malformed",
            Self::Unsupported { .. } => "unsupported",
            Self::UnknownImport { .. } if self.is_of_another_wasi() => "wasi_version",
            Self::UnknownImport { .. } => "unknown_import",
            Self::IncompatibleImport { .. } => "incompatible_import",
            Self::NoEntry { .. } => "no_entry",
            Self::Compile { .. } => "compile",
            Self::Foreign { .. } => "foreign_code",
            Self::Limit { .. } => "limit",
            Self::Busy { .. } => "busy",
            Self::DirUnavailable { .. } => "dir_unavailable",
            Self::NetUnavailable { .. } => "net_unavailable",
            Self::Instantiate { .. } => "instantiate",
            Self::Engine { .. } => "engine",
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotWasm { looks_like } => instead(looks_like),
            Self::Malformed { .. } => "rebuild it, or check that the file wasn't cut short before it was pushed",
            Self::Unsupported { why } => without(why),
            Self::UnknownImport { hint, .. } => hint,
            Self::IncompatibleImport { .. } => {
                "rebuild it with a current toolchain, against the released version of that interface"
            }
            Self::NoEntry { hint, .. } => hint,
            Self::Compile { .. } => "rebuild it with a current toolchain, and report this if it stays",
            Self::Foreign { .. } => "compile it with this very version, on such a machine: `vyr compile REF --push`",
            Self::Limit { what: MEMORY, .. } => {
                "raise the limit with --memory, or rebuild the guest to need less at its start"
            }
            Self::Limit { .. } => "rebuild the guest to need less at its start",
            Self::Busy { .. } => "wait for a running guest to end, or raise the number of instances",
            Self::DirUnavailable { host, .. } if host.to_string_lossy().contains(':') => {
                "two colons stand between the folder and its name in the guest: --dir HOST::GUEST"
            }
            Self::DirUnavailable { .. } => "give a folder that exists and that you may open",
            Self::NetUnavailable { .. } => "correct the host name, or write the rule with an address",
            Self::Instantiate { .. } => "check that the toolchain that built it is a current one",
            Self::Engine { .. } => "see `vyr doctor` for what this machine lacks",
        }
    }

    /// Whether what is missing is an import of another version of WASI: from before preview 1, of before or after 0.2.
    #[must_use]
    pub fn is_of_another_wasi(&self) -> bool {
        let Self::UnknownImport { module, .. } = self else { return false };
        module == "wasi_unstable"
            || module.starts_with("wasi:")
                && module.split_once('@').is_some_and(|(_, version)| !version.starts_with("0.2."))
                && !module.starts_with("wasi:keyvalue")
    }

    pub(super) fn engine(error: impl std::fmt::Display) -> Self {
        Self::Engine { why: format!("{error:#}") }
    }

    /// Sorts an error of the linker that is about no import: what needs a feature that is off is found out there, too.
    pub(super) fn from_link(error: &wasmtime::Error) -> Self {
        let why = shown(error);
        if why.contains("is disabled for this engine") {
            return Self::Unsupported { why: feature(&why) };
        }
        Self::Instantiate { why: plain(&why) }
    }

    /// Sorts an error of taking up compiled code: the pool that instances come from refuses there what would never fit.
    pub(super) fn from_load(error: &wasmtime::Error) -> Self {
        let why = shown(error);
        if why.contains("shared which is not supported") {
            return Self::Unsupported { why: feature(&why) };
        }
        let what = if why.contains("element size of") {
            "table elements"
        } else if why.contains("byte size of") {
            MEMORY
        } else if why.contains("exceeds the per-instance limit of") {
            "memories or tables"
        } else {
            return Self::engine(error);
        };
        // The runtime writes the size of a memory in decimal and the pool's own in hexadecimal.
        let numbers =
            why.split(|c: char| !c.is_ascii_alphanumeric()).filter_map(|word| match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => word.parse().ok(),
            });
        match numbers.collect::<Vec<u64>>().as_slice() {
            [.., needed, limit] => Self::Limit { what, needed: *needed, limit: *limit },
            _ => Self::engine(error),
        }
    }

    /// Sorts an error of the compiler: the validator has one error type for "not valid" and "valid only
    /// with a proposal that is off", told apart by its words.
    pub(super) fn from_compile(error: &wasmtime::Error) -> Self {
        let why = shown(error);
        if [
            "not enabled",
            "must be enabled",
            "support is not",
            "is disabled",
            "Unsupported feature",
            "unknown binary version",
        ]
        .iter()
        .any(|words| why.contains(words))
        {
            Self::Unsupported { why: feature(&why) }
        } else if why.contains("at offset") || why.contains("failed to parse") {
            Self::Malformed { why: plain(&why) }
        } else {
            Self::Compile { why }
        }
    }

    /// An import that is kept from guests here.
    pub(super) fn withheld(module: &str) -> Self {
        Self::UnknownImport {
            module: module.to_owned(),
            name: None,
            import: module.to_owned(),
            hint: "this node is set to go without it (--without); run it where that is given, or as a container",
        }
    }

    /// An import that the linker has nothing for.
    pub(super) fn unknown_import(module: &str, name: Option<&str>) -> Self {
        Self::UnknownImport {
            module: module.to_owned(),
            name: name.map(str::to_owned),
            import: visible(&name.map_or_else(|| module.to_owned(), |name| format!("{module}::{name}"))),
            hint: toolchain::remedy(module, name),
        }
    }
}

/// What memory is limited in.
pub(super) const MEMORY: &str = "bytes of memory";

fn unit(what: &'static str) -> &'static str {
    if what == MEMORY { "of memory" } else { what }
}

/// So much of what is limited; memory in the largest unit that divides it.
pub(super) fn amount(number: u64, what: &str) -> String {
    if what != MEMORY {
        return number.to_string();
    }
    match [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .iter()
        .find(|(bits, _)| number > 0 && number.is_multiple_of(1 << bits))
    {
        Some((bits, unit)) => format!("{} {unit}", number >> bits),
        None => format!("{number} bytes"),
    }
}

/// What runtime and validator say, without where in their own code or in the binary it was.
fn plain(why: &str) -> String {
    let mut why = why;
    for beginning in
        ["failed to parse WebAssembly module: ", "WebAssembly translation error: ", "Invalid input WebAssembly code "]
    {
        if let Some((_, rest)) = why.split_once(beginning) {
            why = rest;
        }
    }
    if let Some((_, rest)) = why.strip_prefix("at offset ").and_then(|rest| rest.split_once(": ")) {
        why = rest;
    }
    let why = why.split(" -- see `").next().unwrap_or(why);
    why.to_owned()
}

/// What a feature is that is missing: where in the binary it was, is nothing to act on.
fn feature(why: &str) -> String {
    let why = plain(why);
    why.split(" (at offset ").next().unwrap_or(&why).to_owned()
}

/// How to build it without the feature that is missing.
fn without(why: &str) -> &'static str {
    if why.contains("shared") || why.contains("thread") {
        "rebuild it without threads: without -pthread and -matomics, for wasm32-wasip1 and not wasm32-wasip1-threads"
    } else if why.contains("exception") {
        "rebuild it without exceptions, or with those of the released proposal (-mllvm -wasm-use-legacy-eh=false)"
    } else if why.contains("binary version") {
        "rebuild it with a toolchain that writes Wasm of version 1 or components"
    } else {
        "rebuild it without that feature, or put a container beside it (`vyr push --fallback IMAGE`)"
    }
}

/// Words of an artifact's author in one line, without what steers a terminal.
pub(super) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The whole chain of a runtime error in one line.
pub(super) fn shown(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        let kind = match &error {
            StartError::NotWasm { .. } | StartError::Malformed { .. } => ErrorKind::InvalidContent,
            StartError::Engine { .. } => ErrorKind::Internal,
            StartError::Busy { .. } => ErrorKind::Exhausted,
            _ => ErrorKind::CannotStart,
        };
        Self::new(kind, &error).hint(error.hint()).because(error.code())
    }
}
