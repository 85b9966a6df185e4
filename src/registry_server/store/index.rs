//! What is stored and who may serve it: the whole of it in memory, in few bytes per blob.
//!
//! Built from the journal at start. Only [`Index::apply`] and [`Index::condemn`] change it, so that replaying the
//! journal gives what the running registry had. No disk, no clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use indexmap::IndexMap;

use super::record::{ManifestRecord, Record, Seconds};
use crate::oci::{Algorithm, Digest, Repository, Tag};

/// A blob's number: its place in [`Index::blobs`]. Stable for the life of the process.
type Id = u32;

/// A digest in as few bytes as it has: hundreds of thousands of them are kept.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Sha256([u8; 32]),
    Sha512(Box<[u8; 64]>),
}

impl Key {
    fn of(digest: &Digest) -> Self {
        let nibble = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b.wrapping_sub(b'a') + 10 };
        let bytes =
            digest.hex().as_bytes().chunks_exact(2).map(|pair| (nibble(pair[0]) << 4) | nibble(pair[1]));
        match digest.algorithm() {
            Algorithm::Sha256 => {
                let mut key = [0; 32];
                key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                Self::Sha256(key)
            }
            Algorithm::Sha512 => {
                let mut key = Box::new([0; 64]);
                key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
                Self::Sha512(key)
            }
        }
    }

    fn digest(&self) -> Digest {
        let (name, bytes): (_, &[u8]) = match self {
            Self::Sha256(bytes) => ("sha256:", bytes),
            Self::Sha512(bytes) => ("sha512:", &bytes[..]),
        };
        let mut text = String::with_capacity(name.len() + 2 * bytes.len());
        text.push_str(name);
        for byte in bytes {
            text.extend([byte >> 4, byte & 15].map(|n| char::from_digit(n.into(), 16).unwrap_or('0')));
        }
        text.parse().expect("a key is made from a digest")
    }
}

#[derive(Default)]
struct Blob {
    /// Bytes; `None` for one that is only named, as a layer that was never pushed or a subject to come.
    size: Option<u64>,
    /// When somebody was last told that this blob need not be uploaded.
    promised: AtomicU32,
}

struct Manifest {
    media_type: Arc<str>,
    references: Box<[Id]>,
    subject: Option<Id>,
    /// When it was pushed, or lost its last tag: what its age is counted from.
    since: Seconds,
}

#[derive(Default)]
struct Holdings {
    /// Sorted.
    blobs: Vec<Id>,
    manifests: HashMap<Id, Manifest>,
    tags: BTreeMap<Box<str>, Id>,
    /// Subject → the manifests that name it.
    referrers: HashMap<Id, Vec<Id>>,
}

impl Holdings {
    fn forget(&mut self, id: Id) {
        let Some(manifest) = self.manifests.remove(&id) else { return };
        self.tags.retain(|_, target| *target != id);
        let Some(subject) = manifest.subject else { return };
        if let Some(referrers) = self.referrers.get_mut(&subject) {
            referrers.retain(|referrer| *referrer != id);
            if referrers.is_empty() {
                self.referrers.remove(&subject);
            }
        }
    }
}

/// A manifest as a repository serves it.
#[derive(Clone, Debug)]
pub struct Found {
    pub digest: Digest,
    pub size: u64,
    pub media_type: Arc<str>,
}

/// How much there is: for `/metrics`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    pub repositories: usize,
    pub blobs: usize,
    pub bytes: u64,
}

#[derive(Default)]
pub struct Index {
    blobs: IndexMap<Key, Blob>,
    repositories: BTreeMap<Box<str>, Holdings>,
    media_types: HashSet<Arc<str>>,
}

impl Index {
    fn intern(&mut self, digest: &Digest) -> Id {
        let entry = self.blobs.entry(Key::of(digest));
        let index = entry.index();
        entry.or_default();
        Id::try_from(index).expect("fewer than 2^32 blobs")
    }

    fn id(&self, digest: &Digest) -> Option<Id> {
        self.blobs.get_index_of(&Key::of(digest)).and_then(|index| Id::try_from(index).ok())
    }

