//! What the API answers when it cannot do what was asked: a status, JSON, and the next step.

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::Problem;
use crate::auth::{AuthError, InvalidTokenName};
use crate::function::{FunctionName, InvalidName, InvalidSetting, InvalidSplit, VersionNumber};
use crate::publish::{Blame, PublishError, RegistryError};
use crate::queue::QueueError;
use crate::replica;
use crate::secrets::SecretError;
use crate::store::StoreError;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("there is no function {name}")]
    NoFunction { name: FunctionName },
    #[error("{name} has no version {version}")]
    NoVersion { name: FunctionName, version: VersionNumber },
    #[error("{name} has no version before {current} to go back to")]
    NothingBefore { name: FunctionName, current: VersionNumber },
    #[error("nothing answers at {method} {path}")]
    NoPath { method: http::Method, path: String },
    #[error("{path} does not answer to {method}")]
    NoMethod { method: http::Method, path: String },
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error(transparent)]
    TokenName(#[from] InvalidTokenName),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    #[error("the calls of {name} cannot be divided like this")]
    Split {
        name: FunctionName,
        #[source]
        source: InvalidSplit,
    },
    #[error("the request's body cannot be read: {}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error("the request's body cannot be read: {}", .0.body_text())]
    Bytes(#[from] BytesRejection),
    #[error("{what}")]
    Request { what: String },
    #[error("the source is larger than {limit} bytes")]
    SourceTooLarge { limit: u64 },
    #[error("the image {image} is not in the registry {registry}")]
    NoImage { image: String, registry: String },
    #[error("cannot {step} in the registry {registry}")]
    Registry {
        step: &'static str,
        registry: String,
        #[source]
        source: Box<RegistryError>,
    },
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Replica(Box<replica::Error>),
    #[error("{name} changed each time it was tried")]
    Busy { name: FunctionName },
    #[error("{step} took longer than {} s", limit.as_secs())]
    TooSlow { step: &'static str, limit: std::time::Duration },
    #[error("cannot {step}")]
    Disk {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl From<replica::Error> for ApiError {
    fn from(error: replica::Error) -> Self {
        Self::Replica(Box::new(error))
    }
}

/// For text that is taken as it is.
impl From<std::convert::Infallible> for ApiError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl ApiError {
    fn describe(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoFunction { .. } => (StatusCode::NOT_FOUND, "FunctionNotFound"),
            Self::NoVersion { .. } => (StatusCode::NOT_FOUND, "VersionNotFound"),
            Self::NoPath { .. } => (StatusCode::NOT_FOUND, "PathNotFound"),
            Self::NoMethod { .. } => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::NothingBefore { .. } => (StatusCode::CONFLICT, "NothingBefore"),
            Self::Name(_) | Self::TokenName(_) => (StatusCode::BAD_REQUEST, "InvalidName"),
            Self::Auth(AuthError::NotFound { .. }) => (StatusCode::NOT_FOUND, "TokenNotFound"),
            Self::Auth(AuthError::Exists { .. }) => (StatusCode::CONFLICT, "Conflict"),
            Self::Auth(AuthError::Store(_)) => (StatusCode::SERVICE_UNAVAILABLE, "StoreUnavailable"),
            Self::Auth(_) => (StatusCode::INTERNAL_SERVER_ERROR, "ServerError"),
            Self::Split { .. } => (StatusCode::BAD_REQUEST, "InvalidSplit"),
            Self::Setting(_) => (StatusCode::BAD_REQUEST, "InvalidSetting"),
            Self::Body(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge")
            }
            Self::Bytes(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge")
            }
            Self::Body(_) | Self::Bytes(_) | Self::Request { .. } => {
                (StatusCode::BAD_REQUEST, "InvalidRequest")
            }
            Self::SourceTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SourceTooLarge"),
            Self::NoImage { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "ImageNotFound"),
            Self::Registry { .. } => (StatusCode::SERVICE_UNAVAILABLE, "RegistryUnavailable"),
            Self::Publish(error) => match error.blame() {
                Blame::Source => (StatusCode::BAD_REQUEST, "InvalidSource"),
                Blame::Registry => (StatusCode::SERVICE_UNAVAILABLE, "RegistryUnavailable"),
                Blame::Machine => (StatusCode::INTERNAL_SERVER_ERROR, "BuildFailed"),
            },
            Self::Queue(error) => error.describe(),
            Self::Store(StoreError::Conflict { .. }) | Self::Busy { .. } => {
                (StatusCode::CONFLICT, "Conflict")
            }
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "StoreUnavailable"),
            Self::Replica(error) => match **error {
                replica::Error::UnknownFunction { .. } => (StatusCode::NOT_FOUND, "FunctionNotFound"),
                replica::Error::UnknownReplica { .. } => (StatusCode::NOT_FOUND, "ReplicaNotFound"),
                replica::Error::Secret(SecretError::NotFound { .. }) => {
                    (StatusCode::UNPROCESSABLE_ENTITY, "SecretNotFound")
                }
                replica::Error::SecretName(_) => (StatusCode::BAD_REQUEST, "InvalidSetting"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "CannotStart"),
            },
            Self::TooSlow { .. } => (StatusCode::SERVICE_UNAVAILABLE, "TooSlow"),
            Self::Disk { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "ServerError"),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Publish(error) => error.hint(),
            Self::SourceTooLarge { .. } => Some("the server's --max-source raises the bound".into()),
            Self::Store(error) => error.hint(),
            Self::Auth(error) => error.hint(),
            Self::Queue(error) => error.hint(),
            Self::Replica(error) => error.hint(),
            Self::Registry { source, .. } => source.hint(),
            Self::NoVersion { name, .. } => {
                Some(format!("`fnbuild versions {name}` lists those that are there"))
            }
            Self::NoImage { .. } => {
                Some("push the image first; the server and the push must mean one registry".into())
            }
            _ => None,
        }
    }
}

/// An error and all its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind) = self.describe();
        let random = getrandom::u64().unwrap_or_default();
        let problem = Problem {
            error_type: kind.into(),
            error_message: chain(&self),
            request_id: format!("{random:016x}"),
            hint: self.hint(),
        };
        if status.is_server_error() {
            tracing::warn!(request = problem.request_id, "{}", problem.error_message);
        }
        (status, [("x-fnbuild-error", "platform")], Json(problem)).into_response()
    }
}
