//! A replica's cgroup: what the kernel has refused it, and other limits than it was started with.
//!
//! Written directly: by way of containerd and runc it takes longer than everything else between a call and its answer.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::containerd::{CPU_PERIOD, Limits};

const ROOT: &str = "/sys/fs/cgroup";

/// Refusals since the replica started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strain {
    pub out_of_memory: u64,
    pub out_of_pids: u64,
}

/// A path below every hierarchy (v1) or the only one (v2).
pub(super) struct Cgroup<'a>(pub &'a str);

impl Cgroup<'_> {
    fn file(&self, controller: &str, file: &str) -> PathBuf {
        // Its own path begins with a slash.
        format!("{ROOT}/{controller}{}/{file}", self.0).into()
    }

    pub fn strain(&self) -> Strain {
        let read = |controller: &str, file: &str| fs::read_to_string(self.file(controller, file)).ok();
        // v1 has a hierarchy for each controller, v2 one for all.
        let memory = read("memory", "memory.oom_control").or_else(|| read("", "memory.events"));
        let pids = read("pids", "pids.events").or_else(|| read("", "pids.events"));
        Strain { out_of_memory: count(memory, "oom_kill"), out_of_pids: count(pids, "max") }
    }

    /// Bytes that what runs in it cannot give up: all but the pages of files.
    pub fn memory_held(&self) -> u64 {
        let read = |v1: &str, v2: &str| {
            let text = fs::read_to_string(self.file("memory", v1));
            text.or_else(|_| fs::read_to_string(self.file("", v2))).ok()
        };
        let used = read("memory.usage_in_bytes", "memory.current");
        let used: u64 = used.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let pages = read("memory.stat", "memory.stat");
        let files = count(pages.clone(), "active_file") + count(pages, "inactive_file");
        used.saturating_sub(files)
    }

    /// Removes it where nothing runs in it: what killed runtimes leave behind.
    pub fn remove(&self) {
        for root in roots() {
            let _ = fs::remove_dir(root.join(self.0.trim_start_matches('/')));
        }
    }

    /// Sets what a container can be held to while it runs: all but its file systems' sizes.
    pub fn limit(&self, limits: &Limits) -> io::Result<()> {
        if Path::new(ROOT).join("cgroup.controllers").exists() {
            self.limit_v2(limits)
        } else {
            self.limit_v1(limits)
        }
    }

    fn limit_v1(&self, limits: &Limits) -> io::Result<()> {
        let memory = limits.memory_bytes.to_string();
        let set = |controller: &str, file: &str, value: &str| fs::write(self.file(controller, file), value);
        // A kernel may not count swap. Where it does, memory alone may never exceed both together: the one that is in
        // the way goes first, and which it is depends on whether the limit grows.
        if self.file("memory", "memory.memsw.limit_in_bytes").exists() {
            let _ = set("memory", "memory.limit_in_bytes", &memory);
            set("memory", "memory.memsw.limit_in_bytes", &memory)?;
        }
        set("memory", "memory.limit_in_bytes", &memory)?;
        set("cpu", "cpu.cfs_quota_us", &limits.cpu_quota().to_string())?;
        set("cpu", "cpu.shares", &limits.cpu_shares.to_string())?;
        set("pids", "pids.max", &limits.pids.to_string())
    }

    fn limit_v2(&self, limits: &Limits) -> io::Result<()> {
        let set = |file: &str, value: String| fs::write(self.file("", file), value);
        set("memory.max", limits.memory_bytes.to_string())?;
        set("cpu.max", format!("{} {CPU_PERIOD}", limits.cpu_quota()))?;
        // runc's own translation of the 2 to 262,144 of v1 into 1 to 10,000.
        set("cpu.weight", (1 + (limits.cpu_shares - 2) * 9999 / 262_142).to_string())?;
        set("pids.max", limits.pids.to_string())
    }
}

/// The names of the groups below one.
pub(super) fn children(parent: &str) -> BTreeSet<String> {
    let below = |root: PathBuf| fs::read_dir(root.join(parent.trim_start_matches('/')));
    let entries = roots().into_iter().filter_map(|root| below(root).ok()).flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The hierarchies' own folders: one for each controller with v1.
fn roots() -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![ROOT.into()];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    // Controllers that share one have links to it.
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The number behind a word in the kernel's `word number` lines.
fn count(text: Option<String>, word: &str) -> u64 {
    let text = text.unwrap_or_default();
    let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == word);
    line.and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}
