//! What can go wrong with a call, and how it is told: a status, whose fault it is, and JSON.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

use super::{AnswerBody, NotAdmitted, NotAdmittedKind, Reached, Unavailable, headers};

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    Function,
    Platform,
}

impl Whose {
    pub fn header(self) -> HeaderValue {
        match self {
            Self::Function => HeaderValue::from_static("function"),
            Self::Platform => HeaderValue::from_static("platform"),
        }
    }
}

/// Why a call has no answer of its function.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("no function has the path {path}")]
    NoPath { path: String },
    #[error("there is no function {target}")]
    NoFunction { target: String },
    #[error("{} has no version {}", name(target), version(target))]
    NoVersion { target: String },
    #[error("{target} answers only calls with a token: {source}")]
    NotAdmitted { target: String, source: NotAdmitted },
    #[error("the request's body is larger than {limit} bytes")]
    RequestTooLarge { limit: u64 },
    #[error("all replicas of {target} are busy and the queue is full")]
    Full { target: String, retry_after: Duration },
    #[error("no replica of {target} is to be had here: {reason}")]
    Elsewhere { target: String, retry_after: Duration, reason: String },
    #[error("{target} cannot be started: {reason}")]
    CannotStart { target: String, whose: Whose, reason: String },
    #[error("no replica of {target} was up and free within {}", seconds(.limit))]
    StartedTooLate { target: String, limit: Duration },
    #[error("the container of {target} closed the connection before it answered{}", because(cause))]
    Died { target: String, cause: Option<String> },
    #[error("{target} did not begin to answer within {}", seconds(.limit))]
    TimedOut { target: String, limit: Duration },
    #[error("the answer of {target} is larger than {limit} bytes")]
    AnswerTooLarge { target: String, limit: u64 },
}

/// Of `NAME` or `NAME@VERSION`.
fn name(target: &str) -> &str {
    target.split_once('@').map_or(target, |(name, _)| name)
}

fn version(target: &str) -> &str {
    target.split_once('@').map_or("", |(_, version)| version)
}

fn seconds(time: &Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

fn because(cause: &Option<String>) -> String {
    cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl Fault {
    pub fn of(unavailable: Unavailable, target: String, limit: Duration) -> Self {
        match unavailable {
            Unavailable::NoFunction => Self::NoFunction { target },
            Unavailable::NoVersion => Self::NoVersion { target },
            Unavailable::NeedsToken => Self::NotAdmitted {
                target,
                source: NotAdmitted {
                    kind: NotAdmittedKind::Unknown,
                    reason: "nobody here knows tokens".into(),
                },
            },
            Unavailable::Full { retry_after } => Self::Full { target, retry_after },
            Unavailable::Elsewhere { retry_after, reason } => Self::Elsewhere { target, retry_after, reason },
            Unavailable::CannotStart { whose, reason } => Self::CannotStart { target, whose, reason },
            Unavailable::TooLate => Self::StartedTooLate { target, limit },
        }
    }

    /// How far the call had come.
    pub fn reached(&self) -> Reached {
        match self {
            Self::NoPath { .. }
            | Self::NoFunction { .. }
            | Self::NoVersion { .. }
            | Self::NotAdmitted { .. }
            | Self::RequestTooLarge { .. } => Reached::Nothing,
            Self::Full { .. } | Self::Elsewhere { .. } | Self::StartedTooLate { .. } => Reached::NotYet,
            Self::CannotStart { whose: Whose::Platform, .. } => Reached::NotYet,
            Self::CannotStart { whose: Whose::Function, .. }
            | Self::Died { .. }
            | Self::TimedOut { .. }
            | Self::AnswerTooLarge { .. } => Reached::Function,
        }
    }

    fn describe(&self) -> (StatusCode, &'static str, Whose) {
        use Whose::{Function, Platform};
        match self {
            Self::NoPath { .. } | Self::NoFunction { .. } => {
                (StatusCode::NOT_FOUND, "FunctionNotFound", Platform)
            }
            Self::NoVersion { .. } => (StatusCode::NOT_FOUND, "VersionNotFound", Platform),
            Self::NotAdmitted { source, .. } => match source.kind {
                NotAdmittedKind::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized", Platform),
                NotAdmittedKind::Forbidden => (StatusCode::FORBIDDEN, "Forbidden", Platform),
                NotAdmittedKind::TooMany { .. } => {
                    (StatusCode::TOO_MANY_REQUESTS, "TooManyFailures", Platform)
                }
                NotAdmittedKind::Unchecked => {
                    (StatusCode::SERVICE_UNAVAILABLE, "TokensUnavailable", Platform)
                }
            },
            Self::RequestTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge", Platform),
            Self::Full { .. } => (StatusCode::TOO_MANY_REQUESTS, "TooManyCalls", Platform),
            Self::Elsewhere { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Elsewhere", Platform),
            Self::CannotStart { whose, .. } => (StatusCode::SERVICE_UNAVAILABLE, "CannotStart", *whose),
            Self::StartedTooLate { .. } => (StatusCode::SERVICE_UNAVAILABLE, "StartTimeout", Platform),
            Self::Died { .. } => (StatusCode::BAD_GATEWAY, "ContainerDied", Function),
            Self::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "Timeout", Function),
            Self::AnswerTooLarge { .. } => (StatusCode::BAD_GATEWAY, "AnswerTooLarge", Function),
        }
    }

    /// The next step, where there is one for whoever runs the function.
    fn hint(&self) -> Option<String> {
        match self {
            Self::NoVersion { target } => {
                Some(format!("`fnbuild versions {}` lists those that are there", name(target)))
            }
            Self::CannotStart { target, whose: Whose::Function, .. } | Self::Died { target, .. } => {
                Some(format!("`fnbuild logs {}` shows what it printed", name(target)))
            }
            _ => None,
        }
    }

    pub fn status(&self) -> StatusCode {
        self.describe().0
    }

    /// As `errorType` has it.
    pub fn kind(&self) -> &'static str {
        self.describe().1
    }

    /// The answer that tells it.
    pub fn answer<L>(&self, call: &HeaderValue) -> Response<AnswerBody<L>> {
        let (status, kind, whose) = self.describe();
        let id = call.to_str().unwrap_or_default();
        let mut problem = serde_json::json!({
            "errorType": kind,
            "errorMessage": self.to_string(),
            "requestId": id,
        });
        if let Some(hint) = self.hint() {
            problem["hint"] = hint.into();
        }
        let mut response = Response::new(AnswerBody::whole(Bytes::from(problem.to_string())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(headers::ERROR, whose.header());
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fnbuild\""));
        }
        if let Some(retry_after) = self.retry_after() {
            // Rounded up: who comes back at that second is let in.
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs_f64().ceil().max(1.0) as u64));
        }
        response
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Full { retry_after, .. } | Self::Elsewhere { retry_after, .. } => Some(*retry_after),
            Self::NotAdmitted { source, .. } => match source.kind {
                NotAdmittedKind::TooMany { retry_after } => Some(retry_after),
                _ => None,
            },
            _ => None,
        }
    }
}
