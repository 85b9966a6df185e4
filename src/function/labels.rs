//! The labels by which OpenFaaS's users say how a function scales.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{InvalidSetting, SettingsPatch, parse_duration};

const MIN: &str = "com.openfaas.scale.min";
const MAX: &str = "com.openfaas.scale.max";
const ZERO: &str = "com.openfaas.scale.zero";
const ZERO_DURATION: &str = "com.openfaas.scale.zero-duration";
const TYPE: &str = "com.openfaas.scale.type";
const TARGET: &str = "com.openfaas.scale.target";
const PROPORTION: &str = "com.openfaas.scale.target-proportion";
const FACTOR: &str = "com.openfaas.scale.factor";

/// OpenFaaS's community edition has five replicas at most, and more than one from five calls in a second on.
const USUAL_MAX: u32 = 5;
const USUAL_RATE: u32 = 5;
/// Where a type is named and no target, and what part of a target is to be used.
const USUAL_TARGET: u32 = 50;
const USUAL_PROPORTION: f64 = 0.9;

/// The settings that they come to. Where no label says otherwise one replica stays up, and more come with the rate of the
/// calls, as OpenFaaS has it.
pub fn labelled_scale(labels: &BTreeMap<String, String>) -> Result<SettingsPatch, InvalidSetting> {
    let labels = Labels(labels);
    let to_zero = labels.text(ZERO) == Some("true");
    let replicas = "a number of replicas, for example 2";
    let least = labels.read::<u32>(MIN, replicas)?;
    let min = if to_zero { 0 } else { least.unwrap_or(1) };
    let max = labels.read(MAX, replicas)?.unwrap_or_else(|| USUAL_MAX.max(min));
    let idle = labels.text(ZERO_DURATION).map(parse_duration).transpose();
    let idle = idle.map_err(|_| labels.refused(ZERO_DURATION, "a length of time, for example 15m"))?;
    let idle_ms = idle.filter(|_| to_zero).map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
    let factor = labels.read(FACTOR, "a percentage from 0 to 100")?;
    if factor > Some(100) {
        return Err(labels.refused(FACTOR, "a percentage from 0 to 100"));
    }
    let patch = SettingsPatch {
        min_scale: Some(min),
        max_scale: Some(max),
        // A factor of nothing is how OpenFaaS's users say that nothing is to be added.
        scale_factor: factor.filter(|percent| *percent > 0),
        idle_ms,
        ..SettingsPatch::default()
    };
    let target = labels.target()?;
    match labels.text(TYPE) {
        Some("capacity") => Ok(SettingsPatch { concurrency: target, target_rps: Some(0), ..patch }),
        None | Some("rps") if factor == Some(0) => Ok(SettingsPatch { target_rps: Some(0), ..patch }),
        None => Ok(SettingsPatch { target_rps: Some(target.unwrap_or(USUAL_RATE)), ..patch }),
        Some("rps") => {
            let usual = || part(USUAL_TARGET, USUAL_PROPORTION);
            Ok(SettingsPatch { target_rps: Some(target.unwrap_or_else(usual)), ..patch })
        }
        Some(_) => Err(labels.refused(TYPE, "rps or capacity: nothing else is measured here")),
    }
}

struct Labels<'a>(&'a BTreeMap<String, String>);

impl Labels<'_> {
    fn text(&self, label: &str) -> Option<&str> {
        self.0.get(label).map(String::as_str)
    }

    fn read<T: FromStr>(
        &self,
        label: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, InvalidSetting> {
        self.text(label).map(|text| text.parse().map_err(|_| self.refused(label, expected))).transpose()
    }

    /// What one replica is meant for, where that is said.
    fn target(&self) -> Result<Option<u32>, InvalidSetting> {
        let target = self.read(TARGET, "a number of calls for each replica, for example 8")?;
        let expected = "a share above 0 and at most 1, for example 0.9";
        let proportion = self.read(PROPORTION, expected)?.unwrap_or(USUAL_PROPORTION);
        if !(proportion > 0.0 && proportion <= 1.0) {
            return Err(self.refused(PROPORTION, expected));
        }
        Ok(target.map(|target| part(target, proportion)))
    }

    fn refused(&self, label: &'static str, expected: &'static str) -> InvalidSetting {
        let text = self.text(label).unwrap_or_default().chars().take(80).collect();
        InvalidSetting::Label { label, text, expected }
    }
}

/// Rounded up: a small target is itself, and no target becomes nothing.
fn part(target: u32, proportion: f64) -> u32 {
    (f64::from(target) * proportion).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Settings;

    fn scale(labels: &[(&str, &str)]) -> Result<Settings, InvalidSetting> {
        let labels =
            labels.iter().map(|(key, value)| (format!("com.openfaas.scale.{key}"), value.to_string()));
        labelled_scale(&labels.collect())?.apply(&Settings::default())
    }

    #[test]
    fn without_a_label_more_than_five_calls_a_second_make_a_second_replica() {
        let told = scale(&[]).unwrap();
        assert_eq!((told.min_scale, told.max_scale), (1, 5));
        assert_eq!((told.target_rps, told.scale_factor, told.idle_ms), (5, 20, 0));
        assert_eq!(scale(&[("min", "7")]).unwrap().max_scale, 7);
        assert_eq!(scale(&[("factor", "100")]).unwrap().scale_factor, 100);
        assert_eq!(scale(&[("factor", "0")]).unwrap().target_rps, 0, "that is how it is switched off");
    }

    #[test]
    fn a_target_is_of_the_type_that_is_named_and_used_up_to_a_part() {
        for (labels, rate, concurrency) in [
            (&[("target", "50")][..], 45, 8),
            (&[("target", "50"), ("type", "rps"), ("target-proportion", "1")], 50, 8),
            (&[("target", "1"), ("type", "rps")], 1, 8),
            (&[("type", "rps")], 45, 8),
            (&[("target", "3"), ("type", "capacity")], 0, 3),
            (&[("target", "100"), ("type", "capacity"), ("target-proportion", "0.7")], 0, 70),
            (&[("type", "capacity")], 0, 8),
        ] {
            let told = scale(labels).unwrap();
            assert_eq!((told.target_rps, told.concurrency), (rate, concurrency), "{labels:?}");
        }
    }

    #[test]
    fn to_zero_goes_only_what_says_so() {
        let told = scale(&[("zero", "true"), ("min", "2"), ("zero-duration", "1h30m")]).unwrap();
        assert_eq!((told.min_scale, told.idle_ms), (0, 5_400_000));
        let told = scale(&[("zero", "false"), ("zero-duration", "5m")]).unwrap();
        assert_eq!((told.min_scale, told.idle_ms), (1, 0));
    }

    #[test]
    fn a_label_that_cannot_be_read_is_named() {
        for (label, text, expected) in [
            ("min", "x", "a number of replicas, for example 2"),
            ("max", "-1", "a number of replicas, for example 2"),
            ("target", "1.5", "a number of calls for each replica, for example 8"),
            ("target-proportion", "0", "a share above 0 and at most 1, for example 0.9"),
            ("target-proportion", "NaN", "a share above 0 and at most 1, for example 0.9"),
            ("factor", "101", "a percentage from 0 to 100"),
            ("zero-duration", "soon", "a length of time, for example 15m"),
            ("type", "cpu", "rps or capacity: nothing else is measured here"),
        ] {
            let told = scale(&[(label, text)]).unwrap_err().to_string();
            assert_eq!(
                told,
                format!("the label com.openfaas.scale.{label} is {text:?}: it must be {expected}")
            );
        }
    }
}
