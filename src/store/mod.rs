//! Where records are kept: [`FunctionStore`], in sled for one machine and in etcd for several.
//!
//! A store knows records and revisions and nothing else: no registry, no containers, no HTTP. Every change is a
//! compare-and-swap on the record's revision, and an acknowledged change is durable.

mod codec;
mod error;
mod etcd;
mod sled;
mod transfer;
mod trees;
mod value;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::broadcast;

use crate::function::{FunctionName, FunctionRecord, NewVersion};

pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls, EtcdUser};
pub use sled::SledStore;
pub use transfer::{TransferError, Transferred, export, import, verify};
pub use value::{LARGEST_VALUE, StoredValue, ValueKey, ValuePage};

/// How many changes a watcher may be behind before it has to list again.
const WATCH_BACKLOG: usize = 1024;

/// The kind of the values in which nodes say what they are about to record.
const COMING: &str = "coming";

/// Orders the writes of one store: every write has a higher revision than all that were acknowledged before it,
/// deletions included. Writes of different keys that were made together may have the same.
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
    /// Some node is about to record a version of this image.
    Coming {
        name: FunctionName,
        image: Box<NewVersion>,
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

    /// Lets those who watch at other nodes know that a version of this image is about to be recorded. It may be lost:
    /// nothing but time depends on it.
    async fn announce(&self, _name: &FunctionName, _image: &NewVersion) -> Result<(), StoreError> {
        Ok(())
    }

    /// Every change acknowledged from here on, in the order of revisions. Who needs the state too lists after
    /// this returns.
    async fn watch(&self) -> Result<BoxStream<'static, Change>, StoreError>;

    /// Whether the store answers: for readiness.
    async fn check(&self) -> Result<(), StoreError>;

    // Beside the records every store keeps small opaque values: sealed secrets, and whatever else the nodes share
    // that is no function. They are part of this trait and not a store of their own, so that one folder, one etcd
    // prefix, one lock, one backup and one readiness check cover them too; and opaque, so that a new kind of them
    // needs nothing here. They have no versions and no watch: who needs one reads it when it is needed.

    /// The value under a key.
    async fn value(&self, key: &ValueKey) -> Result<Option<StoredValue>, StoreError>;

    /// At most `limit` values of one kind (`None`: of all kinds) whose keys come after `after`.
    async fn values(
        &self,
        kind: Option<&str>,
        after: Option<&ValueKey>,
        limit: usize,
    ) -> Result<ValuePage, StoreError>;

    /// Writes, replaces or (with `bytes` of `None`) removes a value that must still have the `expected` revision, or
    /// not be there if that is `None`: [`StoreError::ValueConflict`] if it is otherwise. A value has at most
    /// [`LARGEST_VALUE`] bytes.
    async fn swap_value(
        &self,
        key: &ValueKey,
        expected: Option<Revision>,
        bytes: Option<&[u8]>,
    ) -> Result<Revision, StoreError>;
}

/// What is sent from here on; a watcher that falls behind is told so and goes on with the newest.
fn changes_of(sender: &broadcast::Sender<Change>) -> BoxStream<'static, Change> {
    let changes = futures_util::stream::unfold(sender.subscribe(), async |mut receiver| {
        let change = match receiver.recv().await {
            Ok(change) => change,
            Err(broadcast::error::RecvError::Lagged(_)) => Change::Missed,
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((change, receiver))
    });
    changes.boxed()
}
