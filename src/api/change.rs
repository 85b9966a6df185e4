//! Every change of a record, in the one order: registry first, record second, containers last; deleting (`removal`) runs
//! the other way.
//!
//! A version becomes current only when its image is unpacked. Its number is given by compare-and-swap on the record,
//! so that pushes at the same time, at this server or another, each get one. Tags follow the record.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::error::{ApiError, chain};
use super::unfinished::Unfinished;
use crate::function::{
    FunctionName, FunctionRecord, NewVersion, Settings, SettingsPatch, Version, VersionNumber, VersionRequest,
};
use crate::publish::Published;
use crate::replica::Replicas;
use crate::store::{FunctionStore, StoreError, Stored};

/// How often a change is tried anew when others change the same record; each failure means another's success.
pub(super) const ATTEMPTS: usize = 100;
/// How long fetching and unpacking an image may take before whoever asked is told that it does.
const PREPARATION: Duration = Duration::from_secs(300);

/// What makes, switches and deletes versions. Deletion is in `removal`, what was cut off in `unfinished`.
pub struct Changes {
    pub(super) store: Arc<dyn FunctionStore>,
    pub(super) published: Published,
    pub(super) replicas: Arc<Replicas>,
    pub(super) unfinished: Unfinished,
    /// Versions of a function at most, those apart that calls go to.
    keep: usize,
    /// One change of a function at a time at this server, so that the containers follow the records' order.
    turns: Mutex<HashMap<FunctionName, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a change came to.
pub struct Changed {
    pub record: FunctionRecord,
    pub version: Version,
    pub unchanged: bool,
    /// What did not follow the record yet; it is repaired at the next start.
    pub warnings: Vec<String>,
}

impl Changes {
    /// `notes` is a folder of this server's for what it has not finished.
    pub fn new(
        store: Arc<dyn FunctionStore>,
        published: Published,
        replicas: Arc<Replicas>,
        (notes, keep): (PathBuf, usize),
    ) -> Self {
        let unfinished = Unfinished::new(notes);
        Self { store, published, replicas, unfinished, keep, turns: Mutex::default() }
    }

    pub async fn get(&self, name: &FunctionName) -> Result<Stored, ApiError> {
        let found = self.store.get(name).await?;
        found.ok_or_else(|| ApiError::NoFunction { name: name.clone() })
    }

    /// A pushed image becomes a version, unless it is the current one already.
    pub async fn push(&self, name: &FunctionName, request: &VersionRequest) -> Result<Changed, ApiError> {
        let registry = || self.published.host().to_string();
        let image = || format!("{}@{}", request.repository, request.digest);
        match self.published.contains(&request.repository, &request.digest).await {
            Ok(true) => {}
            Ok(false) => return Err(ApiError::NoImage { image: image(), registry: registry() }),
            Err(source) => {
                return Err(ApiError::Registry {
                    step: "find the image",
                    registry: registry(),
                    source: source.into(),
                });
            }
        }
        self.advance(name, request.settings.require_token, |before| {
            let settings = before.map(|version| version.image.settings.clone()).unwrap_or_default();
            Ok(request.with_settings(request.settings.apply(&settings)?))
        })
        .await
    }

    /// An image that is in the registry becomes a version with these settings and no others. `update`: only of a
    /// function that is there.
    pub async fn deploy(
        &self,
        name: &FunctionName,
        image: &NewVersion,
        update: bool,
    ) -> Result<Changed, ApiError> {
        self.advance(name, None, |before| match before {
            None if update => Err(ApiError::NoFunction { name: name.clone() }),
            _ => Ok(image.clone()),
        })
        .await
    }

    /// A new version of the current image, with other settings.
    pub async fn configure(&self, name: &FunctionName, patch: &SettingsPatch) -> Result<Changed, ApiError> {
        self.adjust(name, patch.require_token, |settings| Ok(patch.apply(settings)?)).await
    }

