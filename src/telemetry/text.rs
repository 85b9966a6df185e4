//! Prometheus' text form, version 0.0.4.

use std::fmt::{Display, Write as _};

use super::Times;
use super::counter::BOUNDS;

/// Samples, family by family.
#[derive(Default)]
pub struct Text(String);

impl Text {
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (key, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{key}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one sample.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A histogram's samples: each bucket counts what is in those below it too.
    pub fn times(&mut self, name: &str, labels: &[(&str, &str)], times: &Times) {
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_string()]);
        let (bucket, mut count) = (format!("{name}_bucket"), 0);
        for (own, bound) in times.buckets.iter().zip(bounds) {
            count += own;
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), count);
        }
        let (seconds, micros) = (times.micros / 1_000_000, times.micros % 1_000_000);
        self.sample(&format!("{name}_sum"), labels, format_args!("{seconds}.{micros:06}"));
        self.sample(&format!("{name}_count"), labels, count);
    }

    /// What somebody else wrote in the same form.
    pub fn append(&mut self, text: &str) {
        self.0.push_str(text);
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Histogram;

    #[test]
    fn it_is_prometheus_text() {
        let mut text = Text::default();
        text.family("a_total", "counter", "A.");
        text.sample("a_total", &[], 1);
        text.sample("a_total", &[("b", "x\"\\\n"), ("c", "y")], 2);
        let expected =
            "# HELP a_total A.\n# TYPE a_total counter\na_total 1\na_total{b=\"x\\\"\\\\\\n\",c=\"y\"} 2\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn a_bucket_counts_all_that_is_below_its_end() {
        let histogram = Histogram::default();
        for micros in [500, 501, 5_000, 20_000, 61_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let mut text = Text::default();
        text.times("h", &[("l", "v")], &histogram.times());
        let text = text.into_string();
        for line in [
            "h_bucket{l=\"v\",le=\"0.0005\"} 1",
            "h_bucket{l=\"v\",le=\"0.001\"} 2",
            "h_bucket{l=\"v\",le=\"0.005\"} 3",
            "h_bucket{l=\"v\",le=\"1\"} 4",
            "h_bucket{l=\"v\",le=\"60\"} 4",
            "h_bucket{l=\"v\",le=\"+Inf\"} 5",
            "h_sum{l=\"v\"} 61.026001",
            "h_count{l=\"v\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
