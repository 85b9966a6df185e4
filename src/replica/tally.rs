//! What a function's calls came to, in numbers that only grow: how many answers of each status, and how long they took.
//!
//! An answer costs three relaxed additions and no lock. A function keeps its tally over its versions, from its first
//! call until it is deleted, however often it is forgotten and looked up again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::function::FunctionName;

/// Upper bounds of the durations that are told apart, in seconds. What took longer than the last is counted after it.
pub const BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// How many statuses are told apart; a function has a handful. What comes after is counted as the last.
const STATUSES: usize = 16;

/// The status in the upper bits, how often it was answered in the others.
const COUNT_BITS: u32 = 48;
const ONE: u64 = 1;

/// One function's.
#[derive(Default)]
pub struct Tally {
    answers: [AtomicU64; STATUSES],
    durations: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
    cold: AtomicU64,
    /// What it was when the last sample was taken of it.
    sampled: Mutex<Counts>,
}

/// A tally at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// By status.
    pub answers: Vec<(u16, u64)>,
    /// How many took no longer than each of [`BOUNDS`], but longer than the one before; last, those that took longer.
    pub durations: [u64; BOUNDS.len() + 1],
    /// What all of them took together.
    pub micros: u64,
    /// How many had to wait for a start.
    pub cold: u64,
}

impl Tally {
    /// A call was answered, by the function or for it.
    pub fn answered(&self, status: u16, took: Duration) {
        let at = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.durations[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.slot(status).fetch_add(ONE, Ordering::Relaxed);
    }

    pub fn started_cold(&self) {
        self.cold.fetch_add(1, Ordering::Relaxed);
    }

    /// Where a status is counted. Slots are taken in the order that statuses come in and never given back, so that the
    /// first one, nearly always 200, is nearly always the one.
    fn slot(&self, status: u16) -> &AtomicU64 {
        for slot in &self.answers {
            let mut found = status_of(slot.load(Ordering::Relaxed));
            if found == 0 {
                let named = u64::from(status) << COUNT_BITS;
                let taken = slot.compare_exchange(0, named, Ordering::Relaxed, Ordering::Relaxed);
                found = taken.map_or_else(status_of, |_| status);
            }
            if found == status {
                return slot;
            }
        }
        &self.answers[STATUSES - 1]
    }

    /// What it was when this was last asked, and what it is.
    pub(super) fn sample(&self) -> (Counts, Counts) {
        let now = self.counts();
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::replace(&mut sampled, now.clone()), now)
    }

    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let answers = self.answers.iter().map(load).take_while(|slot| *slot != 0);
        Counts {
            answers: answers.map(|slot| (status_of(slot), slot & ((ONE << COUNT_BITS) - 1))).collect(),
            durations: std::array::from_fn(|at| load(&self.durations[at])),
            micros: load(&self.micros),
            cold: load(&self.cold),
        }
    }
}

const fn status_of(slot: u64) -> u16 {
    (slot >> COUNT_BITS) as u16
}

impl Counts {
    pub fn calls(&self) -> u64 {
        self.answers.iter().map(|(_, count)| count).sum()
    }

    /// Calls that were refused for want of room, or failed.
    pub fn errors(&self) -> u64 {
        let failed = self.answers.iter().filter(|(status, _)| *status == 429 || *status >= 500);
        failed.map(|(_, count)| count).sum()
    }
}

/// All functions'.
#[derive(Default)]
pub struct Tallies(Mutex<HashMap<FunctionName, Arc<Tally>>>);

impl Tallies {
    /// A function's, from here on. Only for one that has a record: what has none must not take room.
    pub fn of(&self, name: &FunctionName) -> Arc<Tally> {
        let mut all = self.lock();
        match all.get(name) {
            Some(tally) => Arc::clone(tally),
            None => Arc::clone(all.entry(name.clone()).or_default()),
        }
    }

    pub fn get(&self, name: &FunctionName) -> Option<Arc<Tally>> {
        self.lock().get(name).cloned()
    }

    pub fn forget(&self, name: &FunctionName) {
        self.lock().remove(name);
    }

    /// In the order of names.
    pub fn all(&self) -> Vec<(FunctionName, Arc<Tally>)> {
        let all = self.lock();
        let each = all.iter().map(|(name, tally)| (name.clone(), Arc::clone(tally)));
        let mut all: Vec<_> = each.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FunctionName, Arc<Tally>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_counted_once_by_its_status_and_its_duration() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1000_u16 {
                        tally.answered([200, 404, 500, 429][usize::from(n % 4)], Duration::from_millis(2));
                    }
                });
            }
        });
        tally.answered(200, Duration::from_secs(100));
        let mut counts = tally.counts();
        counts.answers.sort_unstable();
        assert_eq!(counts.answers, [(200, 1001), (404, 1000), (429, 1000), (500, 1000)]);
        assert_eq!((counts.calls(), counts.errors()), (4001, 2000));
        assert_eq!((counts.durations[2], counts.durations[BOUNDS.len()]), (4000, 1));
        assert_eq!(counts.micros, 4000 * 2000 + 100_000_000);
    }

    #[test]
    fn more_statuses_than_there_is_room_for_lose_no_answer() {
        let tally = Tally::default();
        (400..500).for_each(|status| tally.answered(status, Duration::ZERO));
        assert_eq!(tally.counts().calls(), 100);
    }
}
