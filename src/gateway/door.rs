//! Whom the trigger lets call functions that need a token. Which tokens there are is not the gateway's affair.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::HeaderValue;

/// Knows tokens.
pub trait Doorkeeper: Send + Sync {
    /// Whether an `Authorization` is meant for the platform, be it right or wrong: then no function gets to see it.
    fn is_own(&self, authorization: &HeaderValue) -> bool;

    /// Whether it lets its bearer call functions.
    fn admit<'a>(
        &'a self,
        authorization: Option<&'a HeaderValue>,
        peer: IpAddr,
    ) -> BoxFuture<'a, Result<(), NotAdmitted>>;
}

/// Why a call is not let in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NotAdmitted {
    pub kind: NotAdmittedKind,
    pub reason: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAdmittedKind {
    /// 401: nothing, or nothing that is known.
    Unknown,
    /// 403: known, and for something else.
    Forbidden,
    /// 429: wrong too often.
    TooMany { retry_after: Duration },
    /// 503: it cannot be found out now.
    Unchecked,
}
