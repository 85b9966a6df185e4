//! Values that stand as long as this process renews its lease.

use super::EtcdStore;
use super::keys::Slot;
use super::mirror::Event;
use super::revision;
use crate::store::{LARGEST_VALUE, StoreError, ValueKey};

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

/// How long after its last word a process is taken to be gone, in seconds.
const LIFE: i64 = 10;

impl EtcdStore {
    /// Renews the lease, or begins one. `false`: it is a new one, and what stood under the one before is gone.
    pub async fn renew_lease(&self) -> Result<bool, StoreError> {
        let mut lease = self.lease.lock().await;
        let members = &self.follower.members;
        if let Some(id) = *lease
            && members.renew_lease(id).await?
        {
            return Ok(true);
        }
        *lease = Some(members.begin_lease(LIFE).await?);
        Ok(false)
    }

    /// Writes a value that goes away with the lease, whatever stood there before.
    pub async fn put_leased(&self, key: &ValueKey, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() > LARGEST_VALUE {
            return Err(StoreError::TooLarge { key: key.to_string(), size: bytes.len() });
        }
        let Some(lease) = *self.lease.lock().await else {
            return Err(self.follower.members.away("there is no lease"));
        };
        let slot = Slot::Value(key.clone());
        let marker = self.follower.marker_key();
        let put =
            TxnOp::put(slot.key(&self.follower.prefix), bytes, Some(PutOptions::new().with_lease(lease)));
        let there = Compare::version(marker, CompareOp::Greater, 0);
        let txn = Txn::new().when([there]).and_then([put]).or_else([]);
        let answer = self.follower.members.txn("write", txn).await?;
        if !answer.succeeded() {
            return Err(self.follower.gone());
        }
        let revision = revision(answer.header().map_or(0, |header| header.revision()));
        self.follower.mirror.learn(&Event { slot, revision, bytes: Some(bytes.to_vec()) })
    }

    /// Takes away at once what stands under the lease.
    pub async fn end_lease(&self) -> Result<(), StoreError> {
        match self.lease.lock().await.take() {
            Some(id) => self.follower.members.end_lease(id).await,
            None => Ok(()),
        }
    }
}
