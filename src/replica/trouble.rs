//! When to try again what keeps failing: a version's starts, and its replicas that die young.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;

/// What a version that keeps dying has earned: longer and longer pauses between attempts.
#[derive(Default)]
pub(super) struct Trouble {
    /// In a row.
    deaths: u32,
    pause_until: Option<Instant>,
    /// Of the last start, if that is what failed.
    pub reason: Option<Arc<Error>>,
}

/// The first deaths may be an accident.
const FORGIVEN: u32 = 2;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Where it is not the function's own fault, what is wrong may be put right at any moment.
const LONGEST_PLATFORM_PAUSE: Duration = Duration::from_secs(2);

impl Trouble {
    pub fn died(&mut self, reason: Option<Arc<Error>>) {
        self.deaths = self.deaths.saturating_add(1);
        let of_platform = reason.as_ref().is_some_and(|reason| !reason.is_of_the_function());
        self.reason = reason;
        let doublings = self.deaths.saturating_sub(FORGIVEN + 1).min(6);
        let longest = if of_platform { LONGEST_PLATFORM_PAUSE } else { LONGEST_PAUSE };
        let pause = Duration::from_secs(1 << doublings).min(longest);
        self.pause_until = self.is_deep().then(|| Instant::now() + pause);
    }

    /// What the platform had is over. What the function had is not: it may die again in a moment.
    pub fn started(&mut self) {
        if self.reason.as_ref().is_some_and(|reason| !reason.is_of_the_function()) {
            *self = Self::default();
        }
    }

    /// Beyond what may be an accident: one attempt at a time is enough.
    pub fn is_deep(&self) -> bool {
        self.deaths > FORGIVEN
    }

    pub fn pauses(&self) -> bool {
        self.pause_until.is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_functions_fault_makes_short_pauses_and_is_forgotten_by_a_start() {
        let mut trouble = Trouble::default();
        let platform = || Some(Arc::new(Error::UnknownReplica { id: String::new() }));
        for _ in 0..20 {
            trouble.died(platform());
        }
        let pause = trouble.pause_until.unwrap().duration_since(Instant::now());
        assert!(trouble.pauses() && pause <= LONGEST_PLATFORM_PAUSE);
        trouble.started();
        assert!(!trouble.pauses() && !trouble.is_deep());
        let own = || Some(Arc::new(Error::Died { status: 1, port: 8081, last_lines: Vec::new() }));
        for _ in 0..=FORGIVEN {
            trouble.died(own());
        }
        trouble.started();
        assert!(trouble.pauses());
    }

    #[test]
    fn pauses_grow_after_the_first_deaths() {
        let mut trouble = Trouble::default();
        for _ in 0..FORGIVEN {
            trouble.died(None);
            assert!(!trouble.pauses());
        }
        let mut before = Duration::ZERO;
        for _ in 0..10 {
            trouble.died(None);
            let pause = trouble.pause_until.unwrap().duration_since(Instant::now());
            assert!(trouble.pauses() && pause <= LONGEST_PAUSE);
            assert!(pause > before || before > LONGEST_PAUSE - Duration::from_secs(1));
            before = pause;
        }
    }
}
