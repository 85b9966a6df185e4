//! Every change of a record, in the one order: registry first, record second, containers last; deleting runs the
//! other way.
//!
//! A version becomes current only when its image is unpacked. Its number is given by compare-and-swap on the record,
//! so that pushes at the same time, at this server or another, each get one. Tags follow the record.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::error::{ApiError, chain};
use crate::function::{
    FunctionName, FunctionRecord, NewVersion, Settings, SettingsPatch, Version, VersionNumber, VersionRequest,
};
use crate::publish::Published;
use crate::replica::Replicas;
use crate::store::{FunctionStore, StoreError, Stored};

/// How often a change is tried anew when others change the same record; each failure means another's success.
const ATTEMPTS: usize = 100;
const PAGE: usize = 500;
/// How long fetching and unpacking an image may take before whoever asked is told that it does.
const PREPARATION: Duration = Duration::from_secs(300);

/// What makes, switches and deletes versions.
pub struct Changes {
    store: Arc<dyn FunctionStore>,
    published: Published,
    replicas: Arc<Replicas>,
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
    pub fn new(store: Arc<dyn FunctionStore>, published: Published, replicas: Arc<Replicas>) -> Self {
        Self { store, published, replicas, turns: Mutex::default() }
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
        self.advance(name, |before| {
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
        self.advance(name, |before| match before {
            None if update => Err(ApiError::NoFunction { name: name.clone() }),
            _ => Ok(image.clone()),
        })
        .await
    }

    /// A new version of the current image, with other settings.
    pub async fn configure(&self, name: &FunctionName, patch: &SettingsPatch) -> Result<Changed, ApiError> {
        self.adjust(name, |settings| Ok(patch.apply(settings)?)).await
    }

    /// A new version of the current image, of which so many replicas stay up.
    pub async fn scale(&self, name: &FunctionName, replicas: u32) -> Result<Changed, ApiError> {
        self.adjust(name, |settings| {
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
        settings: impl Fn(&Settings) -> Result<Settings, ApiError>,
    ) -> Result<Changed, ApiError> {
        self.advance(name, |before| {
            let before = before.ok_or_else(|| ApiError::NoFunction { name: name.clone() })?;
            Ok(NewVersion { settings: settings(&before.image.settings)?, ..before.image.clone() })
        })
        .await
    }

    /// Makes the version that `next` derives from the current one.
    async fn advance(
        &self,
        name: &FunctionName,
        next: impl Fn(Option<&Version>) -> Result<NewVersion, ApiError>,
    ) -> Result<Changed, ApiError> {
        let turn = self.turn(name).await;
        for _ in 0..ATTEMPTS {
            let stored = self.store.get(name).await?;
            let current = stored.as_ref().and_then(|stored| stored.record.current());
            let image = next(current)?;
            if let (Some(stored), Some(version)) = (&stored, current)
                && version.image == image
            {
                let (record, version) = (stored.record.clone(), version.clone());
                let warnings = self.tag(&record).await;
                return Ok(Changed { record, version, unchanged: true, warnings });
            }
            self.prepare(&image).await?;
            let created = now();
            let record = match &stored {
                Some(stored) => {
                    let mut record = stored.record.clone();
                    record.push(image, created);
                    record
                }
                None => FunctionRecord::first(name.clone(), image, created),
            };
            if self.write(&record, stored.as_ref()).await? {
                return self.follow(record, turn).await;
            }
        }
        Err(ApiError::Busy { name: name.clone() })
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
            if number == current {
                return Ok(Changed { record, version, unchanged: true, warnings: Vec::new() });
            }
            self.prepare(&version.image).await?;
            record.current = number;
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
            self.replicas.removed(name).await?;
            if !images {
                return Ok(Vec::new());
            }
            let others = self.all().await?;
            return Ok(self.published.delete(&stored.record, &others).await);
        }
        Err(ApiError::Busy { name: name.clone() })
    }

    /// Every record there is.
    pub async fn all(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        let (mut records, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.list(after.as_ref(), PAGE).await?;
            records.extend(page.records.into_iter().map(|stored| stored.record));
            after = records.last().map(|record: &FunctionRecord| record.name.clone());
            if !page.more {
                return Ok(records);
            }
        }
    }

    /// Lets every function's tags say what its record says: what a push that was cut off has left undone.
    pub async fn repair_tags(&self) -> Result<(), StoreError> {
        for record in self.all().await? {
            for warning in self.tag(&record).await {
                tracing::warn!("{warning}");
            }
        }
        Ok(())
    }

    /// `false` if someone else was faster.
    async fn write(&self, record: &FunctionRecord, before: Option<&Stored>) -> Result<bool, ApiError> {
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
        let switched = self.replicas.take_in(&record)?;
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
            Ok(()) => Vec::new(),
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

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Millisecond).unwrap_or(now).to_string()
}
