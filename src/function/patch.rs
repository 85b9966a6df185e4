//! Changes to settings: what a push or `fnbuild config` says on top of the version before.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AsyncSettings, InvalidSetting, Memory, Settings};

/// What is absent stays as it was; in a map, `null` takes a key away.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SettingsPatch {
    /// On top of the defaults, not of the version before: what is absent is as if it had never been set.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// The whole list: secrets are few.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secrets: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Thousandths of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_scale: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_scale: Option<u32>,
    /// 0 takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_rps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_factor: Option<u32>,
    /// 0 takes it away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Option<String>>,
    /// Of the function, whichever version answers: see [`super::FunctionRecord::require_token`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_token: Option<bool>,
    #[serde(rename = "async", skip_serializing_if = "AsyncPatch::is_empty")]
    pub asynchronous: AsyncPatch,
}

/// Changes to how asynchronous calls are made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AsyncPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
}

impl AsyncPatch {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// No Python starts with so little, but other images are content with it. No machine has so much.
const MEMORY: [Memory; 2] = [Memory(4 << 20), Memory(64 << 40)];
/// Thousandths.
const CPU: [u32; 2] = [10, 1_024_000];
/// The kernel wants none of what is below, and has no more in all.
const PIDS: [u32; 2] = [4, 4 << 20];
/// To the first byte of an answer. Whoever has longer to wait makes an asynchronous call.
const TIMEOUT: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(24 * 60 * 60)];
/// For what may go on for long: a replica that nobody calls, a call that is tried again and again. Whoever means to keep
/// one for ever says so in another way.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Linux keeps arguments and environment together in a bounded space; a variable has 128 KiB at most.
const LONGEST_VARIABLE: usize = 128 << 10;
/// More replicas of one function than any cluster of ours has; a slip of the finger shall not start them.
const LARGEST_SCALE: u32 = 1000;

impl SettingsPatch {
    /// The settings after this patch, checked as a whole.
    pub fn apply(&self, before: &Settings) -> Result<Settings, InvalidSetting> {
        let mut after = if self.reset { Settings::default() } else { before.clone() };
        merge(&mut after.env, &self.env);
        merge(&mut after.labels, &self.labels);
        merge(&mut after.annotations, &self.annotations);
        replace(&mut after.secrets, self.secrets.as_ref());
        replace(&mut after.memory, self.memory.as_ref());
        replace(&mut after.cpu_millis, self.cpu_millis.as_ref());
        replace(&mut after.pids, self.pids.as_ref());
        replace(&mut after.timeout_ms, self.timeout_ms.as_ref());
        replace(&mut after.concurrency, self.concurrency.as_ref());
        replace(&mut after.min_scale, self.min_scale.as_ref());
        replace(&mut after.max_scale, self.max_scale.as_ref());
        replace(&mut after.target_rps, self.target_rps.as_ref());
        replace(&mut after.scale_factor, self.scale_factor.as_ref());
        replace(&mut after.idle_ms, self.idle_ms.as_ref());
        let (into, patch) = (&mut after.asynchronous, &self.asynchronous);
        replace(&mut into.concurrency, patch.concurrency.as_ref());
        replace(&mut into.queue, patch.queue.as_ref());
        replace(&mut into.attempts, patch.attempts.as_ref());
        replace(&mut into.max_age_ms, patch.max_age_ms.as_ref());
        check(&after)?;
        Ok(after)
    }

    /// Refuses what no settings before could make right: for whoever does not know them.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        // A smallest scale alone may well be meant for a largest that was set before.
        let lenient = Settings { max_scale: LARGEST_SCALE, ..Settings::default() };
        self.apply(&lenient).map(drop)
    }
}

fn merge(into: &mut BTreeMap<String, String>, changes: &BTreeMap<String, Option<String>>) {
    for (key, value) in changes {
        match value {
            Some(value) => into.insert(key.clone(), value.clone()),
            None => into.remove(key),
        };
    }
}

