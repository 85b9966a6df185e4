//! How many replicas the machine has room for, over all functions, and who makes room when it is full.
//!
//! Replicas without calls go first, the idlest before the others. A function that has none is worth more than another's
//! second: where nothing is idle, a function with several gives one up, once that one's calls have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::revision::Revision;
use super::table::Replicas;

/// While the machine is full, between two looks for a replica that has become idle.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What one replica is reckoned to take, with all that runs beside it.
const RECKONED: u64 = 128 << 20;

/// Of the machine's memory, what is to stay free: one part in so many.
const RESERVE: u64 = 10;

/// The places, and the movement in and out of them.
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Starts that wait for one.
    waiting: Arc<AtomicUsize>,
    /// Replicas that were told to end for them.
    leaving: Arc<AtomicUsize>,
}

impl Places {
    pub fn new(count: usize) -> Self {
        let free = Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS)));
        Self { free, waiting: Arc::default(), leaving: Arc::default() }
    }

    pub fn free_one(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }
}

/// One of a number of things, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn one_more(number: &Arc<AtomicUsize>) -> Self {
        number.fetch_add(1, Ordering::Relaxed);
        Self(number.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// As many as fit into the machine's memory.
pub(super) fn of_this_machine() -> usize {
    let total = memory("MemTotal:").unwrap_or(RECKONED);
    usize::try_from(total / RECKONED).unwrap_or(usize::MAX).max(8)
}

/// Whether so little memory is left that whatever starts should push something else out, whatever the count says.
fn is_memory_short() -> bool {
    match (memory("MemAvailable:"), memory("MemTotal:")) {
        (Some(available), Some(total)) => available < total / RESERVE,
        _ => false,
    }
}

/// In bytes.
pub(super) fn memory_of_this_machine() -> u64 {
    memory("MemTotal:").unwrap_or(0)
}

/// In bytes; what could be given up at once does not count.
pub(super) fn memory_in_use() -> u64 {
    memory_of_this_machine().saturating_sub(memory("MemAvailable:").unwrap_or(0))
}

/// A line of `/proc/meminfo`, in bytes.
fn memory(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

impl Replicas {
    /// The right to one more replica, kept as long as that is there. `None`: it must do with what it has, or the server
    /// stops; then the start is not counted any more.
    pub(super) async fn place_for(self: &Arc<Self>, revision: &Revision) -> Option<OwnedSemaphorePermit> {
        if is_memory_short() {
            self.evict_idlest();
        }
        if let Some(place) = self.places.free_one() {
            return Some(place);
        }
        let mut place = std::pin::pin!(self.places.free.clone().acquire_owned());
        let _waiting = Counted::one_more(&self.places.waiting);
        loop {
            // Whose place it becomes is decided by who has waited longest, not by who made room: so all is counted.
            let owed =
                self.places.waiting.load(Ordering::Relaxed) > self.places.leaving.load(Ordering::Relaxed);
            if owed && !self.evict_idlest() {
                if revision.give_up_start() {
                    return None;
                }
                self.shed_one();
            }
            tokio::select! {
                place = &mut place => return place.ok(),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.stopping.cancelled() => return None,
            }
        }
    }

    /// Whether there is room for containers that are nobody's yet.
    pub(super) fn has_room(&self) -> bool {
        self.places.free.available_permits() > 0 && !is_memory_short()
    }

    /// Ends the replica that has been idle for longest, over all functions; `false` if none is idle.
    fn evict_idlest(self: &Arc<Self>) -> bool {
        let all = self.all_revisions();
        let idle =
            all.iter().filter_map(|(revision, least)| Some((revision.idle_since(*least)?, revision, *least)));
        let mut idle: Vec<(Instant, &Arc<Revision>, u32)> = idle.collect();
        idle.sort_by_key(|(since, ..)| *since);
        // A call may have come since: then the next one.
        let found = idle.into_iter().find_map(|(_, revision, least)| revision.take_idle(least));
        let Some(replica) = found else { return false };
        tracing::info!(replica = %replica.id, "stopped: the machine is full");
        let (stopping, leaving) = (self.stop_replica(replica), Counted::one_more(&self.places.leaving));
        self.spawn(async move {
            stopping.await;
            drop(leaving);
        });
        true
    }

    /// Lets the function with the most replicas go on with one less.
    fn shed_one(&self) {
        let widest = self.all_revisions().into_iter().max_by_key(|(revision, _)| revision.width());
        if let Some((revision, _)) = widest
            && !revision.is_shedding()
        {
            revision.shed();
        }
    }

    /// Whether another replica could start only if a call ended first.
    pub fn is_full(&self) -> bool {
        let all = self.all_revisions();
        let idle = all.iter().any(|(revision, least)| revision.idle_since(*least).is_some());
        self.places.free.available_permits() == 0 && !idle
    }

    /// Every revision and how many of its replicas are to stay.
    fn all_revisions(&self) -> Vec<(Arc<Revision>, u32)> {
        let each = self.each_revision().into_iter();
        each.map(|(revision, serves)| (revision.clone(), if serves { revision.least() } else { 0 })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_room() {
        let (total, available) = (memory("MemTotal:").unwrap(), memory("MemAvailable:").unwrap());
        assert!(total >= available && available > 1 << 20);
        assert!(of_this_machine() >= 8);
        assert_eq!(memory("NoSuchLine:"), None);
    }
}
