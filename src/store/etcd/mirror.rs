//! A node's own copy, in sled, of what etcd holds: what reads and watchers are served from.
//!
//! - Revisions are etcd's. The copy is whole up to `applied`; single writes of this node's own may be ahead of it.
//! - Nothing is flushed for its own sake: what a crash loses, etcd tells again. The position is written after what it
//!   speaks of, and sled recovers a prefix of what was written.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use sled::Tree;
use tokio::sync::{broadcast, watch};

use super::keys::{Range, Slot};
use crate::function::{FunctionName, NewVersion};
use crate::store::trees::Trees;
use crate::store::{COMING, Change, Revision, StoreError, WATCH_BACKLOG, changes_of, codec};

const POSITION: &str = "mirror-position";
const ORIGIN: &str = "mirror-origin";

pub struct Mirror {
    pub trees: Trees,
    /// Held while anything is written.
    origin: Mutex<Option<Origin>>,
    applied: watch::Sender<Revision>,
    changes: broadcast::Sender<Change>,
}

/// What this is a copy of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Chosen when the store was made; a restored snapshot keeps it.
    pub store: String,
    /// etcd's own; a restored snapshot gets another, and its revisions may begin again lower.
    pub cluster: u64,
}

/// Something that etcd says of a key; `bytes` of `None`: it is deleted.
pub struct Event {
    pub slot: Slot,
    pub revision: Revision,
    pub bytes: Option<Vec<u8>>,
}

/// What stands in a value of the kind `coming`.
#[derive(Serialize, Deserialize)]
pub struct Coming {
    pub name: FunctionName,
    pub image: Box<NewVersion>,
}

