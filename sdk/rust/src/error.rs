//! Owns what a failed call says: its kind, why, what to do next; and how a gRPC status becomes that.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::reach::told;

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do when there is no node.
const START_ONE: &str = "start one with `vyr serve`, or name another";
/// What to do when a certificate is at fault.
const CERTIFICATES: &str = "`ca_file` names the authority to trust, `cert_file` and `key_file` what to show the node";

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal,)*) => {
        /// The kinds of failure that a caller can tell apart. The words are those of `google.rpc.ErrorInfo`'s `kind`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its stable word: `not_found`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// The call itself makes no sense; [`Error::fields`] says which of its fields.
    Usage = "usage",
    /// Bytes that are what their digest says, but not what they should be.
    InvalidContent = "invalid_content",
    /// No such task, artifact or state.
    NotFound = "not_found",
    /// It is there already, and is something else.
    Conflict = "conflict",
    /// A digest, a signature or the trust policy says no.
    Refused = "refused",
    /// The guest can't be started on this node.
    CannotStart = "cannot_start",
    /// The caller isn't allowed to.
    Forbidden = "forbidden",
    /// No credential was shown, or not a known one.
    Unauthorized = "unauthorized",
    /// There is no room for more now: a full queue, a full disk. A later try may work.
    Exhausted = "exhausted",
    /// The node can't be reached, hangs, or is stopping. A later try may work.
    Unavailable = "unavailable",
    /// A time limit has passed.
    TimedOut = "timed_out",
    /// The call was ended before its answer.
    Cancelled = "cancelled",
    /// The node doesn't know this call.
    Unimplemented = "unimplemented",
    /// The node's disk or database failed.
    Storage = "storage",
    /// A fault of VYR's own.
    Internal = "internal",
}

impl ErrorKind {
    /// The kind that `word` stands for; `None` for a word of a newer version.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// The kind of a status that doesn't say its own.
    #[must_use]
    pub fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied => Self::Forbidden,
            Code::Unauthenticated => Self::Unauthorized,
            Code::ResourceExhausted => Self::Exhausted,
            Code::AlreadyExists => Self::Conflict,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::TimedOut,
            Code::Cancelled => Self::Cancelled,
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field of a request that the node didn't take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its path: `spec.limits.timeout`.
    pub path: String,
    /// What is wrong with it.
    pub description: String,
}

/// Why a call failed. A task that failed is none: see [`TaskFailed`](crate::TaskFailed).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    next: Option<String>,
    fields: Vec<FieldError>,
    retry_after: Option<Duration>,
    code: Option<Code>,
    /// Another try may work.
    passing: bool,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.to_string(),
            next: None,
            fields: Vec::new(),
            retry_after: None,
            code: None,
            passing: matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted),
        }))
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// The node's answer lacks what it is about.
    pub(crate) fn lacks(what: &str) -> Self {
        Self::new(ErrorKind::Internal, format_args!("the node's answer lacks the {what}"))
    }

    pub(crate) fn hint(mut self, next: impl fmt::Display) -> Self {
        self.0.next.get_or_insert_with(|| next.to_string());
        self
    }

    /// Says which setting it was that is wrong.
    pub(crate) fn of(mut self, setting: &str) -> Self {
        self.0.message = format!("{setting}: {}", self.0.message);
        self
    }

    /// Nothing answers at `address`, to which there was no connection yet.
    pub(crate) fn unreachable(address: &str, why: &str) -> Self {
        Self::not_reached(address, why, true)
    }

    fn not_reached(address: &str, why: &str, first: bool) -> Self {
        let (plain, next) = match told(address, why, first) {
            Some((plain, next)) => (plain, next),
            None => (why.to_owned(), None),
        };
        let mut error = Self::new(ErrorKind::Unavailable, format_args!("no node answers at {address}: {plain}"));
        if why.contains("certificate") || why.contains("alert: Certificate") {
            error.0.passing = false;
            return error.hint(next.unwrap_or(CERTIFICATES));
        }
        error.hint(next.unwrap_or(START_ONE))
    }

    /// The node took too long.
    pub(crate) fn silent(address: &str, limit: Duration) -> Self {
        let message = format_args!("the node at {address} didn't answer within {} s", limit.as_secs());
        Self::new(ErrorKind::Unavailable, message).hint(START_ONE)
    }

    /// What a status of the node at `address` says. `first`: it hasn't answered anything yet.
    pub(crate) fn of_status(status: &Status, address: &str, first: bool) -> Self {
        let said = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
        let known = said.get("kind").and_then(|word| ErrorKind::from_word(word));
        // Only what failed on this side has a source.
        if let (None, Some(source)) = (known, std::error::Error::source(status)) {
            return Self::not_reached(address, &chain(source), first);
        }
        let fields: Vec<FieldError> = status
            .get_details_bad_request()
            .map(|request| request.field_violations)
            .unwrap_or_default()
            .into_iter()
            .map(|violation| FieldError { path: violation.field, description: violation.description })
            .collect();
        let mut message = status.message().to_owned();
        for field in &fields {
            let words = format!("{}: {}", field.path, field.description);
            if !message.contains(&words) {
                message = if message.is_empty() { words } else { format!("{message}; {words}") };
            }
        }
        if message.is_empty() {
            message = format!("the node at {address} says only: {}", status.code().description());
        }
        let mut error = Self::new(known.unwrap_or_else(|| ErrorKind::of_code(status.code())), message);
        error.0.fields = fields;
        error.0.code = Some(status.code());
        error.0.retry_after = status.get_details_retry_info().and_then(|info| info.retry_delay);
        match said.get("next").filter(|next| !next.is_empty()) {
            Some(next) => error.hint(next),
            None if status.code() == Code::Unimplemented => error.hint("is it a node of VYR, of this version?"),
            None => error,
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Why it failed.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next, where that is known.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        self.0.next.as_deref()
    }

    /// The fields of the request that are at fault.
    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }

    /// How long the node asks to wait before another try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The gRPC code of the node's answer; `None` for what failed on this side.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.0.code
    }

    /// Whether another try may work: the kind is `unavailable` or `exhausted`, and no certificate is at fault.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.0.passing
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.next {
            Some(next) => write!(f, "; {next}"),
            None => Ok(()),
        }
    }
}

