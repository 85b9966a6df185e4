//! Records in etcd, shared by several nodes; each node answers from its own mirror of them.
//!
//! - Reads and watches never leave the machine, so they go on while etcd is away; writes then fail.
//! - A write is acknowledged after etcd's majority has it on disk, and this node reads it from then on. Other nodes
//!   follow by their watch, milliseconds later.
//! - Every write is a transaction: on the condition of the key's revision, and that there still is a store. Those that
//!   wait at the same time travel together.

mod follow;
mod keys;
mod lease;
mod members;
mod mirror;
mod options;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::function::{FunctionName, FunctionRecord, NewVersion};

use super::value::{LARGEST_VALUE, StoredValue, ValueKey, ValuePage};
use super::{COMING, Change, FunctionStore, Page, Revision, StoreError, Stored, codec};
use follow::Follower;
use keys::Slot;
use members::Members;
use mirror::{Event, Mirror};

use writer::{Outcome, Refusal, Write, Writer};

pub use options::{EtcdOptions, EtcdTls, EtcdUser};

/// etcd refuses a request above 1.5 MiB, and the key and the conditions are part of it.
const LARGEST_RECORD: usize = (3 << 19) - (16 << 10);
/// How long a write waits for this node's own mirror when it cannot put the outcome there itself.
const MIRROR_LAG: Duration = Duration::from_secs(1);

/// A store in etcd with its mirror in a folder of its own, which no other process has open.
pub struct EtcdStore {
    follower: Arc<Follower>,
    writer: Writer,
    following: AbortOnDropHandle<()>,
    lease: tokio::sync::Mutex<Option<i64>>,
}

impl EtcdStore {
    /// Opens the mirror and catches up. Where etcd does not answer, a mirror that was whole once is enough.
    pub async fn open(options: &EtcdOptions, mirror: &Path) -> Result<Self, StoreError> {
        let follower = Arc::new(Follower {
            members: Arc::new(Members::new(options)?),
            mirror: Arc::new(Mirror::open(mirror)?),
            prefix: options.prefix.clone(),
            following: watch::Sender::new(false),
        });
        let prepared = follower.prepare().await;
        match prepared {
            Err(error @ StoreError::Away { .. }) if follower.mirror.origin().is_some() => {
                tracing::warn!(%error, "starting from the mirror");
            }
            prepared => prepared?,
        }
        let up = follower.following.subscribe();
        let following = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&follower).run()));
        let writer = Writer::start(Arc::clone(&follower.members), follower.marker_key());
        let store = Self { follower, writer, following, lease: tokio::sync::Mutex::default() };
        store.wait_for_the_watch(up).await;
        Ok(store)
    }

    /// Lets go of the mirror: when this returns, another process may open it. Dropping does so too, a moment later.
    pub async fn close(self) {
        self.writer.stop().await;
        self.following.abort();
        let _ = self.following.await;
    }

    /// What is written before the watch is up would be told late; `check` says so if it stays away.
    async fn wait_for_the_watch(&self, mut up: watch::Receiver<bool>) {
        let _ = tokio::time::timeout(MIRROR_LAG, up.wait_for(|up| *up)).await;
    }

    async fn swap(
        &self,
        slot: Slot,
        expected: Option<Revision>,
        bytes: Option<Vec<u8>>,
    ) -> Result<Revision, StoreError> {
        let Follower { mirror, prefix, .. } = &*self.follower;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > LARGEST_RECORD) {
            let size = bytes.map_or(0, |bytes| bytes.len());
            return Err(StoreError::TooLarge { key: slot.local().into(), size });
        }
        let write = Arc::new(Write { key: slot.key(prefix), expected, bytes });
        match self.writer.write(Arc::clone(&write)).await? {
            Outcome::Made(revision) => self.settle(slot, revision, write.bytes.clone()).await,
            Outcome::Refused(Refusal { found: Some(found), repeated, .. }) => {
                let revision = revision(found.mod_revision());
                let value = Some(found.value().to_vec());
                mirror.learn(&Event { slot: slot.clone(), revision, bytes: value })?;
                if repeated && write.bytes.as_deref() == Some(found.value()) {
                    return Ok(revision);
                }
                Err(slot.conflict())
            }
            Outcome::Refused(Refusal { found: None, at, repeated: true }) if write.bytes.is_none() => Ok(at),
            Outcome::Refused(Refusal { found: None, at, .. }) => {
                let _ = tokio::time::timeout(MIRROR_LAG, mirror.leaves(&slot, expected, at)).await;
                Err(slot.conflict())
            }
            Outcome::NoStore => Err(self.follower.gone()),
        }
    }

    /// Makes what was written readable at this node.
    async fn settle(
        &self,
        slot: Slot,
        revision: Revision,
        bytes: Option<Vec<u8>>,
    ) -> Result<Revision, StoreError> {
        let mirror = &self.follower.mirror;
        if bytes.is_some() {
            mirror.learn(&Event { slot, revision, bytes })?;
        } else {
            // A deletion cannot be put there ahead of the watch: what it tells next may still be the last write.
            let _ = tokio::time::timeout(MIRROR_LAG, mirror.reaches(revision)).await;
        }
        Ok(revision)
    }
}

