//! Keeps the mirror up with etcd: makes a first copy, then watches, and begins again where that breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, EventType, GetOptions, ResponseHeader, Txn, TxnOp, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::keys::{Range, Slot, end_of};
use super::members::Members;
use super::mirror::{Event, Mirror, Origin};
use super::revision;
use crate::store::codec::STORE_FORMAT;
use crate::store::{Revision, StoreError};

const PAGE: i64 = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What stands under `PREFIXstore`: that there is a store here, and which.
#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    id: String,
}

pub struct Follower {
    pub members: Arc<Members>,
    pub mirror: Arc<Mirror>,
    pub prefix: String,
    /// Whether the watch is up.
    pub following: watch::Sender<bool>,
}

/// What etcd says of itself with an answer.
struct Place {
    origin: Origin,
    revision: Revision,
}

impl Follower {
    /// Until it is aborted.
    pub async fn run(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = self.follow().await;
            if self.following.send_replace(false) {
                pause = FIRST_PAUSE;
                self.members.rotate();
            }
            match ended {
                Ok(reason) => tracing::info!(reason, "the watch of etcd ended, beginning again"),
                Err(error) => tracing::warn!(%error, "etcd cannot be followed: serving what is known"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// That etcd holds the store that the mirror is of, and a whole copy where there is none or etcd's history does not
    /// lead on from it.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let found = self.verify().await?;
        let same = self.mirror.origin().is_some_and(|known| known == found.origin);
        if !same || self.mirror.applied() > found.revision {
            self.copy().await?;
        }
        Ok(())
    }

    /// That etcd answers, and holds the store that the mirror is of.
    pub async fn check(&self) -> Result<(), StoreError> {
        let answer = self.members.glance(&self.marker_key()).await?;
        self.place(answer.header(), answer.kvs().first().map(|kv| kv.value()))?;
        if *self.following.borrow() {
            Ok(())
        } else {
            Err(self.members.away("its changes are not being followed"))
        }
    }

    /// The value that stands under `PREFIXstore`; every write is on the condition that it still does.
    pub fn marker_key(&self) -> String {
        format!("{}store", self.prefix)
    }

    async fn follow(&self) -> Result<&'static str, StoreError> {
        self.prepare().await?;
        let start = i64::try_from(self.mirror.applied().0).unwrap_or(i64::MAX).saturating_add(1);
        let options = WatchOptions::new()
            .with_range(end_of(&self.prefix))
            .with_start_revision(start)
            .with_progress_notify();
        let mut stream = self.members.watch(&self.prefix, options).await?;
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok("the member closed it"),
                Err(error) => return Err(self.members.away(error)),
            };
            if message.compact_revision() > 0 {
                self.copy().await?;
                return Ok("history was compacted, a new copy is made");
            }
            if message.canceled() {
                return Ok("the member cancelled it");
            }
            if message.created() {
                self.following.send_replace(true);
            } else if message.events().is_empty() {
                self.mirror.progress(revision(message.header().map_or(0, ResponseHeader::revision)))?;
            } else {
                self.apply(message.events())?;
            }
        }
    }

    fn apply(&self, events: &[etcd_client::Event]) -> Result<(), StoreError> {
        let ours = events.iter().filter_map(|event| {
            let kv = event.kv()?;
            let slot = Slot::of(&self.prefix, kv.key())?;
            let bytes = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
            Some(Event { slot, revision: revision(kv.mod_revision()), bytes })
        });
        self.mirror.apply(ours.collect())
    }

    /// Makes the mirror equal to what etcd holds at one revision.
    async fn copy(&self) -> Result<(), StoreError> {
        let place = self.verify().await?;
        for range in [Range::Functions, Range::Values] {
            self.copy_range(range, place.revision).await?;
        }
        self.mirror.replaced(place.origin, place.revision)
    }

    async fn copy_range(&self, range: Range, at: Revision) -> Result<(), StoreError> {
        let prefix = range.prefix(&self.prefix);
        let mut after = String::new();
        loop {
            let options = GetOptions::new()
                .with_range(end_of(&prefix))
                .with_revision(i64::try_from(at.0).unwrap_or(0))
                .with_limit(PAGE);
            // The key after `after` begins with its bytes and a zero; at the very beginning that skips nothing.
            let answer = self.members.get(&format!("{prefix}{after}\0"), options).await?;
            let mut listed = BTreeMap::new();
            for kv in answer.kvs() {
                match Slot::of(&self.prefix, kv.key()) {
                    Some(slot) => {
                        listed
                            .insert(slot.local().into(), (revision(kv.mod_revision()), kv.value().to_vec()));
                    }
                    None => tracing::warn!(key = %String::from_utf8_lossy(kv.key()), "a foreign key in etcd"),
                }
            }
            self.mirror.replace(range, &after, &listed, !answer.more())?;
            let last = answer.kvs().last().and_then(|kv| std::str::from_utf8(kv.key()).ok());
            match last.and_then(|key| key.strip_prefix(&prefix)) {
                Some(last) if answer.more() => after = last.into(),
                _ => return Ok(()),
            }
        }
    }

    /// Which store etcd holds; a new one is made only where this node never knew one.
    async fn verify(&self) -> Result<Place, StoreError> {
        let answer = self.members.get(&self.marker_key(), GetOptions::new()).await?;
        if let Some(kv) = answer.kvs().first() {
            return self.place(answer.header(), Some(kv.value()));
        }
        if let Some(known) = self.mirror.origin() {
            return Err(self.other("none", known));
        }
        let id = format!("{:016x}", getrandom::u64().map_err(|error| self.members.away(error))?);
        let marker = serde_json::to_vec(&Marker { format: STORE_FORMAT, id }).unwrap_or_default();
        let absent = Compare::version(self.marker_key(), CompareOp::Equal, 0);
        let txn =
            Txn::new().when([absent]).and_then([TxnOp::put(self.marker_key(), marker, None)]).or_else([]);
        self.members.txn("make a store", txn).await?;
        // Whoever of several nodes came first: all take what stands there.
        let answer = self.members.get(&self.marker_key(), GetOptions::new()).await?;
        self.place(answer.header(), answer.kvs().first().map(|kv| kv.value()))
    }

    fn place(&self, header: Option<&ResponseHeader>, marker: Option<&[u8]>) -> Result<Place, StoreError> {
        let Some(marker) = marker else { return Err(self.gone()) };
        let marker: Marker =
            serde_json::from_slice(marker).map_err(|_| self.damaged("its marker cannot be read"))?;
        if marker.format > STORE_FORMAT {
            let place = self.members.place().into();
            return Err(StoreError::NewerStore { place, found: marker.format });
        }
        if let Some(known) = self.mirror.origin().filter(|known| known.store != marker.id) {
            return Err(self.other(&marker.id, known));
        }
        let (cluster, at) = header.map_or((0, 0), |header| (header.cluster_id(), header.revision()));
        Ok(Place { origin: Origin { store: marker.id, cluster }, revision: revision(at) })
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        StoreError::Damaged { place: self.members.place().into(), what }
    }

    /// For who finds that no store is there any more.
    pub fn gone(&self) -> StoreError {
        match self.mirror.origin() {
            Some(known) => self.other("none", known),
            None => self.damaged("its marker is gone"),
        }
    }

    fn other(&self, found: &str, known: Origin) -> StoreError {
        StoreError::OtherStore {
            place: self.members.place().into(),
            found: found.into(),
            mirror: self.mirror.trees.place.clone(),
            known: known.store,
        }
    }
}
