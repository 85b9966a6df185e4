//! The trigger's replicas are containers: [`crate::replica`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{ColdStart, Lease, Replicas, Unavailable, Whose};
use crate::function::{FunctionName, Target};
use crate::replica::{self, Error};

/// How soon a call that found the queue full may well find room.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A connection breaks before containerd tells of the death behind it.
const NEWS: Duration = Duration::from_secs(1);

/// The right to one call at a container.
pub struct ContainerLease {
    lease: replica::Lease,
    replicas: Arc<replica::Replicas>,
}

impl Replicas for Arc<replica::Replicas> {
    type Lease = ContainerLease;

    async fn acquire(
        &self,
        target: &Target,
        admitted: bool,
        deadline: Instant,
    ) -> Result<ContainerLease, Unavailable> {
        let replicas: &Arc<replica::Replicas> = self;
        match replicas.acquire_for(&target.name, target.version, admitted, deadline).await {
            Ok(lease) => Ok(ContainerLease { lease, replicas: Arc::clone(replicas) }),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn refused(&self, name: &FunctionName, begun: bool, status: StatusCode, took: Duration) {
        replica::Replicas::refused(self, name, begun, status.as_u16(), took);
    }
}

fn unavailable(error: &Error) -> Unavailable {
    match error {
        Error::UnknownFunction { .. } | Error::Removed { .. } => Unavailable::NoFunction,
        Error::UnknownVersion { .. } => Unavailable::NoVersion,
        Error::NeedsToken { .. } => Unavailable::NeedsToken,
        Error::QueueFull { .. } => Unavailable::Full { retry_after: RETRY_AFTER },
        Error::TooSlow { .. } => Unavailable::TooLate,
        Error::Elsewhere { .. } | Error::NoRoom { .. } => {
            Unavailable::Elsewhere { retry_after: RETRY_AFTER, reason: error.to_string() }
        }
        Error::CannotStart { source, .. } => {
            let whose = if source.is_of_the_function() { Whose::Function } else { Whose::Platform };
            Unavailable::CannotStart { whose, reason: chain(&**source) }
        }
        other => Unavailable::CannotStart { whose: Whose::Platform, reason: chain(other) },
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Lease for ContainerLease {
    fn replica(&self) -> &str {
        &self.lease.replica().id
    }

    fn address(&self) -> SocketAddr {
        self.lease.replica().address
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.lease.version().image.settings.timeout_ms)
    }

    fn cold(&self) -> Option<ColdStart> {
        let timing = self.lease.cold()?;
        Some(ColdStart { mount: timing.prepare, create: timing.create, import: timing.boot })
    }

    async fn cause_of_death(&self) -> Option<String> {
        let fate = self.lease.replica().fate(NEWS).await?;
        Some(fate.cause(&self.lease.version().image.settings))
    }

    async fn gone(&self) {
        self.lease.replica().gone().await;
    }

    fn begun(&self) {
        self.lease.begun();
    }

    fn failed(&self) {
        self.replicas.report_dead(self.lease.replica());
    }

    fn answered(&self, status: StatusCode, took: Duration) {
        self.lease.answered(status.as_u16(), took);
    }
}