    /// A new version of the current image, of which so many replicas stay up.
    pub async fn scale(&self, name: &FunctionName, replicas: u32) -> Result<Changed, ApiError> {
        self.adjust(name, None, |settings| {
            let max_scale = settings.max_scale.max(replicas);
            let patch =
                SettingsPatch { min_scale: Some(replicas), max_scale: Some(max_scale), ..Default::default() };
            Ok(patch.apply(settings)?)
        })
        .await
    }

    async fn adjust(
        &self,
        name: &FunctionName,
        require_token: Option<bool>,
        settings: impl Fn(&Settings) -> Result<Settings, ApiError>,
    ) -> Result<Changed, ApiError> {
        self.advance(name, require_token, |before| {
            let before = before.ok_or_else(|| ApiError::NoFunction { name: name.clone() })?;
            Ok(NewVersion { settings: settings(&before.image.settings)?, ..before.image.clone() })
        })
        .await
    }

    /// Makes the version that `next` derives from the current one, unless it is the same, and says who may call.
    async fn advance(
        &self,
        name: &FunctionName,
        require_token: Option<bool>,
        next: impl Fn(Option<&Version>) -> Result<NewVersion, ApiError>,
    ) -> Result<Changed, ApiError> {
        let turn = self.turn(name).await;
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(name).await?;
            let current = stored.as_ref().and_then(|stored| stored.record.current());
            let image = next(current)?;
            let same = current.filter(|version| version.image.is_the_same_as(&image));
            let (record, retired) = match (&stored, same) {
                (Some(stored), Some(version)) => {
                    let mut record = stored.record.clone();
                    record.require_token = require_token.unwrap_or(record.require_token);
                    if record == stored.record {
                        let (version, warnings) = (version.clone(), self.tag(&record).await);
                        return Ok(Changed { record, version, unchanged: true, warnings });
                    }
                    (record, Vec::new())
                }
                (stored, _) => {
                    self.announce(name, &image);
                    self.prepare(&image).await?;
                    self.with_version(name, stored.as_ref(), image, require_token)
                }
            };
            if self.write(&record, stored.as_ref()).await? {
                let mut changed = self.follow(record, turn).await?;
                changed.warnings.extend(told_split(&changed.record));
                self.collect(&changed.record, retired).await;
                return Ok(changed);
            }
        }
        Err(ApiError::Busy { name: name.clone() })
    }

    /// The record with one version more, and the versions that it keeps no longer.
    fn with_version(
        &self,
        name: &FunctionName,
        stored: Option<&Stored>,
        image: NewVersion,
        require_token: Option<bool>,
    ) -> (FunctionRecord, Vec<Version>) {
        let mut record = match stored {
            Some(stored) => {
                let mut record = stored.record.clone();
                record.push(image, now());
                record
            }
            None => FunctionRecord::first(name.clone(), image, now()),
        };
        record.require_token = require_token.unwrap_or(record.require_token);
        let retired = record.retire(self.keep);
        (record, retired)
    }

    /// Makes an earlier version (without a number: the one before the current) the current one.
    pub async fn roll_back(
        &self,
        name: &FunctionName,
        to: Option<VersionNumber>,
    ) -> Result<Changed, ApiError> {
        let turn = self.turn(name).await;
        for _ in 0..ATTEMPTS {
            let stored = self.get(name).await?;
            let mut record = stored.record.clone();
            let current = record.current;
            let before = || record.versions.iter().rev().map(|version| version.number).find(|n| *n < current);
            let number = to.or_else(before);
            let number = number.ok_or_else(|| ApiError::NothingBefore { name: name.clone(), current })?;
            let version = record.version(number).cloned();
            let version =
                version.ok_or_else(|| ApiError::NoVersion { name: name.clone(), version: number })?;
            if number == current && record.split.is_empty() {
                return Ok(Changed { record, version, unchanged: true, warnings: Vec::new() });
            }
            self.announce(name, &version.image);
            self.prepare(&version.image).await?;
            record.current = number;
            record.split.clear();
            if self.write(&record, Some(&stored)).await? {
                return self.follow(record, turn).await;
            }
        }
        Err(ApiError::Busy { name: name.clone() })
    }

