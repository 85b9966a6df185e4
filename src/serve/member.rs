//! Keeps a node known to the others, from its start to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::cluster::Membership;

const TICK: Duration = Duration::from_secs(1);
/// An etcd that is away must not keep a server from ending: the lease runs out by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// The task that renews a node's lease.
pub struct Member {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Member {
    pub fn start(membership: Membership, api: Arc<Api>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(renew(membership, api, stop.clone()));
        Self { stop, task }
    }

    /// Ends when the others know that this node is gone, or cannot be told.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn renew(mut membership: Membership, api: Arc<Api>, stop: CancellationToken) {
    let mut was_well = true;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let renewed = membership.renew(&api.node()).await;
        if let Err(error) = &renewed
            && was_well
        {
            tracing::warn!(%error, "the other nodes cannot be told of this one");
        }
        was_well = renewed.is_ok();
    }
    match tokio::time::timeout(FAREWELL, membership.leave()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(%error, "the other nodes find out by themselves that this one is gone")
        }
        Err(_) => tracing::info!("the other nodes find out by themselves that this one is gone"),
    }
}
