//! Records in sled: one machine, one process, no other service.
//!
//! - An acknowledged write is on the disk. Writers that come at the same time share one flush.
//! - Watchers learn of a write after it is durable, in the order of revisions.
//! - Opening never makes a new store in the place of one that is gone or damaged.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sled::{Db, Tree};
use tokio::sync::broadcast;

use crate::function::{FunctionName, FunctionRecord};

use super::codec::{self, STORE_FORMAT};
use super::{Change, FunctionStore, Page, Revision, StoreError, Stored};

/// sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 16 << 20;
/// How many changes a watcher may be behind before it has to list again.
const WATCH_BACKLOG: usize = 1024;
const FORMAT_KEY: &str = "format";

/// A store in a folder of its own, which no other process has open.
#[derive(Clone)]
pub struct SledStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    functions: Tree,
    place: String,
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
    pending: VecDeque<Change>,
}

impl SledStore {
    /// Makes an empty store. Nothing is at `folder` until it is whole, so that a crash leaves none or a whole one.
    pub fn create(folder: &Path) -> Result<(), StoreError> {
        let draft = folder.with_extension("new");
        let failed = |step| {
            let place = folder.display().to_string();
            move |source: std::io::Error| StoreError::Disk { step, place, source: source.into() }
        };
        match std::fs::remove_dir_all(&draft) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("clear the draft of")(error));
            }
            _ => {}
        }
        let db = open_database(&draft, folder)?;
        db.insert(FORMAT_KEY, STORE_FORMAT.to_string().as_bytes())
            .and_then(|_| db.flush())
            .map_err(|error| disk("create", folder, error))?;
        drop(db);
        std::fs::rename(&draft, folder).map_err(failed("create"))
    }

    /// Opens a store and reads every record once: what cannot be read is said here and not at some later call.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let place = folder.display().to_string();
        if !folder.is_dir() {
            return Err(StoreError::Gone { place });
        }
        let db = open_database(folder, folder)?;
        check_format(&db, folder)?;
        let functions = db.open_tree("functions").map_err(|error| disk("open", folder, error))?;
        let mut last = 0;
        for entry in &functions {
            let (key, value) = entry.map_err(|error| disk("read", folder, error))?;
            last = last.max(codec::decode(&key, &value)?.revision.0);
        }
        let highest = db.get("revision").map_err(|error| disk("read", folder, error))?;
        last = last.max(highest.and_then(|bytes| codec::revision(&bytes)).map_or(0, |revision| revision.0));
        let shared = Shared {
            db,
            functions,
            place,
            writes: Mutex::new(Writes { last, pending: VecDeque::new() }),
            durable: tokio::sync::Mutex::new(Revision(last)),
            changes: broadcast::channel(WATCH_BACKLOG).0,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes the change if the record is still at `expected` (`None`: absent), and waits until it is durable.
    async fn swap(
        &self,
        name: &FunctionName,
        expected: Option<Revision>,
        record: Option<&FunctionRecord>,
    ) -> Result<Revision, StoreError> {
        let revision = self.shared.write(name, expected, record)?;
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

    fn disk(&self, step: &'static str) -> impl FnOnce(sled::Error) -> StoreError + '_ {
        move |error| StoreError::Disk { step, place: self.place.clone(), source: error.into() }
    }

    fn write(
        &self,
        name: &FunctionName,
        expected: Option<Revision>,
        record: Option<&FunctionRecord>,
    ) -> Result<Revision, StoreError> {
        let key = name.as_str();
        let mut writes = self.lock_writes();
        let found = self.functions.get(key).map_err(self.disk("read"))?;
        if found.as_deref().and_then(codec::revision) != expected {
            return Err(StoreError::Conflict { name: name.clone() });
        }
        let revision = Revision(writes.last + 1);
        let change = match record {
            Some(record) => {
                let bytes = codec::encode(revision, record)?;
                self.functions.insert(key, bytes).map_err(self.disk("write to"))?;
                Change::Written(Stored { revision, record: record.clone() })
            }
            None => {
                // The deleted record no longer says how far the revisions have come.
                self.db.insert("revision", &revision.0.to_be_bytes()).map_err(self.disk("write to"))?;
                self.functions.remove(key).map_err(self.disk("write to"))?;
                Change::Deleted { name: name.clone(), revision }
            }
        };
        writes.last = revision.0;
        writes.pending.push_back(change);
        Ok(revision)
    }

    /// Returns when `revision` is on the disk. Whoever waited for the lock while another flushed finds it done.
    async fn make_durable(&self, revision: Revision) -> Result<(), StoreError> {
        let mut durable = self.durable.lock().await;
        if *durable >= revision {
            return Ok(());
        }
        let written = Revision(self.lock_writes().last);
        self.db.flush_async().await.map_err(self.disk("flush"))?;
        *durable = written;
        let mut writes = self.lock_writes();
        let ready = writes.pending.partition_point(|change| change.revision() <= Some(written));
        for change in writes.pending.drain(..ready) {
            // Nobody watching is no error.
            let _ = self.changes.send(change);
        }
        Ok(())
    }
}

impl Change {
    fn revision(&self) -> Option<Revision> {
        match self {
            Self::Written(stored) => Some(stored.revision),
            Self::Deleted { revision, .. } => Some(*revision),
            Self::Missed => None,
        }
    }
}

#[async_trait]
impl FunctionStore for SledStore {
    async fn get(&self, name: &FunctionName) -> Result<Option<Stored>, StoreError> {
        let found = self.shared.functions.get(name.as_str()).map_err(self.shared.disk("read"))?;
        found.map(|bytes| codec::decode(name.as_str().as_bytes(), &bytes)).transpose()
    }

    async fn list(&self, after: Option<&FunctionName>, limit: usize) -> Result<Page, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |name| Excluded(name.as_str().as_bytes()));
        let mut records = Vec::new();
        for entry in self.shared.functions.range::<&[u8], _>((from, Unbounded)) {
            let (key, value) = entry.map_err(self.shared.disk("read"))?;
            if records.len() == limit {
                return Ok(Page { records, more: true });
            }
            records.push(codec::decode(&key, &value)?);
        }
        Ok(Page { records, more: false })
    }

    async fn create(&self, record: &FunctionRecord) -> Result<Revision, StoreError> {
        self.swap(&record.name, None, Some(record)).await
    }

    async fn update(&self, record: &FunctionRecord, expected: Revision) -> Result<Revision, StoreError> {
        self.swap(&record.name, Some(expected), Some(record)).await
    }

    async fn delete(&self, name: &FunctionName, expected: Revision) -> Result<(), StoreError> {
        self.swap(name, Some(expected), None).await.map(drop)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, StoreError> {
        let receiver = self.shared.changes.subscribe();
        let changes = futures_util::stream::unfold(receiver, async |mut receiver| {
            let change = match receiver.recv().await {
                Ok(change) => change,
                Err(broadcast::error::RecvError::Lagged(_)) => Change::Missed,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((change, receiver))
        });
        Ok(changes.boxed())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.shared.functions.first().map(drop).map_err(self.shared.disk("read"))
    }
}

/// `folder` is named in errors; it differs from `at` while a store is being made.
fn open_database(at: &Path, folder: &Path) -> Result<Db, StoreError> {
    let opened = sled::Config::default().path(at).cache_capacity(CACHE_BYTES).open();
    opened.map_err(|error| match &error {
        // sled wraps the lock's error in one of its own kind and keeps only the text.
        sled::Error::Io(io) if io.to_string().contains("could not acquire lock") => {
            StoreError::Locked { place: folder.display().to_string() }
        }
        _ => disk("open", folder, error),
    })
}

fn check_format(db: &Db, folder: &Path) -> Result<(), StoreError> {
    let damaged = |what| StoreError::Damaged { place: folder.display().to_string(), what };
    let found = db.get(FORMAT_KEY).map_err(|error| disk("read", folder, error))?;
    let found = found.ok_or_else(|| damaged("the number of its format is gone"))?;
    let number = std::str::from_utf8(&found).ok().and_then(|text| text.parse::<u32>().ok());
    match number {
        Some(number) if number > STORE_FORMAT => {
            Err(StoreError::NewerStore { place: folder.display().to_string(), found: number })
        }
        Some(_) => Ok(()),
        None => Err(damaged("the number of its format cannot be read")),
    }
}

fn disk(step: &'static str, folder: &Path, source: sled::Error) -> StoreError {
    StoreError::Disk { step, place: folder.display().to_string(), source: source.into() }
}
