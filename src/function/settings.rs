//! What a version is run with: environment and limits. Never part of the image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything that can be set for a function. A change of any of it is a new version of the same image.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    pub env: BTreeMap<String, String>,
    /// Names only; values live in the secrets' own store.
    pub secrets: BTreeSet<String>,
    pub memory: Memory,
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    pub pids: u32,
    /// To the first byte of the answer.
    pub timeout_ms: u64,
    /// Calls that one replica is meant to work on at once.
    pub concurrency: u32,
    pub min_scale: u32,
    pub max_scale: u32,
    /// Calls in a second that one replica is meant for: more of them make more replicas. 0: only calls in flight do.
    #[serde(skip_serializing_if = "is_zero")]
    pub target_rps: u32,
    /// In percent of `max_scale`: how many replicas the rate of the calls adds at a time.
    #[serde(skip_serializing_if = "is_usual_factor")]
    pub scale_factor: u32,
    /// How long a replica is kept that nobody calls. 0: as long as the server keeps those of any function.
    #[serde(skip_serializing_if = "is_zero")]
    pub idle_ms: u64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    #[serde(rename = "async", skip_serializing_if = "AsyncSettings::is_usual")]
    pub asynchronous: AsyncSettings,
}

/// How a function's asynchronous calls are made, at each node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AsyncSettings {
    /// Calls that are made at once.
    pub concurrency: u32,
    /// Calls that may wait, those counted that are being made.
    pub queue: u32,
    /// How often one call is made.
    pub attempts: u32,
    /// How long one call is tried.
    pub max_age_ms: u64,
}

impl Default for AsyncSettings {
    fn default() -> Self {
        Self { concurrency: 8, queue: 1000, attempts: 5, max_age_ms: 3_600_000 }
    }
}

impl AsyncSettings {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// As OpenFaaS has it.
const USUAL_FACTOR: u32 = 20;

fn is_usual_factor(percent: &u32) -> bool {
    *percent == USUAL_FACTOR
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            secrets: BTreeSet::new(),
            memory: Memory(256 << 20),
            cpu_millis: 1000,
            pids: 256,
            timeout_ms: 60_000,
            concurrency: 8,
            min_scale: 0,
            max_scale: 4,
            target_rps: 0,
            scale_factor: USUAL_FACTOR,
            idle_ms: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            asynchronous: AsyncSettings::default(),
        }
    }
}

/// An amount of memory in bytes, written as Kubernetes does: `256Mi`, `1Gi`, `500M`, `1048576`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Memory(pub u64);

/// A setting that cannot be read, or that nothing can be run with. Names it as its flag does, without the dashes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSetting {
    #[error("{text:?} is not {expected}")]
    Unreadable { text: String, expected: &'static str },
    #[error("{setting} {value} is too small: it must be at least {least}")]
    TooSmall { setting: &'static str, value: String, least: String },
    #[error("{setting} {value} is too large: it can be at most {most}")]
    TooLarge { setting: &'static str, value: String, most: String },
    #[error("min-scale {min} is above max-scale {max}: it can be at most as large")]
    Scale { min: u32, max: u32 },
    #[error("the variable {name:?} cannot be set: {reason}")]
    Variable { name: String, reason: &'static str },
    #[error("the label {label} is {text:?}: it must be {expected}")]
    Label { label: &'static str, text: String, expected: &'static str },
}

impl InvalidSetting {
    /// What was given instead of what was expected, shortened to what a line can hold.
    pub(super) fn unreadable(text: &str, expected: &'static str) -> Self {
        Self::Unreadable { text: text.chars().take(80).collect(), expected }
    }
}

const UNITS: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

impl FromStr for Memory {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (number, suffix) = text.split_at(digits);
            let (_, unit) = UNITS.iter().find(|(name, _)| *name == suffix)?;
            number.parse::<u64>().ok()?.checked_mul(*unit).map(Self)
        };
        let expected = "an amount of memory (for example 256Mi, 1Gi or 500M)";
        parse().ok_or_else(|| InvalidSetting::unreadable(text, expected))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |(_, size): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*size);
        let binary = UNITS[..4].iter().rev().find(unit);
        let (name, size) = binary.copied().unwrap_or(("", 1));
        write!(f, "{}{name}", self.0 / size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_and_writes_kubernetes_units() {
        for (text, bytes, shown) in [
            ("256Mi", 256 << 20, "256Mi"),
            ("1G", 1_000_000_000, "1000000000"),
            ("2048Ki", 2 << 20, "2Mi"),
            ("64Ti", 64 << 40, "64Ti"),
            ("0", 0, "0"),
        ] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!((memory.0, memory.to_string()), (bytes, shown.to_string()));
        }
        for text in ["", "Mi", "1.5Gi", "-1", "9Ei", "99999999999Gi"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}
