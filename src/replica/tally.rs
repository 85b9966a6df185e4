//! What a function's calls came to, in numbers that only grow: how many answers of each status, and how long they took.
//!
//! A call costs three relaxed additions and no lock. A function keeps its tally over its versions, from its first call
//! until it is deleted, however often it is forgotten and looked up again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::function::FunctionName;
use crate::telemetry::{Buckets, Counter, Histogram, Times};

/// How many statuses are told apart; a function has a handful. What comes after is counted as the last.
const STATUSES: usize = 16;

/// One function's.
#[derive(Default)]
pub struct Tally {
    begun: Counter,
    answers: [OnceLock<Box<Answers>>; STATUSES],
    cold: Counter,
    /// What it was when the last sample was taken of it.
    sampled: Mutex<Counts>,
}

/// The answers of one status, by the time that they took.
struct Answers {
    status: u16,
    times: Histogram,
}

/// A tally at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Calls that reached a replica, or were refused before.
    pub begun: u64,
    /// By status.
    pub answers: Vec<(u16, Times)>,
    /// How many had to wait for a start.
    pub cold: u64,
}

impl Tally {
    /// A call goes to a replica, or is about to be refused.
    pub fn begun(&self) {
        self.begun.add_one();
    }

    /// A call was answered, by the function or for it.
    pub fn answered(&self, status: u16, took: Duration) {
        self.of(status).add(took);
    }

    pub fn started_cold(&self) {
        self.cold.add_one();
    }

    /// Where a status is counted. Slots are taken in the order that statuses come in and never given back, so that the
    /// first one, nearly always 200, is nearly always the one.
    fn of(&self, status: u16) -> &Histogram {
        let new = || Box::new(Answers { status, times: Histogram::default() });
        let mut slots = self.answers.iter().map(|slot| slot.get_or_init(new));
        let found = slots.find(|answers| answers.status == status);
        &found.unwrap_or_else(|| self.answers[STATUSES - 1].get_or_init(new)).times
    }

    /// What it was when this was last asked, and what it is.
    pub(super) fn sample(&self) -> (Counts, Counts) {
        let now = self.counts();
        let mut sampled = self.sampled.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::replace(&mut sampled, now.clone()), now)
    }

    pub fn counts(&self) -> Counts {
        let answers = self.answers.iter().map_while(OnceLock::get);
        let answers = answers.map(|answers| (answers.status, answers.times.times())).collect();
        // Read last: a call is begun before it is answered, and must not seem otherwise.
        Counts { answers, cold: self.cold.get(), begun: self.begun.get() }
    }
}

impl Counts {
    pub fn calls(&self) -> u64 {
        self.answers.iter().map(|(_, times)| times.count()).sum()
    }

    /// Calls that were refused for want of room, or failed.
    pub fn errors(&self) -> u64 {
        let failed = self.answers.iter().filter(|(status, _)| *status == 429 || *status >= 500);
        failed.map(|(_, times)| times.count()).sum()
    }

    /// Of all statuses together.
    pub fn buckets(&self) -> Buckets {
        let mut all = Buckets::default();
        for (_, times) in &self.answers {
            all.iter_mut().zip(times.buckets).for_each(|(sum, count)| *sum += count);
        }
        all
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
    use crate::telemetry::BOUNDS;

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
        counts.answers.sort_unstable_by_key(|(status, _)| *status);
        let answers: Vec<_> = counts.answers.iter().map(|(status, times)| (*status, times.count())).collect();
        assert_eq!(answers, [(200, 1001), (404, 1000), (429, 1000), (500, 1000)]);
        assert_eq!((counts.calls(), counts.errors()), (4001, 2000));
        assert_eq!((counts.buckets()[2], counts.buckets()[BOUNDS.len()]), (4000, 1));
        assert_eq!(counts.answers[0].1.micros, 1000 * 2000 + 100_000_000);
    }

    #[test]
    fn more_statuses_than_there_is_room_for_lose_no_answer() {
        let tally = Tally::default();
        (400..500).for_each(|status| tally.answered(status, Duration::ZERO));
        assert_eq!(tally.counts().calls(), 100);
    }
}