fn replace<T: Clone>(into: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        into.clone_from(value);
    }
}

fn check(settings: &Settings) -> Result<(), InvalidSetting> {
    for (key, value) in &settings.env {
        let refuse = |reason| Err(InvalidSetting::Variable { name: key.chars().take(80).collect(), reason });
        if key.is_empty() || key.contains(['=', '\0']) {
            return refuse("a name must not be empty, and holds neither = nor NUL");
        }
        if value.contains('\0') {
            return refuse("its value holds a NUL");
        }
        if key.len() + value.len() + 2 > LONGEST_VARIABLE {
            return refuse("name and value together have more than 128 KiB");
        }
    }
    within("memory", settings.memory, MEMORY, |memory| memory.to_string())?;
    within("cpu", settings.cpu_millis, CPU, |millis| (f64::from(millis) / 1000.0).to_string())?;
    within("pids", settings.pids, PIDS, |pids| pids.to_string())?;
    within("timeout", Duration::from_millis(settings.timeout_ms), TIMEOUT, show_duration)?;
    let AsyncSettings { concurrency, queue, attempts, max_age_ms } = settings.asynchronous;
    for (setting, value, most) in [
        ("concurrency", settings.concurrency, u32::MAX),
        ("max-scale", settings.max_scale, LARGEST_SCALE),
        ("scale-factor", settings.scale_factor, 100),
        ("async-concurrency", concurrency, u32::MAX),
        ("async-queue", queue, u32::MAX),
        ("async-attempts", attempts, u32::MAX),
    ] {
        within(setting, value, [1, most], |number| number.to_string())?;
    }
    within("async-max-age", Duration::from_millis(max_age_ms), [TIMEOUT[0], WEEK], show_duration)?;
    within("idle-time", Duration::from_millis(settings.idle_ms), [Duration::ZERO, WEEK], show_duration)?;
    let (min, max) = (settings.min_scale, settings.max_scale);
    if min > max { Err(InvalidSetting::Scale { min, max }) } else { Ok(()) }
}

fn within<T: PartialOrd + Copy>(
    setting: &'static str,
    value: T,
    [least, most]: [T; 2],
    show: impl Fn(T) -> String,
) -> Result<(), InvalidSetting> {
    if value < least {
        return Err(InvalidSetting::TooSmall { setting, value: show(value), least: show(least) });
    }
    if value > most {
        return Err(InvalidSetting::TooLarge { setting, value: show(value), most: show(most) });
    }
    Ok(())
}

/// As it may be written: `24h`, `1m 30s`.
pub fn show_duration(time: Duration) -> String {
    let signed = jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX);
    format!("{signed:#}")
}

/// Thousandths of a CPU from `0.5`, `2` or, as Kubernetes writes it, `500m`.
pub fn parse_cpu(text: &str) -> Result<u32, InvalidSetting> {
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse::<u32>().ok(),
        None => text
            .parse::<f64>()
            .ok()
            .map(|cpus| (cpus * 1000.0).round())
            .filter(|millis| (0.0..=f64::from(u32::MAX)).contains(millis))
            .map(|millis| millis as u32),
    };
    let expected = "an amount of CPU (for example 0.5, 2 or 500m)";
    millis.ok_or_else(|| InvalidSetting::unreadable(text, expected))
}

/// `30s`, `1m30s`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidSetting> {
    let expected = "a length of time (for example 500ms, 30s or 5m)";
    let refused = || InvalidSetting::unreadable(text, expected);
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| refused())?;
    parsed.try_into().map_err(|_| refused())
}

