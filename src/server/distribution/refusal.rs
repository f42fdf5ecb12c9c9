//! Owns how the registry says no: a status, and the JSON of the distribution spec 1.1, "Error Codes".

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::error::{Error, ErrorKind};
use crate::store::StoreError;

/// The codes that the spec knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    /// Not of the spec: the node's own fault.
    Unknown,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A request that isn't done.
#[derive(Debug)]
pub(super) struct Refusal(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    status: StatusCode,
    why: String,
    headers: HeaderMap,
}

impl Refusal {
    pub(super) fn new(code: Code, why: impl std::fmt::Display) -> Self {
        Self(Box::new(Inner { code, status: code.status(), why: why.to_string(), headers: HeaderMap::new() }))
    }

    /// Another status than the code's own.
    pub(super) fn status(mut self, status: u16) -> Self {
        self.0.status = StatusCode::from_u16(status).unwrap_or(self.0.status);
        self
    }

    /// A header with it.
    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.insert(name, value);
        }
        self
    }

    pub(super) fn code(&self) -> Code {
        self.0.code
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::NoBlob(_) => Code::BlobUnknown,
            StoreError::NoArtifact(_) => Code::ManifestUnknown,
            StoreError::MissingBlob { .. } => Code::ManifestBlobUnknown,
            StoreError::Mismatch { .. } | StoreError::Algorithm(_) => Code::DigestInvalid,
            StoreError::WrongSize { .. } => Code::SizeInvalid,
            StoreError::TooLarge { .. } => return Self::new(Code::SizeInvalid, error).status(413),
            StoreError::Manifest { .. } | StoreError::BadName(_) => Code::ManifestInvalid,
            StoreError::ReadOnly { .. } => Code::Denied,
            _ => {
                let error = Error::from(error);
                return Self::from(error);
            }
        };
        Self::new(code, error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::error!(error = %error, "a registry request failed");
        // A full disk is nothing that the client did, and paths of this machine are nothing that it needs to know.
        let status = if error.kind() == ErrorKind::Storage { 507 } else { 500 };
        Self::new(Code::Unknown, "the node could not do it; its log says why").status(status)
    }
}

impl From<tokio::task::JoinError> for Refusal {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::from(Error::new(ErrorKind::Internal, error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let Inner { code, status, why, headers } = *self.0;
        let body = serde_json::json!({ "errors": [{ "code": code.as_str(), "message": why }] }).to_string();
        let mut answer = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        answer.headers_mut().extend(headers);
        answer
    }
}
