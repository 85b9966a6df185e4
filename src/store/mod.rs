//! Where records are kept: [`FunctionStore`], and its implementation in sled.
//!
//! A store knows records and revisions and nothing else: no registry, no containers, no HTTP. Every change is a
//! compare-and-swap on the record's revision, and an acknowledged change is durable.

mod codec;
mod sled;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::function::{FunctionName, FunctionRecord};

pub use sled::SledStore;

/// Orders the writes of one store: every write has a higher revision than all before it, deletions included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Revision(pub u64);

/// A record and the revision that it was written with.
#[derive(Clone, PartialEq, Debug)]
pub struct Stored {
    pub revision: Revision,
    pub record: FunctionRecord,
}

/// A stretch of the records in the order of their names.
#[derive(Clone, PartialEq, Debug)]
pub struct Page {
    pub records: Vec<Stored>,
    /// Whether there are more after the last of these.
    pub more: bool,
}

/// What happened to a record.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    Written(Stored),
    Deleted {
        name: FunctionName,
        revision: Revision,
    },
    /// The watcher was too slow, or history was compacted: what it knows may be stale, and it has to list again.
    Missed,
}

/// Function records, shared by everything that reads or changes them.
#[async_trait]
pub trait FunctionStore: Send + Sync {
    async fn get(&self, name: &FunctionName) -> Result<Option<Stored>, StoreError>;

    /// At most `limit` records whose names come after `after`.
    async fn list(&self, after: Option<&FunctionName>, limit: usize) -> Result<Page, StoreError>;

    /// Writes a record that must not be there yet: [`StoreError::Conflict`] if it is.
    async fn create(&self, record: &FunctionRecord) -> Result<Revision, StoreError>;

    /// Replaces a record that must still have the `expected` revision: [`StoreError::Conflict`] if it has not.
    async fn update(&self, record: &FunctionRecord, expected: Revision) -> Result<Revision, StoreError>;

    /// Removes a record that must still have the `expected` revision: [`StoreError::Conflict`] if it has not.
    async fn delete(&self, name: &FunctionName, expected: Revision) -> Result<(), StoreError>;

    /// Every change acknowledged from here on, in the order of revisions. Who needs the state too lists after
    /// this returns.
    async fn watch(&self) -> Result<BoxStream<'static, Change>, StoreError>;

    /// Whether the store answers: for readiness.
    async fn check(&self) -> Result<(), StoreError>;
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the record of {name} was changed by someone else in the meantime")]
    Conflict { name: FunctionName },
    #[error("the record store at {place} is in use by another process")]
    Locked { place: String },
    #[error("there is no record store at {place}, although this data folder has had one")]
    Gone { place: String },
    #[error("the record store at {place} is damaged: {what}")]
    Damaged { place: String, what: &'static str },
    #[error(
        "the record store at {place} has format {found}; this fnbuild reads formats up to {}",
        codec::STORE_FORMAT
    )]
    NewerStore { place: String, found: u32 },
    #[error(
        "the record of {key} has format {found}; this fnbuild reads formats up to {}",
        crate::function::FORMAT
    )]
    NewerRecord { key: String, found: u32 },
    #[error("the record of {key} cannot be read")]
    Unreadable {
        key: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot write down the record of {name}")]
    Unwritable {
        name: FunctionName,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot {step} the record store at {place}")]
    Disk {
        step: &'static str,
        place: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the task that makes writes durable ended early")]
    Interrupted,
}

impl StoreError {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { .. } => {
                Some("stop the other fnbuild serve, or give this one its own --data-dir".into())
            }
            Self::Gone { .. } | Self::Damaged { .. } | Self::Unreadable { .. } => {
                Some("restore the data folder from a backup; nothing was changed in it".into())
            }
            Self::NewerStore { .. } | Self::NewerRecord { .. } => {
                Some("run the newer fnbuild that wrote it".into())
            }
            Self::Conflict { .. } => Some("try again".into()),
            Self::Unwritable { .. } | Self::Disk { .. } | Self::Interrupted => None,
        }
    }
}