/// A count, for a flag that takes one.
pub fn parse_number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected a whole number, for example 3")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(json: &str) -> SettingsPatch {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_not_said_stays() {
        let first = patch(r#"{"env": {"A": "1", "B": "2"}, "memory": 134217728}"#);
        let before = first.apply(&Settings::default()).unwrap();
        let after = patch(r#"{"env": {"A": null, "C": "3"}}"#).apply(&before).unwrap();
        assert_eq!(after.memory, Memory(128 << 20));
        assert_eq!(
            after.env.into_iter().collect::<Vec<_>>(),
            [("B".to_string(), "2".to_string()), ("C".into(), "3".into())]
        );
        assert_eq!(SettingsPatch::default().apply(&before).unwrap(), before);
        let once = patch(r#"{"async": {"attempts": 1}}"#).apply(&before).unwrap().asynchronous;
        assert_eq!((once.attempts, once.queue), (1, before.asynchronous.queue));
    }

    #[test]
    fn settings_that_cannot_be_run_are_refused_with_their_name_and_bound() {
        for (json, told) in [
            (r#"{"env": {"": "x"}}"#, "the variable \"\" cannot be set: a name must not be empty"),
            (r#"{"env": {"A=B": "x"}}"#, "the variable \"A=B\" cannot be set"),
            (r#"{"env": {"A": "x\u0000"}}"#, "the variable \"A\" cannot be set: its value holds a NUL"),
            (r#"{"memory": 1024}"#, "memory 1Ki is too small: it must be at least 4Mi"),
            (r#"{"memory": 107373108658176}"#, "memory 99999Gi is too large: it can be at most 64Ti"),
            (r#"{"cpuMillis": 0}"#, "cpu 0 is too small: it must be at least 0.01"),
            (r#"{"cpuMillis": 1024001}"#, "cpu 1024.001 is too large: it can be at most 1024"),
            (r#"{"pids": 1}"#, "pids 1 is too small: it must be at least 4"),
            (r#"{"timeoutMs": 0}"#, "timeout 0s is too small: it must be at least 1ms"),
            (r#"{"timeoutMs": 359999996400000}"#, "timeout 99999999h is too large: it can be at most 24h"),
            (r#"{"concurrency": 0}"#, "concurrency 0 is too small: it must be at least 1"),
            (r#"{"maxScale": 0}"#, "max-scale 0 is too small: it must be at least 1"),
            (r#"{"maxScale": 1001}"#, "max-scale 1001 is too large: it can be at most 1000"),
            (r#"{"minScale": 9, "maxScale": 3}"#, "min-scale 9 is above max-scale 3"),
            (r#"{"async": {"attempts": 0}}"#, "async-attempts 0 is too small"),
            (r#"{"scaleFactor": 101}"#, "scale-factor 101 is too large: it can be at most 100"),
            (r#"{"idleMs": 604800001}"#, "idle-time 168h 1ms is too large: it can be at most 168h"),
            (r#"{"async": {"maxAgeMs": 0}}"#, "async-max-age 0s is too small"),
            (r#"{"async": {"maxAgeMs": 18446744073709551615}}"#, "async-max-age "),
            (
                r#"{"async": {"maxAgeMs": 608400000}}"#,
                "async-max-age 169h is too large: it can be at most 168h",
            ),
        ] {
            let refused = patch(json).apply(&Settings::default()).unwrap_err();
            assert!(refused.to_string().starts_with(told), "{json}: {refused}");
            assert_eq!(patch(json).check(), Err(refused));
        }
        assert!(serde_json::from_str::<SettingsPatch>(r#"{"memroy": 1}"#).is_err());
        // The settings before may have a largest scale that it is below.
        assert_eq!(patch(r#"{"minScale": 9}"#).check(), Ok(()));
        assert!(patch(r#"{"minScale": 9, "reset": true}"#).check().is_err());
    }

    #[test]
    fn cpu_is_read_as_kubernetes_does() {
        for (text, millis) in [("0.5", 500), ("2", 2000), ("250m", 250), ("0.001", 1)] {
            assert_eq!(parse_cpu(text).unwrap(), millis);
        }
        for text in ["", "m", "-1", "1.5m", "NaN", "1e99"] {
            assert!(parse_cpu(text).is_err(), "{text}");
        }
    }
}
