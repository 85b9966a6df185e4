//! What is remembered of a function: its versions, and which of them is current.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Deployment, EntryPoint, FunctionName, Package, Parameter, Settings};
use crate::oci::{Digest, Repository};

/// The format that this fnbuild writes. A record of an older one is migrated, one of a newer one is refused.
pub const FORMAT: u32 = 1;

/// A version's number within its function, from 1 up; never used twice.
pub type VersionNumber = u64;

/// The only truth about a function: everything else (containers, tags, images) is derived from it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FunctionRecord {
    pub format: u32,
    pub name: FunctionName,
    /// The number of the version that calls go to.
    pub current: VersionNumber,
    /// The highest number ever given, so that no deletion makes one come back.
    pub last: VersionNumber,
    /// Percent of the calls for each version, 100 in all. Empty: all go to the current one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub split: BTreeMap<VersionNumber, u32>,
    /// Whether calls have to bring a token. The function's and not a version's, so that no rollback and no call by
    /// number opens what was closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub require_token: bool,
    /// Oldest first.
    pub versions: Vec<Version>,
}

/// Shares of the calls that are no split.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSplit {
    #[error("there is no version {version}")]
    NoVersion { version: VersionNumber },
    #[error("the shares come to {sum}, not to 100")]
    Sum { sum: u64 },
    #[error("version {version} is given a share of 0: leave it out")]
    Nothing { version: VersionNumber },
}

/// One push, immutable: an image by digest and what to run it with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub number: VersionNumber,
    /// RFC 3339, UTC.
    pub created: String,
    #[serde(flatten)]
    pub image: NewVersion,
}

/// What a push brings, before the server numbers it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewVersion {
    /// The registry's host is configuration, never part of a record.
    pub repository: Repository,
    pub digest: Digest,
    /// Of the bytes that the user handed in; absent for an image that fnbuild did not build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    /// The base image's manifest; absent for an image that fnbuild did not build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPoint>,
    /// What the entry point takes, where its module shows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<Parameter>>,
    /// What its requirements were resolved to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    #[serde(default)]
    pub settings: Settings,
    /// Who pushed it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Where an OpenFaaS client deployed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
}

impl NewVersion {
    /// Whether nothing would change with the other: who pushed the same makes no version of it.
    pub fn is_the_same_as(&self, other: &Self) -> bool {
        *self == Self { author: self.author.clone(), ..other.clone() }
    }

    /// Whether the other is this one with other bounds to the number of its replicas.
    fn differs_in_scale_alone(&self, other: &Self) -> bool {
        let Settings { min_scale, max_scale, .. } = other.settings;
        let settings = Settings { min_scale, max_scale, ..self.settings.clone() };
        self.settings != other.settings && *other == Self { settings, ..self.clone() }
    }
}

impl FunctionRecord {
    /// The record of a function's first version.
    pub fn first(name: FunctionName, image: NewVersion, created: String) -> Self {
        let version = Version { number: 1, created, image };
        Self {
            format: FORMAT,
            name,
            current: 1,
            last: 1,
            split: BTreeMap::new(),
            require_token: false,
            versions: vec![version],
        }
    }

    pub fn version(&self, number: VersionNumber) -> Option<&Version> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// The version that calls go to. `None` only in a record that was damaged.
    pub fn current(&self) -> Option<&Version> {
        self.version(self.current)
    }

    /// Adds a version under the next number and makes it current.
    pub fn push(&mut self, image: NewVersion, created: String) -> VersionNumber {
        self.last += 1;
        self.versions.push(Version { number: self.last, created, image });
        self.current = self.last;
        self.last
    }

