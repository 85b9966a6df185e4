//! Every change of a record, in the one order: registry first, record second, containers last; deleting runs the
//! other way.
//!
//! A version becomes current only when its image is unpacked. Its number is given by compare-and-swap on the record,
//! so that pushes at the same time, at this server or another, each get one. Tags follow the record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::Finding;
use super::error::{ApiError, chain};
use super::unfinished::Unfinished;
use crate::function::{
    FunctionName, FunctionRecord, NewVersion, Settings, SettingsPatch, Version, VersionNumber, VersionRequest,
};
use crate::publish::Published;
use crate::queue::forget_schedules;
use crate::replica::Replicas;
use crate::store::{FunctionStore, StoreError, Stored};

/// How often a change is tried anew when others change the same record; each failure means another's success.
const ATTEMPTS: usize = 100;
const PAGE: usize = 500;
/// How long fetching and unpacking an image may take before whoever asked is told that it does.
const PREPARATION: Duration = Duration::from_secs(300);

/// Between two looks for tags that were not written.
const FINISH_PAUSE: Duration = Duration::from_secs(5);

/// What makes, switches and deletes versions.
pub struct Changes {
    store: Arc<dyn FunctionStore>,
    published: Published,
    replicas: Arc<Replicas>,
    unfinished: Unfinished,
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

    /// Deletes the record, then the containers, then, if asked, the images. Gives a line for each image that stays.
    pub async fn delete(&self, name: &FunctionName, images: bool) -> Result<Vec<String>, ApiError> {
        let _turn = self.turn(name).await;
        for _ in 0..ATTEMPTS {
            let stored = self.get(name).await?;
            match self.store.delete(name, stored.revision).await {
                Ok(()) => {}
                Err(StoreError::Conflict { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            self.unfinished.strike(name);
            forget_schedules(&*self.store, name).await?;
            self.replicas.updated(name).await?;
            if !images {
                return Ok(Vec::new());
            }
            let others = self.users(&stored.record).await?;
            return Ok(self.published.delete(&stored.record, &others).await);
        }
        Err(ApiError::Busy { name: name.clone() })
    }

    /// Deletes from the registry the images that versions were the last to need which are kept no more; this node's
    /// containerd gives them up by itself. What cannot be deleted takes room and does no other harm.
    async fn collect(&self, record: &FunctionRecord, retired: Vec<Version>) {
        if retired.is_empty() {
            return;
        }
        let gone = FunctionRecord { versions: retired, ..record.clone() };
        match self.users(&gone).await {
            Ok(users) => {
                for line in self.published.delete(&gone, &users).await {
                    tracing::info!("{line}");
                }
            }
            Err(error) => tracing::warn!(%error, name = %record.name, "old images are not collected"),
        }
    }

    /// Every record that has an image of this one's.
    async fn users(&self, record: &FunctionRecord) -> Result<Vec<FunctionRecord>, StoreError> {
        let digests: BTreeSet<_> = record.versions.iter().map(|version| &version.image.digest).collect();
        self.every(|record| record.versions.iter().any(|version| digests.contains(&version.image.digest)))
            .await
    }

    /// Every record there is.
    pub async fn all(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.every(|_| true).await
    }

    async fn every(
        &self,
        wanted: impl Fn(&FunctionRecord) -> bool,
    ) -> Result<Vec<FunctionRecord>, StoreError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.list(after.as_ref(), PAGE).await?;
            after = page.records.last().map(|stored| stored.record.name.clone());
            found.extend(page.records.into_iter().map(|stored| stored.record).filter(&wanted));
            if !page.more {
                return Ok(found);
            }
        }
    }

    /// Which functions' last change was cut off before its tags were written; with `repair` they are now.
    pub async fn cut_off(&self, repair: bool) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for name in self.unfinished.names() {
            // Whatever is being done at this moment is not cut off.
            let _turn = self.turn(&name).await;
            if !self.unfinished.is_noted(&name) {
                continue;
            }
            let Some(stored) = self.store.get(&name).await? else {
                self.unfinished.strike(&name);
                continue;
            };
            let warnings = if repair { self.tag(&stored.record).await } else { Vec::new() };
            let what = format!("the last change of {name} was cut off before its tags were written");
            let what = [vec![what], warnings.clone()].concat().join(": ");
            findings.push(Finding { what, repaired: repair && warnings.is_empty() });
        }
        Ok(findings)
    }

    /// Writes the tags that were not written, as soon as the registry takes them.
    pub async fn keep_finishing(&self) {
        loop {
            match self.cut_off(true).await {
                Ok(found) => found.iter().for_each(|Finding { what, repaired }| match repaired {
                    true => tracing::info!("{what}; they are written now"),
                    // Whoever made the change was told.
                    false => tracing::debug!("{what}"),
                }),
                Err(error) => tracing::warn!(%error, "the tags could not be repaired"),
            }
            tokio::time::sleep(FINISH_PAUSE).await;
            while self.unfinished.names().is_empty() {
                tokio::time::sleep(FINISH_PAUSE).await;
            }
        }
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

    async fn tag(&self, record: &FunctionRecord) -> Vec<String> {
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

    async fn turn(&self, name: &FunctionName) -> OwnedMutexGuard<()> {
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