    /// Divides the calls that name no version; an empty split sends all of them to the current one.
    pub async fn divide(
        &self,
        name: &FunctionName,
        split: &BTreeMap<VersionNumber, u32>,
    ) -> Result<Changed, ApiError> {
        let turn = self.turn(name).await;
        for _ in 0..ATTEMPTS {
            let stored = self.get(name).await?;
            let mut record = stored.record.clone();
            record.divide(split.clone()).map_err(|source| ApiError::Split { name: name.clone(), source })?;
            if record.split == stored.record.split {
                let version = record.current().cloned();
                let version = version
                    .ok_or_else(|| ApiError::NoVersion { name: name.clone(), version: record.current })?;
                return Ok(Changed { record, version, unchanged: true, warnings: Vec::new() });
            }
            for (version, _) in record.targets() {
                self.prepare(&version.image).await?;
            }
            if self.write(&record, Some(&stored)).await? {
                return self.follow(record, turn).await;
            }
        }
        Err(ApiError::Busy { name: name.clone() })
    }

    /// `false` if someone else was faster.
    async fn write(&self, record: &FunctionRecord, before: Option<&Stored>) -> Result<bool, ApiError> {
        self.unfinished
            .note(&record.name)
            .map_err(|source| ApiError::Disk { step: "note the change", source })?;
        let written = match before {
            Some(stored) => self.store.update(record, stored.revision).await,
            None => self.store.create(record).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the other nodes fetch the image while it is fetched and unpacked here. Nothing waits for it.
    fn announce(&self, name: &FunctionName, image: &NewVersion) {
        let (store, name, image) = (Arc::clone(&self.store), name.clone(), image.clone());
        tokio::spawn(async move {
            if let Err(error) = store.announce(&name, &image).await {
                tracing::debug!(%error, %name, "the other nodes are not told in advance");
            }
        });
    }

    async fn prepare(&self, image: &NewVersion) -> Result<(), ApiError> {
        let prepared = tokio::time::timeout(PREPARATION, self.replicas.prepare(image)).await;
        Ok(prepared.map_err(|_| ApiError::TooSlow { step: "fetching the image", limit: PREPARATION })??)
    }

    /// What follows a record that is written: the tags, and the switch of the calls. The next change has its turn while
    /// this one still waits for its replica, which may never be ready.
    async fn follow(&self, record: FunctionRecord, turn: OwnedMutexGuard<()>) -> Result<Changed, ApiError> {
        let version = record.current().cloned();
        let version = version
            .ok_or_else(|| ApiError::NoVersion { name: record.name.clone(), version: record.current })?;
        let switched = self.replicas.take_in(&record.name).await?;
        let tagged = async {
            let warnings = self.tag(&record).await;
            drop(turn);
            warnings
        };
        let (warnings, ()) = tokio::join!(tagged, switched);
        Ok(Changed { record, version, unchanged: false, warnings })
    }

    pub(super) async fn tag(&self, record: &FunctionRecord) -> Vec<String> {
        match self.published.tag(record, record.current).await {
            Ok(()) => {
                self.unfinished.strike(&record.name);
                Vec::new()
            }
            Err(error) => {
                let (name, version) = (&record.name, record.current);
                vec![format!("the tags of {name} do not say version {version} yet: {}", chain(&error))]
            }
        }
    }

    pub(super) async fn turn(&self, name: &FunctionName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

/// Where a split keeps calls from the version that is now the current one.
fn told_split(record: &FunctionRecord) -> Option<String> {
    let shares = record.split.iter().map(|(version, share)| format!("{version}={share}"));
    let shares = shares.collect::<Vec<_>>().join(" ");
    let name = &record.name;
    let told = || {
        format!(
            "calls of {name} stay divided ({shares}): fnbuild route {name} --to VERSION=PERCENT changes that"
        )
    };
    (!record.split.is_empty()).then(told)
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Millisecond).unwrap_or(now).to_string()
}