impl Mirror {
    /// Opens the copy, or begins an empty one.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        if !folder.exists() {
            Trees::create(folder)?;
        }
        let trees = Trees::open(folder)?;
        let place = trees.place.clone();
        let damaged = || StoreError::Damaged { place, what: "it does not say what it is a copy of" };
        let origin = trees.db.get(ORIGIN).map_err(trees.disk("read"))?;
        let origin = origin.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| damaged())).transpose()?;
        let position = trees.db.get(POSITION).map_err(trees.disk("read"))?;
        let position = position.and_then(|bytes| codec::revision(&bytes)).unwrap_or(Revision(0));
        let changes = broadcast::channel(WATCH_BACKLOG).0;
        Ok(Self { trees, origin: Mutex::new(origin), applied: watch::Sender::new(position), changes })
    }

    /// `None` until a first whole copy was made.
    pub fn origin(&self) -> Option<Origin> {
        self.lock().clone()
    }

    /// Up to where the copy is whole.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    pub fn changes(&self) -> BoxStream<'static, Change> {
        changes_of(&self.changes)
    }

    /// Takes over what the watch tells: all of some revisions, in their order.
    pub fn apply(&self, events: Vec<Event>) -> Result<(), StoreError> {
        let Some(newest) = events.iter().map(|event| event.revision).max() else { return Ok(()) };
        let guard = self.lock();
        for event in &events {
            let known = self.revision_of(&event.slot)?;
            if known.is_none_or(|known| known < event.revision) {
                self.put(event)?;
            }
        }
        self.advance(newest)?;
        drop(guard);
        for change in events.into_iter().filter_map(change_of) {
            // Nobody watching is no error.
            let _ = self.changes.send(change);
        }
        Ok(())
    }

    /// Takes over a single thing ahead of the watch: what this node wrote itself, or was refused because of. The watch
    /// will tell it too, and only then are watchers told.
    pub fn learn(&self, event: &Event) -> Result<(), StoreError> {
        let _guard = self.lock();
        let known = self.revision_of(&event.slot)?;
        // What the watch has already gone past may have been deleted since.
        if self.applied() < event.revision && known.is_none_or(|known| known < event.revision) {
            self.put(event)?;
        }
        Ok(())
    }

    /// Nothing of the kind happened to our keys up to `revision`.
    pub fn progress(&self, revision: Revision) -> Result<(), StoreError> {
        let _guard = self.lock();
        if self.applied() < revision { self.advance(revision) } else { Ok(()) }
    }

    /// Makes one stretch of the copy equal to a listing: what lies after `after`, up to the listing's last key or, where
    /// that is the `end`, to the end.
    pub fn replace(
        &self,
        range: Range,
        after: &str,
        listed: &BTreeMap<String, (Revision, Vec<u8>)>,
        end: bool,
    ) -> Result<(), StoreError> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let tree = self.tree(range);
        let last = listed.keys().next_back().map(String::as_bytes);
        let to = match (end, last) {
            (true, _) => Unbounded,
            (false, Some(last)) => Included(last),
            (false, None) => return Ok(()),
        };
        let _guard = self.lock();
        let mut stale = Vec::new();
        for entry in tree.range::<&[u8], _>((Excluded(after.as_bytes()), to)) {
            let (key, _) = entry.map_err(self.trees.disk("read"))?;
            if std::str::from_utf8(&key).ok().is_none_or(|key| !listed.contains_key(key)) {
                stale.push(key);
            }
        }
        for key in stale {
            tree.remove(key).map_err(self.trees.disk("write to"))?;
        }
        for (key, (revision, bytes)) in listed {
            let known = tree.get(key).map_err(self.trees.disk("read"))?;
            if known.as_deref().and_then(codec::revision) != Some(*revision) {
                tree.insert(key.as_str(), codec::join(*revision, bytes))
                    .map_err(self.trees.disk("write to"))?;
            }
        }
        Ok(())
    }

    /// After all of a listing: the copy is whole at `revision`. Watchers have to list again.
    pub fn replaced(&self, origin: Origin, revision: Revision) -> Result<(), StoreError> {
        let mut guard = self.lock();
        let bytes = serde_json::to_vec(&origin).unwrap_or_default();
        self.trees.db.insert(ORIGIN, bytes).map_err(self.trees.disk("write to"))?;
        *guard = Some(origin);
        self.advance(revision)?;
        drop(guard);
        let _ = self.changes.send(Change::Missed);
        Ok(())
    }

    /// Returns when the key is no longer at `revision`, or the copy is whole up to `until`.
    pub async fn leaves(&self, slot: &Slot, revision: Option<Revision>, until: Revision) {
        let mut applied = self.applied.subscribe();
        let gone = |applied: &Revision| {
            *applied >= until || !matches!(self.revision_of(slot), Ok(found) if found == revision)
        };
        // The sender lives as long as `self`: there is no error.
        let _ = applied.wait_for(gone).await;
    }

    /// Returns when the copy is whole up to `revision`.
    pub async fn reaches(&self, revision: Revision) {
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= revision).await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Origin>> {
        // Each write under the lock stands for itself, so a panic elsewhere is no reason to stop.
        self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self, range: Range) -> &Tree {
        match range {
            Range::Functions => &self.trees.functions,
            Range::Values => &self.trees.values,
        }
    }

    fn revision_of(&self, slot: &Slot) -> Result<Option<Revision>, StoreError> {
        let found = self.tree(slot.range()).get(slot.local()).map_err(self.trees.disk("read"))?;
        Ok(found.as_deref().and_then(codec::revision))
    }

    fn put(&self, event: &Event) -> Result<(), StoreError> {
        let tree = self.tree(event.slot.range());
        let key = event.slot.local();
        match &event.bytes {
            Some(bytes) => tree.insert(key, codec::join(event.revision, bytes)),
            None => tree.remove(key),
        }
        .map(drop)
        .map_err(self.trees.disk("write to"))
    }

    fn advance(&self, to: Revision) -> Result<(), StoreError> {
        self.trees.db.insert(POSITION, &to.0.to_be_bytes()).map_err(self.trees.disk("write to"))?;
        self.applied.send_replace(to);
        Ok(())
    }
}

fn change_of(event: Event) -> Option<Change> {
    let name = match event.slot {
        Slot::Function(name) => name,
        // One that another release of fnbuild wrote and this one cannot read is no loss.
        Slot::Value(key) if key.kind() == COMING => {
            let Coming { name, image } = serde_json::from_slice(&event.bytes?).ok()?;
            return Some(Change::Coming { name, image });
        }
        Slot::Value(_) => return None,
    };
    let Some(bytes) = event.bytes else {
        return Some(Change::Deleted { name, revision: event.revision });
    };
    match codec::decode(name.as_str().as_bytes(), &codec::join(event.revision, &bytes)) {
        Ok(stored) => Some(Change::Written(stored)),
        Err(error) => {
            // Written by a newer fnbuild, for example: who lists again is told the error.
            tracing::error!(%name, %error, "a record from etcd cannot be read");
            Some(Change::Missed)
        }
    }
}
