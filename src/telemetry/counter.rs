//! Counters and histograms: a few words of memory that are added to, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add_one(&self) {
        self.add(1);
    }

    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the times that are told apart, in seconds: fine where a warm call is, and up to the longest that a
/// call may take by default. What took longer than the last is counted after it.
pub const BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// How many times are between each two bounds; the last is for what is above all.
pub type Buckets = [u64; BOUNDS.len() + 1];

/// Times, by size.
#[derive(Default, Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// A histogram at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Times {
    pub buckets: Buckets,
    /// All of them together.
    pub micros: u64,
}

impl Histogram {
    pub fn add(&self, time: Duration) {
        let bucket = BOUNDS.partition_point(|bound| *bound < time.as_secs_f64());
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub fn times(&self) -> Times {
        let buckets = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        Times { buckets, micros: self.micros.load(Ordering::Relaxed) }
    }
}

impl Times {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}
