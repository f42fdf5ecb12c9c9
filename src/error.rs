//! Owns the one error that leaves the library: what kind it is, what was attempted, why it failed and
//! what to do next. Each module has its own `thiserror` enum and says in a `From` beside it which
//! [`ErrorKind`] its variants are; the exit code is a function of the kind alone, kept here.

use std::fmt;
use std::io;
use std::path::Path;

/// What to do about a database that [`is_from_later`] says was made by a later version.
pub(crate) const LATER_VERSION_HINT: &str = "run that version of vyr, or bring back a backup from before it";

/// Whether a database could not be opened because a later version of VYR has brought it up to its own.
pub(crate) fn is_from_later(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Migrate(migrate) if matches!(**migrate, sqlx::migrate::MigrateError::VersionMissing(_)))
}

/// The kinds of failure that a caller can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself makes no sense: a flag, a reference or a setting that can't be read.
    Usage,
    /// No such artifact, blob, tag, key or rule.
    NotFound,
    /// A digest, a signature or the trust policy says no.
    Refused,
    /// The registry wants other credentials.
    Unauthorized,
    /// The other side can't be reached, hangs or answers nonsense; a later try may work.
    Unavailable,
    /// The content is what its digest says, but isn't what it should be (not Wasm, a malformed manifest).
    InvalidContent,
    /// The guest could not be started: an import nobody provides, a limit that can't be met.
    CannotStart,
    /// The local disk or database failed.
    Storage,
    /// There is no room for more now: a full queue, a full disk. A later try may work.
    Exhausted,
    /// It is there already, and is something else.
    Conflict,
    /// The caller isn't allowed to.
    Forbidden,
    /// The wall clock or CPU limit of a run was reached.
    TimedOut,
    /// The user stopped it.
    Cancelled,
    /// A fault of VYR's own.
    Internal,
}

impl ErrorKind {
    /// The process exit code, as the README's table lists them.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::TimedOut => 124,
            Self::Unauthorized
            | Self::Unavailable
            | Self::InvalidContent
            | Self::CannotStart
            | Self::Storage
            | Self::Exhausted
            | Self::Conflict
            | Self::Forbidden
            | Self::Internal => 125,
            Self::Refused => 126,
            Self::NotFound => 127,
            Self::Cancelled => 130,
        }
    }

    /// Every kind.
    pub(crate) const ALL: [Self; 14] = [
        Self::Usage,
        Self::NotFound,
        Self::Refused,
        Self::Unauthorized,
        Self::Unavailable,
        Self::InvalidContent,
        Self::CannotStart,
        Self::Storage,
        Self::Exhausted,
        Self::Conflict,
        Self::Forbidden,
        Self::TimedOut,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The kind that `word` stands for; `None` for a word of a newer version.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// A stable word for machine output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::InvalidContent => "invalid_content",
            Self::CannotStart => "cannot_start",
            Self::Storage => "storage",
            Self::Exhausted => "exhausted",
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }
}

/// What is shown to the user, once: attempted, why, next.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    attempted: Option<String>,
    why: String,
    hint: Option<String>,
    cause: Option<&'static str>,
}

