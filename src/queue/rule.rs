//! When a call is made again, and when no more: the whole rule, without input or output.

use std::time::Duration;

use http::StatusCode;

use crate::function::AsyncSettings;
use crate::gateway::Reached;

use super::call::{Millis, Progress};

/// No call waits longer for its next attempt.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What is to become of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// This was its answer.
    Done,
    /// It is made once more.
    Again(Progress),
    /// It is a dead letter, for this reason.
    Dead(String),
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub reached: Reached,
    pub status: StatusCode,
    /// The answer broke off.
    pub broken: bool,
    /// What the answer says itself.
    pub retry_after: Option<Duration>,
}

impl Attempt {
    /// Whether this is the answer: the function's own, unless it says that another attempt may go better.
    fn is_final(&self) -> bool {
        let asks = self.status.is_server_error() || self.status == StatusCode::TOO_MANY_REQUESTS;
        self.reached == Reached::Function && !self.broken && !asks
    }
}

/// Judges an attempt that ended `now`. `first`: how long the first wait is at most.
pub fn judge(
    attempt: &Attempt,
    before: &Progress,
    settings: &AsyncSettings,
    first: Duration,
    now: Millis,
) -> Verdict {
    if attempt.is_final() {
        return Verdict::Done;
    }
    let mut progress = before.clone();
    let tries = match attempt.reached {
        Reached::Nothing => {
            return Verdict::Dead("there is nothing to call: it was deleted meanwhile".into());
        }
        // What never came to the function is no attempt: only time ends it.
        Reached::NotYet => &mut progress.deferrals,
        Reached::Function => &mut progress.attempts,
    };
    *tries += 1;
    let tries = *tries;
    if progress.attempts >= settings.attempts {
        return Verdict::Dead(format!("it failed {} times", progress.attempts));
    }
    let said = attempt.retry_after.unwrap_or_default().min(LONGEST_WAIT);
    let due = now + millis(wait(tries, first).max(said));
    if is_too_old(&progress, settings, due) {
        return Verdict::Dead(too_old(settings));
    }
    progress.due = due;
    Verdict::Again(progress)
}

/// Whether the time is over in which a call is tried.
pub fn is_too_old(progress: &Progress, settings: &AsyncSettings, now: Millis) -> bool {
    now.saturating_sub(progress.since) > settings.max_age_ms
}

pub fn too_old(settings: &AsyncSettings) -> String {
    let age = Duration::from_millis(settings.max_age_ms).as_secs_f64();
    format!("it was not answered within {age} s")
}

/// Doubles from try to try, up to [`LONGEST_WAIT`], and is drawn from its upper half: calls that failed together do not
/// come back together.
pub fn wait(tries: u32, first: Duration) -> Duration {
    let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(LONGEST_WAIT);
    let drawn = getrandom::u32().unwrap_or_default();
    doubled / 2 + (doubled / 2).mul_f64(f64::from(drawn) / f64::from(u32::MAX))
}

pub fn millis(time: Duration) -> Millis {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);

    fn attempt(reached: Reached, status: u16) -> Attempt {
        let status = StatusCode::from_u16(status).unwrap();
        Attempt { reached, status, broken: false, retry_after: None }
    }

    fn judged(attempt: &Attempt, before: &Progress) -> Verdict {
        judge(attempt, before, &AsyncSettings::default(), FIRST, 10_000)
    }

    #[test]
    fn a_functions_verdict_is_final_unless_it_asks_for_another_attempt() {
        let before = Progress::begun(0);
        for status in [200, 204, 302, 400, 404, 409] {
            assert_eq!(judged(&attempt(Reached::Function, status), &before), Verdict::Done, "{status}");
        }
        for status in [429, 500, 502, 503, 504] {
            let Verdict::Again(after) = judged(&attempt(Reached::Function, status), &before) else {
                panic!("{status} is final")
            };
            assert_eq!((after.attempts, after.deferrals), (1, 0));
            assert!((10_500..=11_000).contains(&after.due), "{}", after.due);
        }
        let broken = Attempt { broken: true, ..attempt(Reached::Function, 200) };
        assert!(matches!(judged(&broken, &before), Verdict::Again(_)));
    }

    #[test]
    fn only_what_reached_the_function_is_an_attempt() {
        let before = Progress { attempts: 4, deferrals: 100, ..Progress::begun(0) };
        let Verdict::Again(after) = judged(&attempt(Reached::NotYet, 503), &before) else {
            panic!("the platform's troubles end no call")
        };
        assert_eq!((after.attempts, after.deferrals), (4, 101));
        assert_eq!(after.due, after.due.clamp(160_000, 310_000));
        assert_eq!(
            judged(&attempt(Reached::Function, 500), &before),
            Verdict::Dead("it failed 5 times".into())
        );
        assert!(matches!(judged(&attempt(Reached::Nothing, 404), &before), Verdict::Dead(_)));
    }

    #[test]
    fn a_call_is_not_tried_beyond_its_age() {
        let old = AsyncSettings { max_age_ms: 10_400, ..AsyncSettings::default() };
        let verdict = judge(&attempt(Reached::NotYet, 503), &Progress::begun(0), &old, FIRST, 10_000);
        assert_eq!(verdict, Verdict::Dead("it was not answered within 10.4 s".into()));
    }

    #[test]
    fn waits_double_up_to_a_bound_and_heed_what_the_answer_says() {
        for (tries, most) in [(1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (4_000_000_000, 300)] {
            let wait = wait(tries, FIRST);
            let most = Duration::from_secs(most);
            assert!((most / 2..=most).contains(&wait), "{tries}: {wait:?}");
        }
        let said = Attempt { retry_after: Some(Duration::from_secs(77)), ..attempt(Reached::Function, 429) };
        let Verdict::Again(after) = judged(&said, &Progress::begun(0)) else { panic!("429 is final") };
        assert_eq!(after.due, 87_000);
    }
}
