//! The registry on disk: an OCI image layout's blobs, once for all repositories, and a journal of who may serve them.
//!
//! ```text
//! ROOT/oci-layout, blobs/sha256/HEX, blobs/sha512/HEX   every blob and manifest, once
//! ROOT/index.json                                       every tag, for other tools: see [`layout`]
//! ROOT/journal/N.log, N.snap                            repositories, tags, manifests: see [`journal`]
//! ROOT/uploads/…                                        what is not complete
//! ROOT/lock                                             held by the one process that may write
//! ```
//!
//! The order that makes `kill -9` harmless: bytes into `uploads`, verified, synced, renamed into `blobs`, then the
//! journal's record, then the answer. Whatever is lost before the record was never promised; a file without a record is
//! swept by [`collect`]. Small blobs are synced by their record alone.
//!
//! Against the collector: whoever changes what is kept holds the gate for reading from its first check to its answer;
//! the collector holds it for writing while it removes. A client that only asked whether a blob is there is covered by
//! the time of that promise, kept in the index and as the file's modification time.

mod collect;
mod index;
mod journal;
mod layout;
mod record;
mod upload;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;

pub use collect::{Policy, Report};
pub use index::{Found, Index, Totals};
pub use record::{ManifestRecord, Record, now};
pub use upload::{Received, Upload, UploadId, Uploads};

use crate::oci::{Algorithm, Digest, Repository, Tag};
use journal::Journal;

/// Blobs up to this size are held in memory while they arrive and made durable by the journal.
pub const SMALL: usize = 128 << 10;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{step} {}", path.display())]
    Io { step: &'static str, path: PathBuf, source: io::Error },
    #[error("write the registry's journal")]
    Journal { source: io::Error },
    #[error("start the journal's thread")]
    Thread { source: io::Error },
    #[error("the registry is stopping")]
    Stopped,
    #[error("the journal {} is damaged at byte {offset}", path.display())]
    Damaged { path: PathBuf, offset: u64 },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("the content's digest is {actual}, not {expected}")]
    Mismatch { expected: Digest, actual: Digest },
    #[error("no such upload")]
    UnknownUpload,
    #[error("another request is writing to this upload")]
    BusyUpload,
    #[error("receive the upload")]
    Interrupted { source: io::Error },
    #[error("the declared length does not match what was sent")]
    WrongLength,
}

impl StoreError {
    pub(super) fn io(step: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { step, path: path.into(), source }
    }

    /// Whether the disk or a quota is full.
    pub fn is_full(&self) -> bool {
        let (Self::Io { source, .. } | Self::Journal { source }) = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// The open registry. One process at a time.
pub struct Store {
    root: PathBuf,
    index: Arc<RwLock<Index>>,
    journal: Journal,
    uploads: Uploads,
    gate: Arc<tokio::sync::RwLock<()>>,
    /// Locked as long as it is open.
    _lock: File,
}

impl Store {
    /// Opens or creates the registry at `root`. Reads the journal: blocking.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for folder in ["blobs/sha256", "blobs/sha512", "uploads"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(|source| StoreError::io("create", &path, source))?;
        }
        let lock = lock(root)?;
        let layout = root.join("oci-layout");
        fs::write(&layout, "{\"imageLayoutVersion\":\"1.0.0\"}")
            .map_err(|source| StoreError::io("write", &layout, source))?;
        let folder = root.join("journal");
        let replayed = journal::replay(&folder)?;
        restore(root, &replayed)?;
        let next = replayed.next;
        let index = Arc::new(RwLock::new(replayed.index));
        if replayed.uncovered {
            journal::take_snapshot(&folder, next - 1, &index)
                .map_err(|source| StoreError::io("write a snapshot in", &folder, source))?;
        }
        let journal = Journal::start(folder, next, index.clone())?;
        let uploads = Uploads::new(root.join("uploads"));
        let gate = Arc::new(tokio::sync::RwLock::new(()));
        Ok(Self { root: root.into(), index, journal, uploads, gate, _lock: lock })
    }

