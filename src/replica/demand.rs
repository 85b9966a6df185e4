//! How many replicas the calls of a version ask for, where their rate counts and not only how many are in flight.
//!
//! - What counts is the last [`WINDOW`]: the mean rate in it, and the most calls that were in flight or waited.
//! - More replicas come in steps, each after the rate has asked for more for [`HOLD`]. Calls that wait do not wait for that:
//!   they have replicas started at once, by [`super::revision`].
//! - Fewer are wanted as soon as nothing in the window asks for them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::function::Settings;

const WINDOW: Duration = Duration::from_secs(10);
const HOLD: Duration = Duration::from_secs(5);

/// By what a version is sized, beside the bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Calls in a second for each replica.
    target: u32,
    /// Calls at once for each replica.
    concurrency: u32,
    /// How much of the largest scale is added at a time, in percent.
    step: u32,
}

/// How many replicas there may be: at this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub least: u32,
    pub most: u32,
}

/// What the calls of the last window came to.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Load {
    /// Calls in a second.
    rate: f64,
    /// At once, at most.
    busy: u32,
}

impl Rule {
    /// `None` where only calls in flight count.
    pub fn of(settings: &Settings) -> Option<Self> {
        let Settings { target_rps: target, scale_factor: step, .. } = *settings;
        let concurrency = settings.concurrency.max(1);
        (target > 0).then_some(Self { target, concurrency, step })
    }

    /// As many as the load asks for.
    fn needed(self, load: Load, Bounds { least, most }: Bounds) -> u32 {
        let for_rate = (load.rate / f64::from(self.target)).ceil() as u32;
        for_rate.max(load.busy.div_ceil(self.concurrency)).max(least).min(most)
    }

    /// One step more than there are, but no more than are needed.
    fn grown(self, present: u32, needed: u32, most: u32) -> u32 {
        let step = u64::from(most) * u64::from(self.step);
        let step = u32::try_from(step.div_ceil(100)).unwrap_or(u32::MAX).max(1);
        needed.min(present.saturating_add(step))
    }
}

/// The calls of the last [`WINDOW`].
#[derive(Default)]
pub(super) struct Demand {
    turns: VecDeque<Turn>,
    coming: Turn,
    /// Since when calls are counted.
    since: Option<Instant>,
    looked: Option<Instant>,
    /// Since when more replicas are needed than there are.
    short_since: Option<Instant>,
}

/// What came from one look to the next.
#[derive(Clone, Copy, Default)]
struct Turn {
    ended: Option<Instant>,
    /// A second, as a rule. Longer where whoever looks was kept from it, or did not look because no calls went by the rule.
    took: Duration,
    calls: u32,
    busy: u32,
}

impl Demand {
    /// A call has come; with it so many are in flight or wait.
    pub fn came(&mut self, busy: u32) {
        self.since.get_or_insert_with(Instant::now);
        self.coming.calls = self.coming.calls.saturating_add(1);
        self.coming.busy = self.coming.busy.max(busy);
    }

    /// How many replicas are wanted, where so many are there or being started. To be asked again and again: each time
    /// ends a turn, through all of which `busy` calls were in flight.
    pub fn wanted(&mut self, now: Instant, (rule, bounds): (Rule, Bounds), present: u32, busy: u32) -> u32 {
        let began = *self.since.get_or_insert(now);
        let took = now.duration_since(self.looked.replace(now).unwrap_or(began));
        let turn = std::mem::take(&mut self.coming);
        self.turns.push_back(Turn { ended: Some(now), took, busy: turn.busy.max(busy), ..turn });
        self.turns.retain(|turn| turn.ended.is_some_and(|ended| now.duration_since(ended) < WINDOW));
        let needed = rule.needed(self.load(), bounds);
        if needed <= present {
            self.short_since = None;
            // Whose calls were not watched for long, after a start of the server, may have many all the same.
            let is_known = now.duration_since(began) >= WINDOW;
            return if is_known { needed } else { present.min(bounds.most) };
        }
        if now.duration_since(*self.short_since.get_or_insert(now)) < HOLD {
            return present.max(bounds.least);
        }
        self.short_since = Some(now);
        rule.grown(present, needed, bounds.most).max(bounds.least)
    }

