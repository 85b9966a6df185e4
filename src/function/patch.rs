//! Changes to settings: what a push or `fnbuild config` says on top of the version before.

use std::collections::{BTreeMap, BTreeSet};
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

/// No Python starts with so little, but other images are content with it; of some values below, the kernel wants none.
const LEAST_MEMORY: Memory = Memory(4 << 20);
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
        let (into, patch) = (&mut after.asynchronous, &self.asynchronous);
        replace(&mut into.concurrency, patch.concurrency.as_ref());
        replace(&mut into.queue, patch.queue.as_ref());
        replace(&mut into.attempts, patch.attempts.as_ref());
        replace(&mut into.max_age_ms, patch.max_age_ms.as_ref());
        check(&after)?;
        Ok(after)
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
    let refuse = |text: String, expected| Err(InvalidSetting { text, expected });
    for (key, value) in &settings.env {
        let shown = || key.chars().take(80).collect();
        if key.is_empty() || key.contains(['=', '\0']) {
            return refuse(shown(), "a variable's name (it must not be empty nor hold = or NUL)");
        }
        if value.contains('\0') || key.len() + value.len() + 2 > LONGEST_VARIABLE {
            return refuse(shown(), "a variable that a process can be given (a NUL, or above 128 KiB)");
        }
    }
    if settings.memory < LEAST_MEMORY {
        return refuse(settings.memory.to_string(), "enough memory (at least 4Mi)");
    }
    if settings.cpu_millis < 10 {
        return refuse(format!("{}m", settings.cpu_millis), "enough CPU (at least 0.01)");
    }
    if settings.pids < 4 {
        return refuse(settings.pids.to_string(), "enough processes (at least 4)");
    }
    if settings.timeout_ms == 0 {
        return refuse("0".into(), "a timeout (at least 1ms)");
    }
    if settings.concurrency == 0 || settings.max_scale == 0 {
        return refuse("0".into(), "a concurrency or a largest scale (at least 1)");
    }
    if settings.max_scale > LARGEST_SCALE {
        return refuse(settings.max_scale.to_string(), "a largest scale of at most 1000");
    }
    let AsyncSettings { concurrency, queue, attempts, max_age_ms } = settings.asynchronous;
    if concurrency == 0 || queue == 0 || attempts == 0 || max_age_ms == 0 {
        return refuse("0".into(), "a bound of asynchronous calls (at least 1)");
    }
    if settings.min_scale > settings.max_scale {
        return refuse(settings.min_scale.to_string(), "a smallest scale at or below the largest");
    }
    Ok(())
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
    millis.ok_or_else(|| InvalidSetting { text: text.chars().take(80).collect(), expected })
}

/// `30s`, `1m30s`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidSetting> {
    let expected = "a length of time (for example 500ms, 30s or 5m)";
    let refused = || InvalidSetting { text: text.chars().take(80).collect(), expected };
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| refused())?;
    parsed.try_into().map_err(|_| refused())
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
    fn settings_that_cannot_be_run_are_refused() {
        for json in [
            r#"{"env": {"": "x"}}"#,
            r#"{"env": {"A=B": "x"}}"#,
            r#"{"env": {"A": "x\u0000"}}"#,
            r#"{"memory": 1024}"#,
            r#"{"cpuMillis": 0}"#,
            r#"{"pids": 1}"#,
            r#"{"timeoutMs": 0}"#,
            r#"{"concurrency": 0}"#,
            r#"{"maxScale": 0}"#,
            r#"{"maxScale": 1001}"#,
            r#"{"minScale": 9, "maxScale": 3}"#,
            r#"{"async": {"attempts": 0}}"#,
        ] {
            assert!(patch(json).apply(&Settings::default()).is_err(), "{json}");
        }
        assert!(serde_json::from_str::<SettingsPatch>(r#"{"memroy": 1}"#).is_err());
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
