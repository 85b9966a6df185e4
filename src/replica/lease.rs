//! What a call has of a replica while it lasts.

use std::sync::Arc;
use std::time::Duration;

use super::revision::Revision;
use super::{Replica, Timing};
use crate::function::Version;

/// The right to send one call to a replica. Dropping it ends the call.
pub struct Lease {
    pub(super) revision: Arc<Revision>,
    pub(super) replica: Arc<Replica>,
    pub(super) cold: Option<Timing>,
    /// False once the place was passed on to a call that waited.
    pub(super) held: bool,
}

impl Lease {
    /// Where to send the call.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Where the time went, if this call waited for a start.
    pub fn cold(&self) -> Option<Timing> {
        self.cold
    }

    /// The call goes to the replica.
    pub fn begun(&self) {
        self.revision.tally.begun();
    }

    /// The call was answered with this status, after so long.
    pub fn answered(&self, status: u16, took: Duration) {
        self.revision.tally.answered(status, took);
        if self.cold.is_some() {
            self.revision.tally.started_cold();
        }
    }

    /// The version that answers.
    pub fn version(&self) -> &Version {
        &self.revision.version
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.held {
            self.revision.finished(&self.replica);
        }
    }
}
