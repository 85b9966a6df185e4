//! What functions did in the last minutes, a sample a second: for people who look.
//!
//! Only functions that are called or have replicas are followed, and no more than a bound of them. A sample is the
//! difference of two tallies, so calls pay nothing for it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::Replicas;
use super::tally::{Counts, Tally};
use crate::function::FunctionName;
use crate::telemetry::{BOUNDS, Buckets};

/// Between two samples.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Samples that are kept of a function: three minutes.
pub const KEPT: usize = 180;
/// Functions that are followed at once: a few megabytes.
const FOLLOWED: usize = 1000;

/// One second of a function, at this node.
#[derive(Clone, Copy, PartialEq, Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Calls that were answered.
    pub calls: u32,
    /// Those of them that failed: 5xx, or 429.
    pub errors: u32,
    /// Milliseconds that half of them took at most, and that 95 in 100 did.
    pub p50: f32,
    pub p95: f32,
    pub replicas: u32,
    /// Calls that were being answered.
    pub in_flight: u32,
}

#[derive(Default)]
struct Track {
    samples: VecDeque<Sample>,
    /// Samples in a row that say nothing.
    quiet: usize,
}

/// What a function has at the moment.
#[derive(Default)]
struct Now {
    /// None where it was never called.
    tally: Option<Arc<Tally>>,
    replicas: u32,
    in_flight: u32,
}

/// All functions' samples.
pub struct Series {
    tracks: Mutex<HashMap<FunctionName, Track>>,
    /// How many samples were taken.
    taken: watch::Sender<u64>,
}

impl Default for Series {
    fn default() -> Self {
        Self { tracks: Mutex::default(), taken: watch::Sender::new(0) }
    }
}

impl Series {
    /// Told whenever a sample was taken.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.taken.subscribe()
    }

    /// The last samples of every function that is followed, oldest first, at most `count` of each.
    pub fn last(&self, count: usize) -> Vec<(FunctionName, Vec<Sample>)> {
        let tracks = self.lock();
        let each = tracks.iter().map(|(name, track)| {
            let skipped = track.samples.len().saturating_sub(count);
            (name.clone(), track.samples.iter().skip(skipped).copied().collect())
        });
        each.collect()
    }

    fn take(&self, now: HashMap<FunctionName, Now>) {
        let mut tracks = self.lock();
        for (name, Now { tally, replicas, in_flight }) in now {
            if !tracks.contains_key(&name) && tracks.len() >= FOLLOWED {
                continue;
            }
            let (before, after) = tally.map(|tally| tally.sample()).unwrap_or_default();
            let sample = Sample { replicas, in_flight, ..difference(&before, &after) };
            tracks.entry(name).or_default().push(sample);
        }
        tracks.retain(|_, track| track.quiet < KEPT);
        drop(tracks);
        self.taken.send_modify(|taken| *taken += 1);
    }

    fn names(&self) -> Vec<FunctionName> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FunctionName, Track>> {
        self.tracks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Track {
    fn push(&mut self, sample: Sample) {
        self.quiet = if sample == Sample::default() { self.quiet + 1 } else { 0 };
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }
}

fn difference(before: &Counts, after: &Counts) -> Sample {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let (before_them, mut durations) = (before.buckets(), after.buckets());
    durations.iter_mut().zip(before_them).for_each(|(count, before)| *count = count.saturating_sub(before));
    Sample {
        calls: count(after.calls().saturating_sub(before.calls())),
        errors: count(after.errors().saturating_sub(before.errors())),
        p50: quantile(&durations, 0.5),
        p95: quantile(&durations, 0.95),
        ..Sample::default()
    }
}

/// The milliseconds that this share of the durations took at most, taken to be spread evenly between two bounds.
fn quantile(durations: &Buckets, share: f64) -> f32 {
    let total: u64 = durations.iter().sum();
    let mut left = total as f64 * share;
    let mut lower = 0.0;
    for (count, upper) in durations.iter().map(|count| *count as f64).zip(BOUNDS) {
        if count > 0.0 && left <= count {
            return ((lower + (upper - lower) * left / count) * 1000.0) as f32;
        }
        (left, lower) = (left - count, upper);
    }
    if total == 0 { 0.0 } else { (lower * 1000.0) as f32 }
}

impl Replicas {
    /// What functions did in the last minutes, at this node.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// Takes a sample a second until the server stops.
    pub(super) async fn keep_sampling(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while self.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
            self.sample();
        }
    }

    fn sample(&self) {
        // Few: functions that nobody calls have no route.
        let mut now = HashMap::<FunctionName, Now>::new();
        for (revision, _) in self.each_revision() {
            let busy = revision.replicas();
            let of = now.entry(revision.name.clone()).or_default();
            of.replicas += u32::try_from(busy.len()).unwrap_or(u32::MAX);
            of.in_flight += busy.iter().map(|(_, in_flight)| in_flight).sum::<u32>();
        }
        for name in self.series.names() {
            now.entry(name).or_default();
        }
        for (name, of) in &mut now {
            of.tally = self.rules.tallies.get(name);
        }
        self.series.take(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let (series, tally) = (Series::default(), Arc::new(Tally::default()));
        let name: FunctionName = "add".parse().unwrap();
        let now = |replicas| Now { tally: Some(Arc::clone(&tally)), replicas, in_flight: 0 };
        let take = |replicas| series.take([(name.clone(), now(replicas))].into());
        tally.answered(200, Duration::from_millis(1));
        take(1);
        (0..90).for_each(|_| tally.answered(200, Duration::from_micros(1500)));
        (0..10).for_each(|_| tally.answered(503, Duration::from_millis(90)));
        take(2);
        let (_, samples) = series.last(KEPT).remove(0);
        assert_eq!((samples[0].calls, samples[0].replicas), (1, 1), "the first call too");
        let Sample { calls, errors, p50, p95, replicas, .. } = samples[1];
        assert_eq!((calls, errors, replicas), (100, 10, 2));
        assert!((1.0..2.0).contains(&p50) && (50.0..100.0).contains(&p95), "{p50} {p95}");
        assert_eq!(series.last(1)[0].1, samples[1..]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let series = Series::default();
        let quiet = |n: usize| (format!("f{n}").parse().unwrap(), Now { replicas: 1, ..Now::default() });
        series.take((0..FOLLOWED + 10).map(quiet).collect());
        assert_eq!(series.last(1).len(), FOLLOWED);
        for second in 0..KEPT * 2 {
            let replicas = u32::from(second < KEPT);
            let idle = series.names().into_iter().map(|name| (name, Now { replicas, ..Now::default() }));
            series.take(idle.collect());
            assert!(series.lock().values().all(|track| track.samples.len() <= KEPT));
        }
        assert!(series.last(1).is_empty(), "what says nothing for so long is followed no more");
    }
}
