//! Answers: the error codes of the distribution-spec ("Error Codes") with their status, and the headers of good ones.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::Body;
use super::store::StoreError;
use crate::oci::Digest;

pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What went wrong, in the specification's words where it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    /// A chunk that does not follow the last one.
    RangeInvalid,
    BlobUploadUnknown,
    UploadBusy,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameInvalid,
    TagInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    /// A method or parameter that is not for here.
    Unsupported,
    ReadOnly,
    PageInvalid,
    NotFound,
    DiskFull,
    Upstream,
    Internal,
}

impl Code {
    fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid | Self::RangeInvalid | Self::UploadBusy => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid | Self::ManifestTooLarge | Self::TagInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unsupported | Self::ReadOnly | Self::PageInvalid | Self::NotFound => "UNSUPPORTED",
            Self::DiskFull | Self::Upstream | Self::Internal => "UNKNOWN",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::NotFound => StatusCode::NOT_FOUND,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::UploadBusy => StatusCode::CONFLICT,
            Self::ManifestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Unsupported | Self::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Upstream => StatusCode::BAD_GATEWAY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// A refusal: one status, one or more errors, and what else the client needs to go on.
#[derive(Debug)]
pub struct Problem {
    pub code: Code,
    errors: Vec<(String, Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, errors: vec![(message.into(), Value::Null)], headers: Vec::new() }
    }

    /// One error for each digest, which stands in its `detail`.
    pub fn each(code: Code, message: &str, digests: &[Digest]) -> Self {
        let errors =
            digests.iter().map(|digest| (format!("{message}: {digest}"), json!({ "digest": digest })));
        Self { code, errors: errors.collect(), headers: Vec::new() }
    }

    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
        self
    }

    pub fn into_response(self) -> Response<Body> {
        let errors: Vec<Value> = self
            .errors
            .into_iter()
            .map(|(message, detail)| match detail {
                Value::Null => json!({ "code": self.code.text(), "message": message }),
                detail => json!({ "code": self.code.text(), "message": message, "detail": detail }),
            })
            .collect();
        let mut response = json_body(self.code.status(), &json!({ "errors": errors }));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Mismatch { .. } => Self::new(Code::DigestInvalid, error.to_string()),
            StoreError::UnknownUpload => Self::new(Code::BlobUploadUnknown, "no such upload"),
            StoreError::BusyUpload => Self::new(Code::UploadBusy, error.to_string()),
            StoreError::WrongLength => Self::new(Code::SizeInvalid, error.to_string()),
            StoreError::Interrupted { source } => {
                Self::new(Code::BlobUploadInvalid, format!("the upload was interrupted: {source}"))
            }
            full if full.is_full() => {
                tracing::error!(error = &error as &dyn std::error::Error, "the disk is full");
                Self::new(Code::DiskFull, "the registry's disk is full; nothing was stored")
            }
            _ => {
                tracing::error!(error = &error as &dyn std::error::Error, "the registry's disk failed");
                Self::new(Code::Internal, "the registry could not read or write its disk; its log says more")
            }
        }
    }
}

/// An answer without a body, to be given headers.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    }
    response
}

pub fn json_body(status: StatusCode, value: &Value) -> Response<Body> {
    full(status, JSON, Bytes::from(value.to_string()))
}

pub fn full(status: StatusCode, content_type: HeaderValue, bytes: Bytes) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    *response.body_mut() = Body::full(bytes);
    response
}

/// Sets a header whose value is text of ours: names, digests, numbers.
pub fn set(response: &mut Response<Body>, name: HeaderName, value: impl AsRef<str>) {
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        response.headers_mut().insert(name, value);
    }
}

/// `Link: <…>; rel="next"`, RFC 5988.
pub fn set_next(response: &mut Response<Body>, path_and_query: &str) {
    set(response, header::LINK, format!("<{path_and_query}>; rel=\"next\""));
}