/// Without what isn't there: it is what `main` prints of an error that it returns.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(next) = &self.0.next {
            shown.field("next", next);
        }
        if !self.0.fields.is_empty() {
            shown.field("fields", &self.0.fields);
        }
        if let Some(retry_after) = &self.0.retry_after {
            shown.field("retry_after", retry_after);
        }
        if let Some(code) = &self.0.code {
            shown.field("code", code);
        }
        shown.finish()
    }
}

impl std::error::Error for Error {}

/// The whole chain of an error's sources in one line, without saying the same words twice.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_status_is_what_its_details_say() {
        let mut details = ErrorDetails::new();
        let said = [("kind", "refused"), ("next", "sign it")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        details.set_error_info("TASK_REFUSED", "vyr.control.v0", HashMap::from(said));
        details.set_retry_info(Some(Duration::from_millis(500)));
        let status = Status::with_error_details(Code::FailedPrecondition, "no signature", details);
        let error = Error::of_status(&status, "x", false);
        assert_eq!(
            (error.kind(), error.message(), error.next()),
            (ErrorKind::Refused, "no signature", Some("sign it"))
        );
        assert_eq!(error.to_string(), "no signature; sign it");
        assert_eq!(
            (error.code(), error.retry_after()),
            (Some(Code::FailedPrecondition), Some(Duration::from_millis(500)))
        );

        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("spec.args", "too many").add_bad_request_violation("spec.env", "too long");
        let status = Status::with_error_details(Code::InvalidArgument, "spec.args: too many", details);
        let error = Error::of_status(&status, "x", false);
        assert_eq!((error.kind(), error.message()), (ErrorKind::Usage, "spec.args: too many; spec.env: too long"));
        let field = |path: &str, description: &str| FieldError { path: path.into(), description: description.into() };
        assert_eq!(error.fields(), [field("spec.args", "too many"), field("spec.env", "too long")]);
        assert!(!error.is_passing());
    }

    #[test]
    fn a_status_without_words_or_of_a_newer_node_still_says_something() {
        let error = Error::of_status(&Status::new(Code::Internal, ""), "http://a:1", false);
        assert!(error.message().contains("http://a:1"), "{error}");
        let mut details = ErrorDetails::new();
        details.set_error_info("NEW", "vyr.control.v0", HashMap::from([("kind".to_owned(), "new".to_owned())]));
        let newer = Status::with_error_details(Code::Unavailable, "soon", details);
        assert_eq!(Error::of_status(&newer, "x", false).kind(), ErrorKind::Unavailable);
        let other = Error::of_status(&Status::new(Code::Unimplemented, "unknown service"), "x", false);
        assert_eq!((other.kind(), other.next().is_some()), (ErrorKind::Unimplemented, true));
    }

    #[test]
    fn what_breaks_on_this_side_is_a_node_that_does_not_answer() {
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        let error = Error::of_status(&broken, "http://a:1", false);
        assert_eq!((error.kind(), error.code(), error.next()), (ErrorKind::Unavailable, None, Some(START_ONE)));
        assert!(error.is_passing() && error.message().contains("connection reset"), "{error}");
        let shown = Error::unreachable("https://a:1", "invalid peer certificate: UnknownIssuer");
        assert!(!shown.is_passing() && shown.next().is_some_and(|next| next.contains("ca_file")), "{shown}");
    }
}
