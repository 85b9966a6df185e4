//! What is remembered of a function: its versions, and which of them is current.

use serde::{Deserialize, Serialize};

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
    /// Oldest first.
    pub versions: Vec<Version>,
}

/// One push, immutable: an image by digest and what to run it with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub number: VersionNumber,
    /// RFC 3339, UTC.
    pub created: String,
    #[serde(flatten)]
    pub image: NewVersion,
}

/// What a push brings, before the server numbers it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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

impl FunctionRecord {
    /// The record of a function's first version.
    pub fn first(name: FunctionName, image: NewVersion, created: String) -> Self {
        let version = Version { number: 1, created, image };
        Self { format: FORMAT, name, current: 1, last: 1, versions: vec![version] }
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
}