/// etcd's revisions are positive.
fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

#[async_trait]
impl FunctionStore for EtcdStore {
    async fn get(&self, name: &FunctionName) -> Result<Option<Stored>, StoreError> {
        self.follower.mirror.trees.get(name)
    }

    async fn list(&self, after: Option<&FunctionName>, limit: usize) -> Result<Page, StoreError> {
        self.follower.mirror.trees.list(after, limit)
    }

    async fn create(&self, record: &FunctionRecord) -> Result<Revision, StoreError> {
        self.swap(Slot::Function(record.name.clone()), None, Some(codec::encode_bare(record)?)).await
    }

    async fn update(&self, record: &FunctionRecord, expected: Revision) -> Result<Revision, StoreError> {
        let bytes = codec::encode_bare(record)?;
        self.swap(Slot::Function(record.name.clone()), Some(expected), Some(bytes)).await
    }

    async fn delete(&self, name: &FunctionName, expected: Revision) -> Result<(), StoreError> {
        self.swap(Slot::Function(name.clone()), Some(expected), None).await.map(drop)
    }

    async fn announce(&self, name: &FunctionName, image: &NewVersion) -> Result<(), StoreError> {
        // One value for each node, gone with it: watchers are told of every write, and nobody reads it later.
        let Some(lease) = *self.lease.lock().await else { return Ok(()) };
        let bytes =
            serde_json::to_vec(&mirror::Coming { name: name.clone(), image: Box::new(image.clone()) });
        let bytes =
            bytes.map_err(|source| StoreError::Unwritable { name: name.clone(), source: source.into() })?;
        self.put_leased(&ValueKey::new(COMING, &format!("{lease:x}"))?, &bytes).await
    }

    async fn watch(&self) -> Result<BoxStream<'static, Change>, StoreError> {
        Ok(self.follower.mirror.changes())
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.follower.check().await
    }

    async fn value(&self, key: &ValueKey) -> Result<Option<StoredValue>, StoreError> {
        self.follower.mirror.trees.value(key)
    }

    async fn values(
        &self,
        kind: Option<&str>,
        after: Option<&ValueKey>,
        limit: usize,
    ) -> Result<ValuePage, StoreError> {
        self.follower.mirror.trees.values(kind, after, limit)
    }

    async fn swap_value(
        &self,
        key: &ValueKey,
        expected: Option<Revision>,
        bytes: Option<&[u8]>,
    ) -> Result<Revision, StoreError> {
        match bytes {
            Some(bytes) if bytes.len() > LARGEST_VALUE => {
                Err(StoreError::TooLarge { key: key.to_string(), size: bytes.len() })
            }
            None if expected.is_none() => Err(StoreError::ValueConflict { key: key.clone() }),
            bytes => self.swap(Slot::Value(key.clone()), expected, bytes.map(<[u8]>::to_vec)).await,
        }
    }
}
