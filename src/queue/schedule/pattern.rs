//! When a schedule is due: a cron pattern in a time zone. Pure but for the machine's table of time zones.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::queue::error::QueueError;

/// Five fields, or one of the `@` names.
pub struct Pattern {
    cron: Cron,
    zone: TimeZone,
}

impl Pattern {
    pub fn new(pattern: &str, zone: &str) -> Result<Self, QueueError> {
        let shown: String = pattern.chars().take(200).collect();
        let refused = |why: String| QueueError::Pattern { pattern: shown.clone(), why };
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| refused(error.to_string()))?;
        let unknown = |_| QueueError::TimeZone { zone: zone.chars().take(100).collect() };
        let zone = TimeZone::get(zone).map_err(unknown)?;
        let parsed = Self { cron, zone };
        if parsed.next(Timestamp::now()).is_none() {
            return Err(refused("it is never due".into()));
        }
        Ok(parsed)
    }

    /// The first tick after a time.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let from = after.to_zoned(self.zone.clone());
        Some(self.cron.find_next_occurrence(&from, false).ok()?.timestamp())
    }

    /// The newest tick after one time and not after another.
    pub fn newest(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let from = until.to_zoned(self.zone.clone());
        let tick = self.cron.find_previous_occurrence(&from, true).ok()?.timestamp();
        (tick > after && tick <= until).then_some(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn five_fields_and_names_are_patterns_and_nothing_else_is() {
        for pattern in ["*/5 * * * *", "0 9-17 * * MON-FRI", "0 0 1 1 *", "@hourly", "@daily"] {
            assert!(Pattern::new(pattern, "UTC").is_ok(), "{pattern}");
        }
        for pattern in ["", "* * * *", "* * * * * *", "61 * * * *", "soon", "0 0 30 2 *", "@reboot"] {
            assert!(
                matches!(Pattern::new(pattern, "UTC"), Err(QueueError::Pattern { .. })),
                "{pattern} is a pattern"
            );
        }
        assert!(matches!(Pattern::new("* * * * *", "Nowhere/City"), Err(QueueError::TimeZone { .. })));
    }

    #[test]
    fn only_the_newest_tick_of_a_stretch_is_told() {
        let pattern = Pattern::new("*/5 * * * *", "UTC").unwrap();
        let until = at("2026-03-01T12:11:30Z");
        assert_eq!(pattern.newest(at("2026-03-01T12:00:00Z"), until), Some(at("2026-03-01T12:10:00Z")));
        assert_eq!(pattern.newest(at("2026-03-01T12:10:00Z"), until), None);
        let exact = at("2026-03-01T12:15:00Z");
        assert_eq!(pattern.newest(until, exact), Some(exact));
        assert_eq!(pattern.next(exact), Some(at("2026-03-01T12:20:00Z")));
    }

    #[test]
    fn a_zone_moves_the_hours_and_its_summer_time_neither_doubles_nor_drops_a_day() {
        let pattern = Pattern::new("30 2 * * *", "Europe/Berlin").unwrap();
        assert_eq!(pattern.next(at("2026-01-10T00:00:00Z")), Some(at("2026-01-10T01:30:00Z")));
        assert_eq!(pattern.next(at("2026-07-10T00:00:00Z")), Some(at("2026-07-10T00:30:00Z")));
        // The night without an hour from two to three, and the one with two of them.
        for night in ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"] {
            let first = pattern.next(at(night)).unwrap();
            let second = pattern.next(first).unwrap();
            let hours = first.until(second).unwrap().get_seconds() / 3600;
            assert!((22..=25).contains(&hours), "{first} then {second}");
        }
    }
}
