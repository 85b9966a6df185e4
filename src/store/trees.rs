//! Records and values in sled trees: how both the sled store and a node's mirror of etcd read them.
//!
//! It reads, and opens what is there; who may write, and with which revision, is the stores' affair.

use std::ops::Bound::{Excluded, Unbounded};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sled::{Db, Tree};

use crate::function::FunctionName;

use super::codec::{self, STORE_FORMAT};
use super::value::{StoredValue, ValueKey, ValuePage};
use super::{Page, Revision, StoreError, Stored};

/// Enough for 100,000 records of one version: 57 MB, which sled counts as 100, since it takes each page for the next power
/// of two. It costs 9 MiB more memory than 16 MiB would: whatever its bound, sled drops no page before it has looked at
/// some 16,000. sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 128 << 20;
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const FORMAT_KEY: &str = "format";

/// An open database with its two trees. In both, the value begins with its revision.
pub struct Trees {
    pub db: Db,
    pub functions: Tree,
    pub values: Tree,
    pub place: String,
}

impl Trees {
    /// Makes an empty database. Nothing is at `folder` until it is whole, so that a crash leaves none or a whole one.
    pub fn create(folder: &Path) -> Result<(), StoreError> {
        let draft = folder.with_extension("new");
        let failed = |step| {
            let place = folder.display().to_string();
            move |source: std::io::Error| StoreError::Disk { step, place, source: Arc::new(source) }
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

    /// Opens what [`Trees::create`] made; never makes a new database in the place of one that is gone.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let place = folder.display().to_string();
        if !folder.is_dir() {
            return Err(StoreError::Gone { place });
        }
        let db = open_database(folder, folder)?;
        check_format(&db, folder)?;
        let functions = db.open_tree("functions").map_err(|error| disk("open", folder, error))?;
        let values = db.open_tree("values").map_err(|error| disk("open", folder, error))?;
        Ok(Self { db, functions, values, place })
    }

    /// Reads every record and every value's head once, and gives the highest revision among them.
    pub fn read_through(&self) -> Result<Revision, StoreError> {
        let mut last = Revision(0);
        for entry in &self.functions {
            let (key, bytes) = entry.map_err(self.disk("read"))?;
            last = last.max(codec::decode(&key, &bytes)?.revision);
        }
        for entry in &self.values {
            let (key, bytes) = entry.map_err(self.disk("read"))?;
            last = last.max(self.value_of(&key, &bytes)?.revision);
        }
        Ok(last)
    }

    pub fn get(&self, name: &FunctionName) -> Result<Option<Stored>, StoreError> {
        let found = self.functions.get(name.as_str()).map_err(self.disk("read"))?;
        found.map(|bytes| codec::decode(name.as_str().as_bytes(), &bytes)).transpose()
    }

    pub fn list(&self, after: Option<&FunctionName>, limit: usize) -> Result<Page, StoreError> {
        let from = after.map_or(Unbounded, |name| Excluded(name.as_str().as_bytes()));
        let mut records = Vec::new();
        for entry in self.functions.range::<&[u8], _>((from, Unbounded)) {
            let (key, bytes) = entry.map_err(self.disk("read"))?;
            if records.len() == limit {
                return Ok(Page { records, more: true });
            }
            records.push(codec::decode(&key, &bytes)?);
        }
        Ok(Page { records, more: false })
    }

    pub fn value(&self, key: &ValueKey) -> Result<Option<StoredValue>, StoreError> {
        let found = self.values.get(key.as_str()).map_err(self.disk("read"))?;
        found.map(|bytes| self.value_of(key.as_str().as_bytes(), &bytes)).transpose()
    }

    /// `kind`: `None` for the values of all kinds.
    pub fn values(
        &self,
        kind: Option<&str>,
        after: Option<&ValueKey>,
        limit: usize,
    ) -> Result<ValuePage, StoreError> {
        let prefix = kind.map_or(String::new(), |kind| format!("{kind}/"));
        // No key is a bare prefix, so beginning after it skips nothing.
        let from = after.map_or(prefix.as_bytes(), |key| key.as_str().as_bytes());
        let mut values = Vec::new();
        for entry in self.values.range::<&[u8], _>((Excluded(from), Unbounded)) {
            let (key, bytes) = entry.map_err(self.disk("read"))?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            if values.len() == limit {
                return Ok(ValuePage { values, more: true });
            }
            values.push(self.value_of(&key, &bytes)?);
        }
        Ok(ValuePage { values, more: false })
    }

    pub fn check(&self) -> Result<(), StoreError> {
        self.functions.first().map(drop).map_err(self.disk("read"))
    }

    pub fn disk(&self, step: &'static str) -> impl FnOnce(sled::Error) -> StoreError + '_ {
        move |error| StoreError::Disk { step, place: self.place.clone(), source: Arc::new(error) }
    }

    fn value_of(&self, key: &[u8], bytes: &[u8]) -> Result<StoredValue, StoreError> {
        let damaged = || StoreError::Damaged { place: self.place.clone(), what: "a value cannot be read" };
        let key = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok()).ok_or_else(damaged)?;
        let (revision, bytes) = codec::split(bytes).ok_or_else(damaged)?;
        Ok(StoredValue { key, revision, bytes: bytes.to_vec() })
    }
}

/// `folder` is named in errors; it differs from `at` while a store is being made.
fn open_database(at: &Path, folder: &Path) -> Result<Db, StoreError> {
    let started = Instant::now();
    loop {
        match sled::Config::default().path(at).cache_capacity(CACHE_BYTES).open() {
            // A database that was dropped keeps its lock until sled's own threads have let go of it.
            Err(error) if is_lock(&error) && started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) if is_lock(&error) => {
                return Err(StoreError::Locked { place: folder.display().to_string() });
            }
            opened => return opened.map_err(|error| disk("open", folder, error)),
        }
    }
}

/// sled wraps the lock's error in one of its own kind and keeps only the text.
fn is_lock(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(io) if io.to_string().contains("could not acquire lock"))
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
    StoreError::Disk { step, place: folder.display().to_string(), source: Arc::new(source) }
}
