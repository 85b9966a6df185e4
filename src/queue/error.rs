//! What can go wrong with asynchronous calls and schedules, and the next step.

use http::{Method, StatusCode};

use crate::function::FunctionName;
use crate::gateway::{NotAdmitted, NotAdmittedKind};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("no function has the path {path}")]
    NoPath { path: String },
    #[error("there is no function {name}")]
    NoFunction { name: FunctionName },
    #[error("the function {name} has no version {version}")]
    NoVersion { name: FunctionName, version: u64 },
    #[error("{0}")]
    NotAdmitted(NotAdmitted),
    #[error("a call to be made later cannot be made with {method}")]
    Method { method: Method },
    #[error("the request's body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request's headers are larger than {limit} bytes")]
    HeadTooLarge { limit: usize },
    #[error("the request's body broke off")]
    Body,
    #[error("X-Callback-Url {url:?}: {why}")]
    Callback { url: String, why: String },
    #[error("{bound} calls of {name} wait already")]
    FunctionFull { name: FunctionName, bound: u32 },
    #[error("the calls that wait at this node have {bound} bytes already")]
    NodeFull { bound: u64 },
    #[error("no replica of {name} runs at this node, by its share of --max-scale")]
    Elsewhere { name: FunctionName },
    #[error("there is no call {id} at this node")]
    NoCall { id: String },
    #[error("there is no schedule {id}")]
    NoSchedule { id: String },
    #[error("{pattern:?} is no schedule: {why}")]
    Pattern { pattern: String, why: String },
    #[error("{zone:?} is no time zone that this machine knows")]
    TimeZone { zone: String },
    #[error("the data of a schedule must be JSON of at most {limit} bytes")]
    Data { limit: usize },
    #[error("the schedules of {name} changed each time it was tried")]
    Busy { name: FunctionName },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {step} the queue at {place}")]
    Disk {
        step: &'static str,
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the queue at {place} has format {found}; this fnbuild reads formats up to {}",
        super::disk::FORMAT
    )]
    Newer { place: String, found: u32 },
    #[error("the task that keeps calls ended early")]
    Interrupted,
}

impl QueueError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoFunction { .. } => Some("`fnbuild list` shows the functions that are there".into()),
            Self::NoCall { .. } => Some(
                "`fnbuild calls list` shows the calls that wait or failed; one that was answered is gone"
                    .into(),
            ),
            Self::NoSchedule { .. } => Some("`fnbuild schedule list` shows the schedules".into()),
            Self::Pattern { .. } => Some(
                "five fields: minute hour day month weekday, for example \"*/5 * * * *\", or @hourly".into(),
            ),
            Self::TimeZone { .. } => {
                Some("a name such as UTC or Europe/Berlin; the machine needs the package tzdata".into())
            }
            Self::Data { .. } => Some("for example {\"to\": \"me\"}: text is JSON in quotes".into()),
            Self::Callback { .. } => {
                Some("the server's --callback-hosts names hosts that may be called back".into())
            }
            Self::FunctionFull { name, .. } => {
                Some(format!("wait, or raise the bound with `fnbuild config {name} --async-queue N`"))
            }
            Self::NodeFull { .. } => Some("wait, or raise the bound with --async-bytes".into()),
            Self::Newer { .. } => Some("run the newer fnbuild that wrote it".into()),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }

    /// How HTTP tells it.
    pub fn describe(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoPath { .. } | Self::NoFunction { .. } => (StatusCode::NOT_FOUND, "FunctionNotFound"),
            Self::NoVersion { .. } => (StatusCode::NOT_FOUND, "VersionNotFound"),
            Self::NotAdmitted(refused) => match refused.kind {
                NotAdmittedKind::Unknown => (StatusCode::UNAUTHORIZED, "Unauthorized"),
                NotAdmittedKind::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
                NotAdmittedKind::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "TooManyFailures"),
                NotAdmittedKind::Unchecked => (StatusCode::SERVICE_UNAVAILABLE, "TokensUnavailable"),
            },
            Self::Method { .. } => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLarge"),
            Self::HeadTooLarge { .. } => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "RequestTooLarge"),
            Self::Body => (StatusCode::BAD_REQUEST, "InvalidRequest"),
            Self::Callback { .. } => (StatusCode::BAD_REQUEST, "InvalidCallback"),
            Self::FunctionFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "QueueFull"),
            Self::NodeFull { .. } => (StatusCode::SERVICE_UNAVAILABLE, "QueueFull"),
            Self::Elsewhere { .. } => (StatusCode::SERVICE_UNAVAILABLE, "Elsewhere"),
            Self::NoCall { .. } => (StatusCode::NOT_FOUND, "CallNotFound"),
            Self::NoSchedule { .. } => (StatusCode::NOT_FOUND, "ScheduleNotFound"),
            Self::Pattern { .. } | Self::TimeZone { .. } | Self::Data { .. } => {
                (StatusCode::BAD_REQUEST, "InvalidSchedule")
            }
            Self::Busy { .. } => (StatusCode::CONFLICT, "Conflict"),
            Self::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "StoreUnavailable"),
            Self::Disk { .. } | Self::Interrupted | Self::Newer { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "QueueUnavailable")
            }
        }
    }

    /// In how many seconds it may be otherwise.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::FunctionFull { .. } | Self::NodeFull { .. } => Some(5),
            Self::Elsewhere { .. } => Some(1),
            // Rounded up: who comes back at that second is let in.
            Self::NotAdmitted(NotAdmitted { kind: NotAdmittedKind::TooMany { retry_after }, .. }) => {
                Some(retry_after.as_secs() + 1)
            }
            _ => None,
        }
    }
}
