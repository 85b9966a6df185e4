//! What goes: functions, versions that are kept no more, and the images that nothing else needs.

use std::collections::BTreeSet;

use super::change::{ATTEMPTS, Changes};
use super::error::ApiError;
use crate::function::{FunctionName, FunctionRecord, Version};
use crate::queue::forget_schedules;
use crate::store::StoreError;

const PAGE: usize = 500;

impl Changes {
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
    pub(super) async fn collect(&self, record: &FunctionRecord, retired: Vec<Version>) {
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
}
