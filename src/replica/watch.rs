//! Watching a replica until it ends, and what its cgroup tells of why.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
        let cgroup = self.cgroup(id);
        let read = |controller: &str, file: &str| {
            let path: PathBuf = format!("/sys/fs/cgroup/{controller}{cgroup}/{file}").into();
            fs::read_to_string(path).ok()
        };
        // v1 has a hierarchy for each controller, v2 one for all.
        let memory = read("memory", "memory.oom_control").or_else(|| read("", "memory.events"));
        let pids = read("pids", "pids.events").or_else(|| read("", "pids.events"));
        Strain { out_of_memory: count(memory, "oom_kill"), out_of_pids: count(pids, "max") }
    }
}

/// Refusals since the replica started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strain {
    pub out_of_memory: u64,
    pub out_of_pids: u64,
}

/// The number behind a word in the kernel's `word number` lines.
fn count(text: Option<String>, word: &str) -> u64 {
    let text = text.unwrap_or_default();
    let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == word);
    line.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}