    fn blob(&self, id: Id) -> Option<(&Key, &Blob)> {
        self.blobs.get_index(id as usize)
    }

    fn stored(&self, id: Id, promised: Option<Seconds>) -> Option<u64> {
        let (_, blob) = self.blob(id)?;
        if let Some(at) = promised {
            blob.promised.fetch_max(at, Ordering::Relaxed);
        }
        blob.size
    }

    fn store(&mut self, digest: &Digest, size: u64) -> Id {
        let id = self.intern(digest);
        if let Some((_, blob)) = self.blobs.get_index_mut(id as usize) {
            blob.size = Some(size);
        }
        id
    }

    fn holdings(&mut self, repository: &Repository) -> &mut Holdings {
        self.repositories.entry(repository.as_str().into()).or_default()
    }

    fn media_type(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.media_types.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.media_types.insert(new.clone());
        new
    }

    /// Takes a change that is durable.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Blob { repository, digest, size } => {
                let id = self.store(digest, *size);
                let blobs = &mut self.holdings(repository).blobs;
                if let Err(place) = blobs.binary_search(&id) {
                    blobs.insert(place, id);
                }
            }
            Record::Manifest(record) => self.apply_manifest(record),
            Record::Untag { repository, tag, at } => {
                let holdings = self.holdings(repository);
                if let Some(id) = holdings.tags.remove(tag.as_str()) {
                    lost_a_tag(holdings, id, *at);
                }
            }
            Record::Forget { repository, digest } => {
                if let Some(id) = self.id(digest) {
                    self.holdings(repository).forget(id);
                }
            }
            Record::Unlink { repository, digest } => {
                if let Some(id) = self.id(digest) {
                    self.holdings(repository).blobs.retain(|held| *held != id);
                }
            }
            Record::Gone { digest } => self.condemn(std::slice::from_ref(digest)),
        }
    }

    fn apply_manifest(&mut self, record: &ManifestRecord) {
        let id = self.store(&record.digest, record.size);
        let references = record.references.iter().map(|digest| self.intern(digest)).collect();
        let subject = record.subject.as_ref().map(|digest| self.intern(digest));
        let media_type = self.media_type(&record.media_type);
        let holdings = self.holdings(&record.repository);
        holdings.manifests.insert(id, Manifest { media_type, references, subject, since: record.at });
        if let Some(subject) = subject {
            let referrers = holdings.referrers.entry(subject).or_default();
            if !referrers.contains(&id) {
                referrers.push(id);
            }
        }
        for tag in &record.tags {
            if let Some(before) = holdings.tags.insert(tag.as_str().into(), id).filter(|before| *before != id)
            {
                lost_a_tag(holdings, before, record.at);
            }
        }
    }

    /// From here on nobody is told that these blobs are there, whatever becomes of their bytes.
    pub fn condemn(&mut self, digests: &[Digest]) {
        let ids: HashSet<Id> = digests.iter().filter_map(|digest| self.id(digest)).collect();
        for id in &ids {
            if let Some((_, blob)) = self.blobs.get_index_mut(*id as usize) {
                blob.size = None;
            }
        }
        for holdings in self.repositories.values_mut() {
            holdings.blobs.retain(|id| !ids.contains(id));
        }
    }

    /// The size of a blob that the repository may serve. With `promise`, the caller will tell a client that it need not
    /// upload it: the time is noted in the same breath, so that the collector cannot come between.
    pub fn blob_in(&self, repository: &Repository, digest: &Digest, promise: Option<Seconds>) -> Option<u64> {
        let id = self.id(digest)?;
        let holdings = self.repositories.get(repository.as_str())?;
        let held = holdings.blobs.binary_search(&id).is_ok();
        if held { self.stored(id, promise) } else { None }
    }

    /// The size of a blob that any repository may serve; a promise as in [`Index::blob_in`].
    pub fn blob_anywhere(&self, digest: &Digest, promise: Option<Seconds>) -> Option<u64> {
        let id = self.id(digest)?;
        self.repositories
            .values()
            .any(|holdings| holdings.blobs.binary_search(&id).is_ok())
            .then(|| self.stored(id, promise))?
    }

    /// Whether a manifest of this repository may refer to it: a blob or a manifest that it serves.
    pub fn holds(&self, repository: &Repository, digest: &Digest) -> bool {
        let known = || {
            let id = self.id(digest)?;
            let holdings = self.repositories.get(repository.as_str())?;
            let held = holdings.manifests.contains_key(&id) || holdings.blobs.binary_search(&id).is_ok();
            (held && self.stored(id, None).is_some()).then_some(())
        };
        known().is_some()
    }

    pub fn knows_repository(&self, repository: &Repository) -> bool {
        self.repositories.contains_key(repository.as_str())
    }

    fn found(&self, holdings: &Holdings, id: Id) -> Option<Found> {
        let manifest = holdings.manifests.get(&id)?;
        let (key, blob) = self.blob(id)?;
        Some(Found { digest: key.digest(), size: blob.size?, media_type: manifest.media_type.clone() })
    }

    pub fn manifest(&self, repository: &Repository, digest: &Digest) -> Option<Found> {
        self.found(self.repositories.get(repository.as_str())?, self.id(digest)?)
    }

    pub fn tagged(&self, repository: &Repository, tag: &Tag) -> Option<Found> {
        let holdings = self.repositories.get(repository.as_str())?;
        self.found(holdings, *holdings.tags.get(tag.as_str())?)
    }

    /// Up to `limit` tags behind `last`, in ASCII order. `None` for a repository that is not known.
    pub fn tags(&self, repository: &Repository, last: &str, limit: usize) -> Option<Vec<String>> {
        let holdings = self.repositories.get(repository.as_str())?;
        Some(behind(&holdings.tags, last).map(|(tag, _)| tag.to_string()).take(limit).collect())
    }

    /// Up to `limit` repositories behind `last` that serve a manifest, in ASCII order.
    pub fn catalog(&self, last: &str, limit: usize) -> Vec<String> {
        behind(&self.repositories, last)
            .filter(|(_, holdings)| !holdings.manifests.is_empty())
            .map(|(name, _)| name.to_string())
            .take(limit)
            .collect()
    }

    /// The manifests whose `subject` is this digest, ordered by digest.
    pub fn referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Found> {
        let found = || {
            let holdings = self.repositories.get(repository.as_str())?;
            let ids = holdings.referrers.get(&self.id(subject)?)?;
            Some(ids.iter().filter_map(|id| self.found(holdings, *id)).collect::<Vec<_>>())
        };
        let mut referrers = found().unwrap_or_default();
        referrers.sort_by(|a, b| a.digest.cmp(&b.digest));
        referrers
    }

    /// Every stored blob that no manifest keeps and nobody was told of since `before`.
    /// `ignoring` counts as if it were gone.
    pub fn unreferenced(
        &self,
        before: Seconds,
        ignoring: &HashSet<(Repository, Digest)>,
    ) -> Vec<(Digest, u64)> {
        let mut kept = vec![false; self.blobs.len()];
        let mut keep = |id: Id| {
            if let Some(mark) = kept.get_mut(id as usize) {
                *mark = true;
            }
        };
        for (name, holdings) in &self.repositories {
            for (id, manifest) in &holdings.manifests {
                if self.is_among(ignoring, name, *id) {
                    continue;
                }
                keep(*id);
                manifest.references.iter().copied().for_each(&mut keep);
            }
        }
        self.blobs
            .iter()
            .zip(kept)
            .filter(|((_, blob), kept)| !kept && blob.promised.load(Ordering::Relaxed) <= before)
            .filter_map(|((key, blob), _)| Some((key.digest(), blob.size?)))
            .collect()
    }

    fn is_among(&self, manifests: &HashSet<(Repository, Digest)>, name: &str, id: Id) -> bool {
        let named = || Some((name.parse().ok()?, self.blob(id)?.0.digest()));
        !manifests.is_empty() && named().is_some_and(|manifest| manifests.contains(&manifest))
    }

    /// [`Index::condemn`]s those of `digests` that are still [`Index::unreferenced`], and says which.
    pub fn condemn_unreferenced(&mut self, digests: &[Digest], before: Seconds) -> Vec<(Digest, u64)> {
        let mut found = self.unreferenced(before, &HashSet::new());
        let wanted: HashSet<&Digest> = digests.iter().collect();
        found.retain(|(digest, _)| wanted.contains(digest));
        self.condemn(&found.iter().map(|(digest, _)| digest.clone()).collect::<Vec<_>>());
        found
    }

    /// Manifests that have had no tag since `before`, and that no tagged or younger one leads to: as a child of its
    /// index, or as a referrer of it.
    pub fn untagged(&self, before: Seconds) -> Vec<(Repository, Digest)> {
        let mut found = Vec::new();
        for (name, holdings) in &self.repositories {
            let mut kept: HashSet<Id> = holdings.tags.values().copied().collect();
            kept.extend(holdings.manifests.iter().filter(|(_, m)| m.since > before).map(|(id, _)| *id));
            let mut queue: Vec<Id> = kept.iter().copied().collect();
            while let Some(id) = queue.pop() {
                let children = holdings.manifests.get(&id).map(|m| &m.references[..]).unwrap_or_default();
                let referrers = holdings.referrers.get(&id).map(Vec::as_slice).unwrap_or_default();
                for next in children.iter().chain(referrers) {
                    if holdings.manifests.contains_key(next) && kept.insert(*next) {
                        queue.push(*next);
                    }
                }
            }
            let Ok(repository) = name.parse::<Repository>() else { continue };
            let old = holdings.manifests.keys().filter(|id| !kept.contains(id));
            let digests = old.filter_map(|id| self.blob(*id)).map(|(key, _)| key.digest());
            found.extend(digests.map(|digest| (repository.clone(), digest)));
        }
        found.sort();
        found
    }

    /// Whether the bytes should be on disk.
    pub fn has(&self, digest: &Digest) -> bool {
        self.size(digest).is_some()
    }

    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.id(digest).and_then(|id| self.stored(id, None))
    }

    pub fn totals(&self) -> Totals {
        let sizes = self.blobs.values().filter_map(|blob| blob.size);
        let (blobs, bytes) = sizes.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        Totals { repositories: self.repositories.len(), blobs, bytes }
    }

    /// The records that lead to up to `count` repositories behind `last`, and the name of the last one of them. `None`
    /// behind the last repository.
    pub fn records_behind(&self, last: &str, count: usize) -> Option<(Vec<Record>, String)> {
        let mut records = Vec::new();
        let mut reached = None;
        for (name, holdings) in behind(&self.repositories, last).take(count) {
            reached = Some(name.to_string());
            if let Ok(repository) = name.parse() {
                self.records_of(&repository, holdings, &mut records);
            }
        }
        reached.map(|name| (records, name))
    }

    fn records_of(&self, repository: &Repository, holdings: &Holdings, records: &mut Vec<Record>) {
        for (key, blob) in holdings.blobs.iter().filter_map(|id| self.blob(*id)) {
            let Some(size) = blob.size else { continue };
            records.push(Record::Blob { repository: repository.clone(), digest: key.digest(), size });
        }
        let digest = |id: &Id| self.blob(*id).map(|(key, _)| key.digest());
        for (id, manifest) in &holdings.manifests {
            let Some((key, Blob { size: Some(size), .. })) = self.blob(*id) else { continue };
            let tags = holdings.tags.iter().filter(|(_, target)| *target == id);
            records.push(Record::Manifest(ManifestRecord {
                repository: repository.clone(),
                digest: key.digest(),
                size: *size,
                media_type: manifest.media_type.to_string(),
                tags: tags.filter_map(|(tag, _)| tag.parse().ok()).collect(),
                references: manifest.references.iter().filter_map(digest).collect(),
                subject: manifest.subject.as_ref().and_then(digest),
                at: manifest.since,
            }));
        }
    }
}

fn lost_a_tag(holdings: &mut Holdings, id: Id, at: Seconds) {
    if let Some(manifest) = holdings.manifests.get_mut(&id) {
        manifest.since = at;
    }
}

fn behind<'a, V>(map: &'a BTreeMap<Box<str>, V>, last: &str) -> impl Iterator<Item = (&'a Box<str>, &'a V)> {
    map.range::<str, _>((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded))
}
