//! What has to be known of all functions, called or not: which are kept up without calls, which images are needed, which
//! bases are in use, whose logs are nobody's. Read in pages, now and then, so that no number of functions fills the memory or delays a start.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::image::FRESH;
use super::table::Replicas;
use super::{Error, logs};
use crate::function::{FunctionRecord, NewVersion};
use crate::oci::Digest;

const PAGE: usize = 256;
/// The most different bases that are remembered: far more than are ever kept warm.
const BASES: usize = 64;
/// From a change to the survey that sees it, so that many changes cost one.
const SETTLE: Duration = Duration::from_millis(500);
/// From one survey to the next at least so many times what the one took: each reads every record.
const REST: u32 = 20;

/// What the last survey found.
#[derive(Default)]
pub(super) struct Survey {
    due: AtomicBool,
    wake: tokio::sync::Notify,
    /// One version of each base.
    bases: Mutex<BTreeMap<Digest, NewVersion>>,
    /// Images of functions that were deleted since.
    gone: Mutex<HashSet<String>>,
}

impl Survey {
    /// Something has changed since.
    pub fn is_due(&self) {
        self.due.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// A function is deleted: its images need not wait until they are no longer fresh.
    pub fn is_gone(&self, record: &FunctionRecord) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(digests(record));
        self.is_due();
    }

    /// One version of each base that some function stands on.
    pub fn of_each_base(&self) -> Vec<NewVersion> {
        self.bases.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Replicas {
    /// At the start, and after changes; until the server stops.
    pub(super) async fn keep_surveying(self: Arc<Self>) {
        let work = async {
            loop {
                let begun = Instant::now();
                self.survey.due.store(false, Ordering::Relaxed);
                if let Err(error) = self.survey_once().await {
                    tracing::warn!(error = &error as &dyn std::error::Error, "looking through the records");
                }
                tokio::time::sleep(SETTLE.max(begun.elapsed() * REST)).await;
                let changed = async {
                    while !self.survey.due.load(Ordering::Relaxed) {
                        self.survey.wake.notified().await;
                    }
                };
                // What was fresh grows old without anybody telling.
                let _ = tokio::time::timeout(FRESH, changed).await;
                tokio::time::sleep(SETTLE).await;
            }
        };
        self.stopping.run_until_cancelled(work).await;
    }

    async fn survey_once(self: &Arc<Self>) -> Result<(), Error> {
        let gone = std::mem::take(&mut *self.survey.gone.lock().unwrap_or_else(PoisonError::into_inner));
        let pinned = self.starter.images.pinned().await?;
        let (mut needed, mut bases, mut after) = (HashSet::new(), BTreeMap::new(), None);
        // Read before the records: who has a log by now had a record before.
        let mut without_record = logs::functions(&self.starter.data_dir);
        let Some(store) = &self.store else { return Ok(()) };
        loop {
            let page = store.list(after.as_ref(), PAGE).await?;
            for record in page.records.iter().map(|stored| &stored.record) {
                without_record.remove(&record.name);
                needed.extend(digests(record).filter(|digest| pinned.contains(digest)));
                if let Some((base, version)) = base_of(record)
                    && bases.len() < BASES
                {
                    bases.entry(base).or_insert(version);
                }
                if record.targets().iter().any(|(version, _)| version.image.settings.min_scale > 0) {
                    self.look_up(&record.name).await?;
                }
            }
            after = page.records.into_iter().next_back().map(|stored| stored.record.name);
            if !page.more {
                break;
            }
            // Calls come first.
            tokio::task::yield_now().await;
        }
        // Deleted while this node was down.
        for name in without_record {
            logs::remove(&self.starter.data_dir, &name);
        }
        *self.survey.bases.lock().unwrap_or_else(PoisonError::into_inner) = bases;
        let images = &self.starter.images;
        let is_young = |digest: &str| images.is_fresh(digest) && !gone.contains(digest);
        images.sweep(|digest| !pinned.contains(digest) || needed.contains(digest) || is_young(digest)).await
    }
}

fn digests(record: &FunctionRecord) -> impl Iterator<Item = String> {
    record.versions.iter().map(|version| version.image.digest.to_string())
}

fn base_of(record: &FunctionRecord) -> Option<(Digest, NewVersion)> {
    let image = &record.current()?.image;
    Some((image.base.clone()?, image.clone()))
}
