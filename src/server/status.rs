//! Owns how an error becomes a gRPC status: a standard code, and `google.rpc` details that programs can read.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::error::{Error, ErrorKind};

/// `ErrorInfo.domain` of every error.
pub(super) const DOMAIN: &str = "vyr.control.v0";
/// What a client is told to wait before it tries again.
const AGAIN: Duration = Duration::from_millis(500);

/// The gRPC code of each kind.
pub(crate) fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Usage | ErrorKind::InvalidContent => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Refused | ErrorKind::CannotStart => Code::FailedPrecondition,
        ErrorKind::Unauthorized => Code::Unauthenticated,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Storage | ErrorKind::Internal => Code::Internal,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Conflict => Code::AlreadyExists,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
    }
}

fn details(kind: ErrorKind, next: Option<&str>) -> ErrorDetails {
    let mut metadata = HashMap::from([("kind".to_owned(), kind.as_str().to_owned())]);
    if let Some(next) = next {
        metadata.insert("next".to_owned(), next.to_owned());
    }
    let mut details = ErrorDetails::with_error_info(kind.as_str().to_uppercase(), DOMAIN, metadata);
    if matches!(kind, ErrorKind::Exhausted | ErrorKind::Unavailable) {
        details.set_retry_info(Some(AGAIN));
    }
    details
}

/// The status of an error.
pub(super) fn status(error: &Error) -> Status {
    let message = match error.what() {
        Some(what) => format!("could not {what}: {}", error.why()),
        None => error.why().to_owned(),
    };
    Status::with_error_details(code(error.kind()), message, details(error.kind(), error.next()))
}

/// The status of a request whose fields are wrong: each field's path with what is wrong about it.
pub(super) fn invalid(wrong: Vec<(String, String)>) -> Status {
    let message = wrong.iter().map(|(field, why)| format!("{field}: {why}")).collect::<Vec<_>>().join("; ");
    let mut details = details(ErrorKind::Usage, None);
    details.set_bad_request(wrong.into_iter().map(|(field, why)| FieldViolation::new(field, why)).collect::<Vec<_>>());
    Status::with_error_details(Code::InvalidArgument, message, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_documented_code() {
        for (kind, wanted) in [
            (ErrorKind::Usage, Code::InvalidArgument),
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Refused, Code::FailedPrecondition),
            (ErrorKind::Unauthorized, Code::Unauthenticated),
            (ErrorKind::Unavailable, Code::Unavailable),
            (ErrorKind::InvalidContent, Code::InvalidArgument),
            (ErrorKind::CannotStart, Code::FailedPrecondition),
            (ErrorKind::Storage, Code::Internal),
            (ErrorKind::Exhausted, Code::ResourceExhausted),
            (ErrorKind::Conflict, Code::AlreadyExists),
            (ErrorKind::Forbidden, Code::PermissionDenied),
            (ErrorKind::TimedOut, Code::DeadlineExceeded),
            (ErrorKind::Cancelled, Code::Cancelled),
            (ErrorKind::Internal, Code::Internal),
        ] {
            assert_eq!(code(kind), wanted, "{kind:?}");
        }
    }

    #[test]
    fn details_say_what_programs_need() {
        let status = status(&Error::new(ErrorKind::Exhausted, "the queue is full").hint("try again"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("EXHAUSTED", DOMAIN));
        assert_eq!(info.metadata.get("next").map(String::as_str), Some("try again"));
        assert!(details.retry_info().is_some());
        let status = invalid(vec![("spec.args".into(), "too many".into())]);
        let request = status.get_error_details();
        assert_eq!(request.bad_request().unwrap().field_violations[0].field, "spec.args");
    }
}
