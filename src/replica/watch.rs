//! Watching a replica until it ends, and why it did.

use std::sync::Arc;
use std::time::Duration;

use super::cgroup::{Cgroup, Strain};
use super::start::Starter;
use super::{Fate, Replica};
use crate::containerd::TaskState;

/// The exit status of a process that nobody saw ending: 128 + SIGKILL.
const KILLED: u32 = 137;

/// Between two attempts while containerd is away.
const PAUSE: Duration = Duration::from_millis(200);

impl Starter {
    /// Ends when the replica's process has. Outlives containerd's absence: a wait that breaks proves nothing, only
    /// what containerd then says of the task does.
    pub async fn ended(&self, replica: &Arc<Replica>) -> Fate {
        let status = loop {
            if let Ok(exit) = self.containerd.wait_task(&replica.id).await {
                break exit.status;
            }
            match self.containerd.task(&replica.id).await {
                // Its shim was killed, and containerd knows the task no more.
                Ok(None) => break KILLED,
                Ok(Some(task)) if task.state == TaskState::Stopped => break KILLED,
                Ok(Some(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let strain = self.strain(&replica.id);
        Fate { status, out_of_memory: strain.out_of_memory > 0, out_of_pids: strain.out_of_pids > 0 }
    }

    /// What the kernel has refused the replica so far.
    pub fn strain(&self, id: &str) -> Strain {
        Cgroup(&self.cgroup(id)).strain()
    }
}