/// The library's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` whose reason is `why`.
    pub fn new(kind: ErrorKind, why: impl fmt::Display) -> Self {
        Self { kind, attempted: None, why: cut(plain(&why.to_string())), hint: None, cause: None }
    }

    /// A file or folder that the system doesn't let be written, with what helps.
    #[must_use]
    pub fn unwritable(path: &Path, error: &io::Error) -> Self {
        let why = Self::new(ErrorKind::Storage, format!("{} can't be written: {error}", path.display()));
        match io_hint(path, error) {
            Some(hint) => why.hint(hint),
            None => why,
        }
    }

    /// Says what was being attempted, as an infinitive without "to": "pull localhost:5000/app". The first
    /// (innermost) call wins only if no outer one follows: the outermost is what the user asked for. What it names needn't
    /// be named again by the reason.
    #[must_use]
    pub fn attempted(mut self, what: impl fmt::Display) -> Self {
        let what = what.to_string();
        let said = |target: &str| match target.strip_prefix("blob ").and_then(|blob| blob.split_once(" of ")) {
            // Which blob it was tells where content is at fault; a server is at fault for all of them.
            Some((_, repository)) => {
                matches!(self.kind, ErrorKind::Unauthorized | ErrorKind::Unavailable)
                    && what.split_whitespace().any(|word| word.starts_with(repository))
            }
            None => what.split_whitespace().any(|word| word == target),
        };
        if let Some((target, why)) = self.why.split_once(": ")
            && said(target)
        {
            self.why = why.to_owned();
        }
        self.attempted = Some(what);
        self
    }

    /// Says what to do next. The first hint given stays: it's nearest to the cause.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint.get_or_insert_with(|| hint.to_string());
        self
    }

    /// Names the exact cause by a stable word, where somebody decides by it.
    #[must_use]
    pub fn because(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    /// The exact cause, where it was named.
    #[must_use]
    pub fn cause(&self) -> Option<&'static str> {
        self.cause
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Why it failed, without what was attempted or the hint.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What to do next, where that is known.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What was attempted, where that was said.
    #[must_use]
    pub fn what(&self) -> Option<&str> {
        self.attempted.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(attempted) = &self.attempted {
            write!(f, "could not {attempted}: ")?;
        }
        f.write_str(&self.why)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Words of the system and of libraries without what is for programmers: the number of an error, and the name of a
/// temporary file that nobody asked for.
pub(crate) fn plain(text: &str) -> String {
    without(&without(text, " (os error ", ")"), " at path \"", "\"")
}

/// Without all that stands from one word to the next other. In one pass: a manifest may have megabytes of them.
fn without(text: &str, begin: &str, end: &str) -> String {
    let (mut left, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(begin) {
        let Some((_, behind)) = after.split_once(end) else { break };
        left.push_str(before);
        rest = behind;
    }
    left + rest
}

/// The most of a reason that is kept, in bytes: it may have words in it that a stranger chose, of any length. Of these the middle
/// goes: what is said of them stands behind.
const MOST_WHY: usize = 8 << 10;

fn cut(why: String) -> String {
    if why.len() <= MOST_WHY {
        return why;
    }
    let begin = why.get(..why.floor_char_boundary(MOST_WHY / 2)).unwrap_or_default();
    let end = why.get(why.ceil_char_boundary(why.len() - MOST_WHY / 2)..).unwrap_or_default();
    format!("{begin}…{end}")
}

/// What helps where the system refused something below the data folder.
#[must_use]
pub fn io_hint(path: &Path, error: &io::Error) -> Option<String> {
    let folder = path.parent().unwrap_or(path).display();
    let path = path.display();
    Some(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("make room on the disk of {folder}: `vyr gc` removes what nothing needs")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("{folder} is on a read-only file system: use another data folder, by --home or VYR_HOME")
        }
        io::ErrorKind::PermissionDenied => {
            format!("give this user access to {path}, or use another data folder, by --home or VYR_HOME")
        }
        _ => return None,
    })
}

/// The whole chain of an error's sources in one line, without saying the same words twice.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
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
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn words_of_strangers_take_no_time_and_come_to_an_end() {
        let began = Instant::now();
        let error = Error::new(ErrorKind::InvalidContent, format!("it is{}.", " (os error 2)".repeat(100_000)));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(error.why(), "it is.");
        let error = Error::new(ErrorKind::InvalidContent, format!("{}: it is too long", "\u{e9}".repeat(1 << 20)));
        let why = error.why();
        assert!(why.len() < 10_000 && why.contains('…') && why.ends_with("it is too long"), "{} bytes", why.len());
    }

    #[test]
    fn every_kind_has_its_documented_exit_code() {
        for (kind, code) in [
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 127),
            (ErrorKind::Refused, 126),
            (ErrorKind::Unauthorized, 125),
            (ErrorKind::Unavailable, 125),
            (ErrorKind::InvalidContent, 125),
            (ErrorKind::CannotStart, 125),
            (ErrorKind::Storage, 125),
            (ErrorKind::Exhausted, 125),
            (ErrorKind::Conflict, 125),
            (ErrorKind::Forbidden, 125),
            (ErrorKind::TimedOut, 124),
            (ErrorKind::Cancelled, 130),
            (ErrorKind::Internal, 125),
        ] {
            assert_eq!(kind.exit_code(), code, "{kind:?}");
            assert_eq!(ErrorKind::from_word(kind.as_str()), Some(kind));
        }
        assert_eq!(ErrorKind::from_word("of a newer version"), None);
    }

    #[test]
    fn a_reason_is_plain_and_does_not_repeat_what_was_attempted() {
        let refused = io::Error::from_raw_os_error(13);
        let error = Error::new(ErrorKind::Storage, format!("x can't be written: {refused}"));
        assert_eq!(error.why(), "x can't be written: Permission denied");
        let temporary = tempfile::NamedTempFile::new_in("/nowhere/at-all").unwrap_err();
        assert_eq!(Error::new(ErrorKind::Storage, temporary).why(), "No such file or directory");
        assert_eq!(Error::new(ErrorKind::Storage, "a (os error b").why(), "a (os error b");

        let error = || Error::new(ErrorKind::NotFound, "host/app:v1: there is none");
        assert_eq!(error().attempted("run host/app:v1").why(), "there is none");
        assert_eq!(error().attempted("run host/app:v10").why(), "host/app:v1: there is none");
        let of_blob = |kind| Error::new(kind, "blob sha256:12 of host/app: no").attempted("push a.wasm to host/app:v1");
        assert_eq!(of_blob(ErrorKind::Unavailable).why(), "no");
        assert_eq!(of_blob(ErrorKind::Refused).why(), "blob sha256:12 of host/app: no");
    }

    #[test]
    fn an_error_says_attempted_why_next_once() {
        let error = Error::new(ErrorKind::NotFound, "no such manifest")
            .hint("push it first")
            .hint("a later hint is not nearer")
            .attempted("pull localhost:5000/app:v1");
        assert_eq!(error.to_string(), "could not pull localhost:5000/app:v1: no such manifest; push it first");
    }
}