    /// Brings `index.json` up to date. Nothing rests on it, so that a failure is only logged.
    pub async fn write_layout(&self) {
        let (root, index) = (self.root.clone(), self.index.clone());
        let written = blocking(move || {
            layout::write(&root, &index)
                .map_err(|source| StoreError::io("write index.json in", &root, source))
        });
        if let Err(error) = written.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the layout's index");
        }
    }

    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        // A panic while the index was held for writing leaves it as it was between two records.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.root, digest)
    }

    /// The size of a blob that this repository serves, for a client that will not upload it on the strength of this.
    pub fn promise(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let size = self.index().blob_in(repository, digest, Some(now()))?;
        self.note_promise(digest);
        Some(size)
    }

    /// The promise outlives the process as the file's time.
    fn note_promise(&self, digest: &Digest) {
        use nix::sys::stat::{UtimensatFlags, utimensat};
        use nix::sys::time::TimeSpec;
        let (path, now) = (self.blob_path(digest), TimeSpec::UTIME_NOW);
        let _ = utimensat(nix::fcntl::AT_FDCWD, &path, &now, &now, UtimensatFlags::FollowSymlink);
    }

    /// Lets `repository` serve a blob that `from` (or, without it, any repository) serves. `false` if there is none.
    pub async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<bool, StoreError> {
        let gate = self.gate.clone().read_owned().await;
        let size = {
            let (index, promise) = (self.index(), Some(now()));
            match from {
                Some(from) => index.blob_in(from, digest, promise),
                None => index.blob_anywhere(digest, promise),
            }
        };
        let Some(size) = size else { return Ok(false) };
        self.note_promise(digest);
        let record = Record::Blob { repository: repository.clone(), digest: digest.clone(), size };
        self.journal.append(record, Bytes::new(), Some(gate)).await?;
        Ok(true)
    }

    /// Makes a received blob part of the repository. Its content is compared with `digest` first.
    pub async fn commit(
        &self,
        upload: Upload<'_>,
        received: Received,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), StoreError> {
        let (path, target) = (upload.path().to_path_buf(), self.blob_path(digest));
        let (size, expected) = (received.size(), digest.clone());
        let verified = match received {
            Received::Memory(bytes) => check(&expected, &bytes).map(|()| Some(bytes)),
            Received::File { hasher, .. } => {
                let source = path.clone();
                blocking(move || verify_and_sync(&source, &expected, hasher)).await.map(|()| None)
            }
        };
        let small = match verified {
            Ok(small) => small,
            Err(error) => {
                // Nothing that can be sent after this would make it right.
                if matches!(error, StoreError::Mismatch { .. }) {
                    upload.cancel().await?;
                }
                return Err(error);
            }
        };
        let gate = self.gate.clone().read_owned().await;
        let payload = small.clone().unwrap_or_default();
        blocking(move || place(&path, &target, small.as_deref())).await?;
        upload.finished();
        let record = Record::Blob { repository: repository.clone(), digest: digest.clone(), size };
        self.journal.append(record, payload, Some(gate)).await?;
        // Who has uploaded it counts on it as much as who was told that it is there.
        self.promise(repository, digest);
        Ok(())
    }

    /// Stores a manifest and its tags. The references that the repository does not hold are returned instead, and
    /// nothing is stored: of `required`, which for a mirror's manifests is empty, as it fetches blobs when asked.
    pub async fn put_manifest(
        &self,
        record: ManifestRecord,
        bytes: Bytes,
        required: &[Digest],
    ) -> Result<Vec<Digest>, StoreError> {
        check(&record.digest, &bytes)?;
        let gate = self.gate.clone().read_owned().await;
        let missing: Vec<Digest> = {
            let index = self.index();
            required.iter().filter(|digest| !index.holds(&record.repository, digest)).cloned().collect()
        };
        if !missing.is_empty() {
            return Ok(missing);
        }
        let target = self.blob_path(&record.digest);
        let (_, temporary) = self.uploads.temporary(&record.repository);
        let content = bytes.clone();
        let small = bytes.len() <= SMALL;
        blocking(move || {
            let done = if small {
                place(&temporary, &target, Some(&content))
            } else {
                write_synced(&temporary, &content).and_then(|()| place(&temporary, &target, None))
            };
            done.inspect_err(|_| drop(fs::remove_file(&temporary)))
        })
        .await?;
        let payload = if small { bytes } else { Bytes::new() };
        self.journal.append(Record::Manifest(record), payload, Some(gate)).await?;
        Ok(missing)
    }

    /// Takes the tag away. `false` if there is none.
    pub async fn untag(&self, repository: &Repository, tag: &Tag) -> Result<bool, StoreError> {
        let gate = self.gate.clone().read_owned().await;
        if self.index().tagged(repository, tag).is_none() {
            return Ok(false);
        }
        let record = Record::Untag { repository: repository.clone(), tag: tag.clone(), at: now() };
        self.journal.append(record, Bytes::new(), Some(gate)).await.map(|()| true)
    }

    /// Takes the manifest and its tags away. `false` if there is none.
    pub async fn forget(&self, repository: &Repository, digest: &Digest) -> Result<bool, StoreError> {
        let gate = self.gate.clone().read_owned().await;
        if self.index().manifest(repository, digest).is_none() {
            return Ok(false);
        }
        let record = Record::Forget { repository: repository.clone(), digest: digest.clone() };
        self.journal.append(record, Bytes::new(), Some(gate)).await.map(|()| true)
    }

    /// The repository no longer serves the blob. `false` if it never did.
    pub async fn unlink(&self, repository: &Repository, digest: &Digest) -> Result<bool, StoreError> {
        let gate = self.gate.clone().read_owned().await;
        if self.index().blob_in(repository, digest, None).is_none() {
            return Ok(false);
        }
        let record = Record::Unlink { repository: repository.clone(), digest: digest.clone() };
        self.journal.append(record, Bytes::new(), Some(gate)).await.map(|()| true)
    }
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let mut path = root.join("blobs");
    path.push(digest.algorithm().name());
    path.push(digest.hex());
    path
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| StoreError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
        Err(fs::TryLockError::Error(source)) => Err(StoreError::io("lock", &path, source)),
    }
}

