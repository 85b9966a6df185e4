//! Records in sled: one machine, one process, no other service.
//!
//! - An acknowledged write is on the disk. Writers that come at the same time share one flush.
//! - Watchers learn of a write after it is durable, in the order of revisions.
//! - Opening never makes a new store in the place of one that is gone or damaged.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::broadcast;

use crate::function::{FunctionName, FunctionRecord};

use super::codec;
use super::trees::Trees;
use super::value::{LARGEST_VALUE, StoredValue, ValueKey, ValuePage};
use super::{Change, FunctionStore, Page, Revision, StoreError, Stored, WATCH_BACKLOG, changes_of};

/// A store in a folder of its own, which no other process has open.
#[derive(Clone)]
pub struct SledStore {
    shared: Arc<Shared>,
}

struct Shared {
    trees: Trees,
    /// Held while a write is checked and made, never while it is flushed.
    writes: Mutex<Writes>,
    /// Held by the one who flushes; the value is the newest revision known to be durable.
    durable: tokio::sync::Mutex<Revision>,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Writes {
    last: u64,
    /// Made but not yet durable, oldest first.
    pending: VecDeque<(Revision, Change)>,
}

/// What one write puts where; `None` takes it away.
#[derive(Clone, Copy)]
enum Write<'a> {
    Record(&'a FunctionName, Option<&'a FunctionRecord>),
    Value(&'a ValueKey, Option<&'a [u8]>),
}

impl SledStore {
    /// Makes an empty store. Nothing is at `folder` until it is whole, so that a crash leaves none or a whole one.
    pub fn create(folder: &Path) -> Result<(), StoreError> {
        Trees::create(folder)
    }

    /// Opens a store and reads every record once: what cannot be read is said here and not at some later call.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let trees = Trees::open(folder)?;
        let highest = trees.db.get("revision").map_err(trees.disk("read"))?;
        let highest = highest.and_then(|bytes| codec::revision(&bytes)).unwrap_or(Revision(0));
        let last = trees.read_through()?.max(highest);
        let shared = Shared {
            trees,
            writes: Mutex::new(Writes { last: last.0, pending: VecDeque::new() }),
            durable: tokio::sync::Mutex::new(last),
            changes: broadcast::channel(WATCH_BACKLOG).0,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes the change if what it changes is still at `expected` (`None`: absent), and waits until it is durable.
    async fn swap(&self, write: Write<'_>, expected: Option<Revision>) -> Result<Revision, StoreError> {
        let revision = self.shared.write(write, expected)?;
        let shared = Arc::clone(&self.shared);
        // A task of its own: a caller that goes away must not keep watchers from what is already written.
        tokio::spawn(async move { shared.make_durable(revision).await })
            .await
            .map_err(|_| StoreError::Interrupted)??;
        Ok(revision)
    }
}

impl Shared {
    fn lock_writes(&self) -> MutexGuard<'_, Writes> {
        // Nothing between lock and unlock leaves the numbers half changed, so a panic elsewhere is no reason to stop.
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, write: Write<'_>, expected: Option<Revision>) -> Result<Revision, StoreError> {
        let Trees { db, functions, values, .. } = &self.trees;
        let (tree, key) = match write {
            Write::Record(name, _) => (functions, name.as_str()),
            Write::Value(key, _) => (values, key.as_str()),
        };
        let mut writes = self.lock_writes();
        let found = tree.get(key).map_err(self.trees.disk("read"))?;
        if found.as_deref().and_then(codec::revision) != expected {
            return Err(write.conflict());
        }
        let revision = Revision(writes.last + 1);
        match write.encode(revision)? {
            Some(bytes) => tree.insert(key, bytes).map_err(self.trees.disk("write to"))?,
            None => {
                // What is deleted no longer says how far the revisions have come.
                db.insert("revision", &revision.0.to_be_bytes()).map_err(self.trees.disk("write to"))?;
                tree.remove(key).map_err(self.trees.disk("write to"))?
            }
        };
        writes.last = revision.0;
        writes.pending.extend(write.change(revision).map(|change| (revision, change)));
        Ok(revision)
    }

    /// Returns when `revision` is on the disk. Whoever waited for the lock while another flushed finds it done.
    async fn make_durable(&self, revision: Revision) -> Result<(), StoreError> {
        let mut durable = self.durable.lock().await;
        if *durable >= revision {
            return Ok(());
        }
        let written = Revision(self.lock_writes().last);
        self.trees.db.flush_async().await.map_err(self.trees.disk("flush"))?;
        *durable = written;
        let mut writes = self.lock_writes();
        let ready = writes.pending.partition_point(|(revision, _)| *revision <= written);
        for (_, change) in writes.pending.drain(..ready) {
            // Nobody watching is no error.
            let _ = self.changes.send(change);
        }
        Ok(())
    }
}

impl Write<'_> {
    fn conflict(&self) -> StoreError {
        match self {
            Self::Record(name, _) => StoreError::Conflict { name: (*name).clone() },
            Self::Value(key, _) => StoreError::ValueConflict { key: (*key).clone() },
        }
    }

    fn encode(&self, revision: Revision) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Record(_, record) => record.map(|record| codec::encode(revision, record)).transpose(),
            Self::Value(key, Some(bytes)) if bytes.len() > LARGEST_VALUE => {
                Err(StoreError::TooLarge { key: key.to_string(), size: bytes.len() })
            }
            Self::Value(_, bytes) => Ok(bytes.map(|bytes| codec::join(revision, bytes))),
        }
    }

    /// What watchers are told: values are for those who read them when they need them.
    fn change(&self, revision: Revision) -> Option<Change> {
        match self {
            Self::Record(_, Some(record)) => {
                Some(Change::Written(Stored { revision, record: (*record).clone() }))
            }
            Self::Record(name, None) => Some(Change::Deleted { name: (*name).clone(), revision }),
            Self::Value(..) => None,
        }
    }
}

#[async_trait]
impl FunctionStore for SledStore {
    async fn get(&self, name: &FunctionName) -> Result<Option<Stored>, StoreError> {
        self.shared.trees.get(name)
    }

    async fn list(&self, after: Option<&FunctionName>, limit: usize) -> Result<Page, StoreError> {
        self.shared.trees.list(after, limit)
    }

    async fn create(&self, record: &FunctionRecord) -> Result<Revision, StoreError> {
        self.swap(Write::Record(&record.name, Some(record)), None).await
    }

    async fn update(&self, record: &FunctionRecord, expected: Revision) -> Result<Revision, StoreError> {
        self.swap(Write::Record(&record.name, Some(record)), Some(expected)).await
    }

    async fn delete(&self, name: &FunctionName, expected: Revision) -> Result<(), StoreError> {
        self.swap(Write::Record(name, None), Some(expected)).await.map(drop)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, StoreError> {
        Ok(changes_of(&self.shared.changes))
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.shared.trees.check()
    }

    async fn value(&self, key: &ValueKey) -> Result<Option<StoredValue>, StoreError> {
        self.shared.trees.value(key)
    }

    async fn values(
        &self,
        kind: Option<&str>,
        after: Option<&ValueKey>,
        limit: usize,
    ) -> Result<ValuePage, StoreError> {
        self.shared.trees.values(kind, after, limit)
    }

    async fn swap_value(
        &self,
        key: &ValueKey,
        expected: Option<Revision>,
        bytes: Option<&[u8]>,
    ) -> Result<Revision, StoreError> {
        if bytes.is_none() && expected.is_none() {
            return Err(StoreError::ValueConflict { key: key.clone() });
        }
        self.swap(Write::Value(key, bytes), expected).await
    }
}