    /// The versions that calls go to which name none, and the percent that goes to each.
    pub fn targets(&self) -> Vec<(&Version, u32)> {
        let named = self.split.iter().filter_map(|(number, share)| Some((self.version(*number)?, *share)));
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            self.current().into_iter().map(|version| (version, 100)).collect()
        } else {
            named
        }
    }

    /// Divides the calls; an empty split sends all of them to the current version.
    pub fn divide(&mut self, split: BTreeMap<VersionNumber, u32>) -> Result<(), InvalidSplit> {
        for (version, share) in &split {
            if self.version(*version).is_none() {
                return Err(InvalidSplit::NoVersion { version: *version });
            }
            if *share == 0 {
                return Err(InvalidSplit::Nothing { version: *version });
            }
        }
        let sum = split.values().copied().map(u64::from).sum();
        if !split.is_empty() && sum != 100 {
            return Err(InvalidSplit::Sum { sum });
        }
        self.split = split;
        Ok(())
    }

    /// Gives up versions until at most `keep` are left; never one that calls go to. First go those that the next one
    /// differs from in its scale alone, so that scaling again and again pushes nothing out that one would go back to;
    /// then the oldest.
    pub fn retire(&mut self, keep: usize) -> Vec<Version> {
        let mut surplus = self.versions.len().saturating_sub(keep.max(1));
        let pairs = self.versions.iter().zip(self.versions.iter().skip(1));
        let scaled = pairs.filter(|(version, next)| version.image.differs_in_scale_alone(&next.image));
        let scaled: BTreeSet<VersionNumber> = scaled.map(|(version, _)| version.number).collect();
        let (current, split) = (self.current, &self.split);
        let mut retired = Vec::new();
        for first in [true, false] {
            let may_go = |version: &mut Version| {
                let number = version.number;
                let is_called = number == current || split.contains_key(&number);
                let goes = surplus > 0 && !is_called && (!first || scaled.contains(&number));
                surplus -= usize::from(goes);
                goes
            };
            retired.extend(self.versions.extract_if(.., may_go));
        }
        retired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(versions: u64) -> FunctionRecord {
        let image = serde_json::json!({ "repository": "fn/add", "digest": Digest::of(b"image") });
        let image: NewVersion = serde_json::from_value(image).unwrap();
        let mut record = FunctionRecord::first("add".parse().unwrap(), image.clone(), String::new());
        for _ in 1..versions {
            record.push(image.clone(), String::new());
        }
        record
    }

    fn numbers(versions: &[Version]) -> Vec<VersionNumber> {
        versions.iter().map(|version| version.number).collect()
    }

    #[test]
    fn a_split_comes_to_a_hundred_and_names_what_is_there() {
        let mut record = record(4);
        let targets = |record: &FunctionRecord| -> Vec<_> {
            record.targets().into_iter().map(|(version, share)| (version.number, share)).collect()
        };
        assert_eq!(targets(&record), [(4, 100)]);
        record.divide([(3, 90), (4, 10)].into()).unwrap();
        assert_eq!(targets(&record), [(3, 90), (4, 10)]);
        assert_eq!(record.divide([(3, 90)].into()), Err(InvalidSplit::Sum { sum: 90 }));
        assert_eq!(record.divide([(9, 100)].into()), Err(InvalidSplit::NoVersion { version: 9 }));
        assert_eq!(record.divide([(3, 0), (4, 100)].into()), Err(InvalidSplit::Nothing { version: 3 }));
        assert_eq!(targets(&record), [(3, 90), (4, 10)], "a refusal changes nothing");
        record.divide(BTreeMap::new()).unwrap();
        assert_eq!(targets(&record), [(4, 100)]);
    }

    #[test]
    fn the_oldest_go_but_never_one_that_is_called() {
        let mut record = record(6);
        record.current = 2;
        record.divide([(1, 50), (5, 50)].into()).unwrap();
        assert_eq!(numbers(&record.retire(4)), [3, 4]);
        assert_eq!(numbers(&record.retire(1)), [6]);
        assert_eq!(numbers(&record.versions), [1, 2, 5]);
        assert_eq!(record.retire(0), []);
        assert_eq!(record.push(record.versions[0].image.clone(), String::new()), 7, "no number comes back");
    }

    #[test]
    fn scaling_pushes_nothing_out_that_one_would_go_back_to() {
        let mut record = record(2);
        let code = |record: &mut FunctionRecord, code: &[u8]| {
            let image = NewVersion { digest: Digest::of(code), ..record.versions[0].image.clone() };
            record.push(image, String::new());
        };
        let scale = |record: &mut FunctionRecord, least: u32| {
            let mut image = record.current().unwrap().image.clone();
            image.settings.min_scale = least;
            record.push(image, String::new());
        };
        code(&mut record, b"three");
        for least in 1..=3 {
            scale(&mut record, least);
        }
        code(&mut record, b"seven");
        assert_eq!(numbers(&record.retire(5)), [3, 4]);
        assert_eq!(numbers(&record.versions), [1, 2, 5, 6, 7]);
        assert_eq!(numbers(&record.retire(2)), [5, 1, 2]);
        assert_eq!(numbers(&record.versions), [6, 7]);
    }
}
