//! Where a call's time went, as `Server-Timing` tells it (W3C Server Timing): milliseconds under a name.

use std::fmt::Write as _;
use std::time::Duration;

use super::ColdStart;

/// What is known of a call's time once its answer begins.
pub(super) struct CallTiming {
    /// Until there was a replica.
    pub waited: Duration,
    /// The start that was waited for, if one was.
    pub cold: Option<ColdStart>,
    /// From the request on its way to the answer's head.
    pub run: Duration,
    pub total: Duration,
}

impl CallTiming {
    pub fn header(&self) -> String {
        let start = self.cold.unwrap_or_default();
        let queue = self.waited.saturating_sub(start.mount + start.create + start.import);
        let proxy = self.total.saturating_sub(self.waited + self.run);
        let parts = [
            ("queue", Some(queue)),
            ("mount", self.cold.map(|start| start.mount)),
            ("create", self.cold.map(|start| start.create).filter(|time| !time.is_zero())),
            ("import", self.cold.map(|start| start.import)),
            ("run", Some(self.run)),
            ("proxy", Some(proxy)),
        ];
        let mut text = String::with_capacity(96);
        for (name, time) in parts.into_iter().filter_map(|(name, time)| Some((name, time?))) {
            let separator = if text.is_empty() { "" } else { ", " };
            // In whole numbers: to write a float out takes longer than the rest of the line.
            let micros = time.as_micros();
            let _ = write!(text, "{separator}{name};dur={}.{:03}", micros / 1000, micros % 1000);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_of_a_call_is_in_one_part() {
        let millis = Duration::from_millis;
        let cold = ColdStart { mount: millis(2), create: millis(0), import: millis(5) };
        let timing = CallTiming { waited: millis(10), cold: Some(cold), run: millis(4), total: millis(15) };
        assert_eq!(
            timing.header(),
            "queue;dur=3.000, mount;dur=2.000, import;dur=5.000, run;dur=4.000, proxy;dur=1.000"
        );
        let warm = CallTiming { cold: None, waited: millis(0), ..timing };
        assert_eq!(warm.header(), "queue;dur=0.000, run;dur=4.000, proxy;dur=11.000");
    }
}