/// Puts back the small blobs whose files did not survive: their bytes are in the journal.
fn restore(root: &Path, replayed: &journal::Replayed) -> Result<(), StoreError> {
    for (digest, inline) in &replayed.inline {
        let path = blob_path(root, digest);
        let whole =
            || fs::read(&path).is_ok_and(|bytes| Digest::of_with(digest.algorithm(), &bytes) == *digest);
        if !replayed.index.has(digest) || whole() {
            continue;
        }
        let io = |source| StoreError::io("restore", &path, source);
        let temporary = root.join("uploads").join(format!("restore-{}", digest.hex()));
        write_synced(&temporary, &inline.read().map_err(io)?)?;
        fs::rename(&temporary, &path).map_err(io)?;
    }
    Ok(())
}

fn check(expected: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    let actual = Digest::of_with(expected.algorithm(), bytes);
    if actual == *expected {
        Ok(())
    } else {
        Err(StoreError::Mismatch { expected: expected.clone(), actual })
    }
}

/// Compares the file with the digest, by the running hash if it is of that algorithm, and brings it to the disk.
fn verify_and_sync(
    path: &Path,
    expected: &Digest,
    hasher: Option<crate::oci::Hasher>,
) -> Result<(), StoreError> {
    let io = |source| StoreError::io("verify", path, source);
    let mut file = File::open(path).map_err(io)?;
    let running = hasher.map(crate::oci::Hasher::finish).filter(|d| d.algorithm() == expected.algorithm());
    let actual = match running {
        Some(actual) => actual,
        None => {
            let mut hasher = crate::oci::Hasher::new(expected.algorithm());
            io::copy(&mut file, &mut hasher).map_err(io)?;
            hasher.finish()
        }
    };
    if actual != *expected {
        return Err(StoreError::Mismatch { expected: expected.clone(), actual });
    }
    file.sync_data().map_err(io)
}

/// Moves a complete file to its place. With `small`, writes it first and leaves its durability to the journal.
fn place(from: &Path, to: &Path, small: Option<&[u8]>) -> Result<(), StoreError> {
    let io = |source| StoreError::io("store", to, source);
    if let Some(bytes) = small {
        fs::write(from, bytes).map_err(io)?;
    }
    fs::rename(from, to).map_err(io)?;
    if small.is_none() {
        let folder = to.parent().unwrap_or(to);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let io = |source| StoreError::io("write", path, source);
    let mut file = File::create(path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(io)
}

/// Runs what waits for the disk where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopped)?
}

/// The digest that an algorithm gives for a whole blob in memory.
trait OfWith {
    fn of_with(algorithm: Algorithm, bytes: &[u8]) -> Digest;
}

impl OfWith for Digest {
    fn of_with(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = crate::oci::Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}
