//! What `fnbuild serve` can be told of asynchronous calls.

use std::time::Duration;

use super::{duration, size};
use crate::queue::CallbackHost;

#[derive(clap::Args, Clone, Debug)]
pub struct QueueArguments {
    /// What this node keeps of asynchronous calls at most, dead letters among them
    #[arg(long, env = "FNBUILD_ASYNC_BYTES", default_value = "1Gi", value_parser = size, value_name = "SIZE")]
    pub(super) async_bytes: u64,
    /// How long an asynchronous call waits at most after its first failure; doubled with each further one
    #[arg(long, env = "FNBUILD_ASYNC_BACKOFF", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub(super) async_backoff: Duration,
    /// How long calls that failed for good are kept
    #[arg(long, env = "FNBUILD_KEEP_DEAD", default_value = "168h", value_parser = duration, value_name = "TIME")]
    keep_dead: Duration,
    /// A host that X-Callback-Url may name beside what --egress lets functions reach; may be given more than once
    #[arg(long, env = "FNBUILD_CALLBACK_HOSTS", value_delimiter = ',', value_name = "HOST[:PORT]")]
    callback_hosts: Vec<CallbackHost>,
}

/// What they come to.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    pub bytes: u64,
    pub backoff: Duration,
    /// Dead letters are kept for so long.
    pub keep_dead: Duration,
    pub callback_hosts: Vec<CallbackHost>,
}

impl From<QueueArguments> for QueueSettings {
    fn from(arguments: QueueArguments) -> Self {
        let QueueArguments { async_bytes: bytes, async_backoff: backoff, keep_dead, callback_hosts } =
            arguments;
        Self { bytes, backoff, keep_dead, callback_hosts }
    }
}