    fn load(&self) -> Load {
        let calls: u64 = self.turns.iter().map(|turn| u64::from(turn.calls)).sum();
        let busy = self.turns.iter().map(|turn| turn.busy).max().unwrap_or(0);
        let span: Duration = self.turns.iter().map(|turn| turn.took).sum();
        Load { rate: calls as f64 / span.max(WINDOW).as_secs_f64(), busy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(target: u32, step: u32) -> Rule {
        Rule { target, concurrency: 8, step }
    }

    const ONE_TO_FIVE: Bounds = Bounds { least: 1, most: 5 };

    #[test]
    fn what_is_needed_follows_from_the_load_within_the_bounds() {
        let needed = |rate, busy| rule(5, 20).needed(Load { rate, busy }, ONE_TO_FIVE);
        for (rate, busy, replicas) in [
            (0.0, 0, 1),
            (5.0, 0, 1),
            (5.1, 0, 2),
            (10.0, 0, 2),
            (1000.0, 0, 5),
            (0.0, 8, 1),
            (0.0, 17, 3),
            (10.0, 17, 3),
            (0.0, u32::MAX, 5),
        ] {
            assert_eq!(needed(rate, busy), replicas, "{rate} in a second, {busy} at once");
        }
        let idle = |bounds| rule(5, 20).needed(Load::default(), bounds);
        assert_eq!(idle(Bounds { least: 0, most: 5 }), 0);
        assert_eq!(idle(Bounds { least: 3, most: 3 }), 3);
        assert_eq!(idle(Bounds { least: 0, most: 0 }), 0, "another node's");
    }

    #[test]
    fn a_step_is_a_part_of_the_largest_scale_and_never_nothing() {
        assert_eq!(rule(5, 20).grown(1, 20, 20), 5);
        assert_eq!(rule(5, 20).grown(1, 3, 20), 3);
        assert_eq!(rule(5, 20).grown(1, 2, 2), 2);
        assert_eq!(rule(5, 100).grown(1, 20, 20), 20);
        assert_eq!(rule(5, 100).grown(1, 1000, u32::MAX), 1000);
    }

    /// Seconds in a row with so many calls in each, from `present` replicas on, which become what is wanted.
    fn play(demand: &mut Demand, from: u64, seconds: u64, calls: u32, present: u32) -> Vec<u32> {
        let start = *demand.since.get_or_insert_with(Instant::now);
        let mut present = present;
        let play = (from..from + seconds).map(|second| {
            (0..calls).for_each(|_| demand.came(1));
            let now = start + Duration::from_secs(second);
            present = demand.wanted(now, (rule(5, 20), ONE_TO_FIVE), present, 0);
            present
        });
        play.collect()
    }

    #[test]
    fn replicas_come_with_a_rate_that_holds_and_go_when_it_is_over() {
        let mut demand = Demand::default();
        let up = play(&mut demand, 0, 30, 10, 1);
        let first = up.iter().position(|replicas| *replicas == 2).unwrap();
        assert!((HOLD.as_secs() as usize..=WINDOW.as_secs() as usize).contains(&first), "{up:?}");
        assert_eq!(up.iter().max(), Some(&2), "{up:?}");
        let down = play(&mut demand, 30, 20, 0, 2);
        assert_eq!((down[0], down.last()), (2, Some(&1)), "{down:?}");
        assert!(down.is_sorted_by(|before, after| before >= after), "{down:?}");
    }

    #[test]
    fn each_step_has_to_be_waited_for() {
        let mut demand = Demand::default();
        let up = play(&mut demand, 0, 60, 1000, 1);
        assert_eq!(up.last(), Some(&5));
        assert!(up.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{up:?}");
        assert!((2..5).all(|n| up.iter().filter(|replicas| **replicas == n).count() >= 5), "{up:?}");
    }

    #[test]
    fn a_moment_of_many_calls_adds_nothing() {
        let mut demand = Demand::default();
        play(&mut demand, 0, 20, 1, 1);
        assert_eq!(play(&mut demand, 20, 1, 40, 1), [1]);
        assert_eq!(play(&mut demand, 21, 20, 1, 1), [1; 20]);
    }

    #[test]
    fn calls_of_a_long_time_in_which_nobody_looked_are_no_moment_of_many() {
        let mut demand = Demand::default();
        play(&mut demand, 0, 20, 4, 1);
        (0..60 * 4).for_each(|_| demand.came(1));
        assert_eq!(play(&mut demand, 80, 20, 4, 1), [1; 20]);
    }

    #[test]
    fn what_was_there_before_stays_until_its_calls_were_watched() {
        let mut demand = Demand::default();
        let stay = play(&mut demand, 0, 20, 0, 4);
        assert_eq!((stay[0], stay[9], stay[10]), (4, 4, 1), "{stay:?}");
    }

    #[test]
    fn calls_that_were_in_flight_keep_their_replicas_for_a_window() {
        let (mut demand, start) = (Demand::default(), Instant::now());
        let mut wanted = |second: u64, present| {
            let now = start + Duration::from_secs(second);
            demand.wanted(now, (rule(1000, 20), ONE_TO_FIVE), present, if second == 15 { 24 } else { 0 })
        };
        let before: Vec<u32> = (0..=15).map(|second| wanted(second, 3)).collect();
        assert_eq!((before[0], before[15]), (3, 3));
        assert_eq!([wanted(24, 3), wanted(25, 3)], [3, 1]);
    }
}
