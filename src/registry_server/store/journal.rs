//! The registry's memory: every change is appended and synced before it is answered.
//!
//! `journal/N.log` holds changes, `journal/N.snap` the state after log N. One thread writes; all changes that wait are
//! written together and share one `fdatasync`, so that many clients cost little more than one. The same thread applies
//! them to the [`Index`] in that order: what is read is durable.
//!
//! A small blob's bytes travel in its record. Its file is written without a sync of its own, and what a power cut took
//! of it is put back from the journal at the next start. A snapshot is taken only after the file system was synced, and
//! only then are older logs removed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{OwnedRwLockReadGuard, mpsc, oneshot};

use super::StoreError;
use super::index::Index;
use super::record::{self, Frame, Record};
use crate::oci::Digest;

/// A log of this size is followed by a snapshot and a new one.
const ROTATE_AT: u64 = 64 << 20;
/// Changes that wait for the writer; more of them wait outside.
const QUEUE: usize = 1024;
/// Repositories copied from the index at once.
const SNAPSHOT_STEP: usize = 64;
/// Bytes written with one sync, at most about this many.
const BATCH: usize = 8 << 20;

/// The way to the writer. Cheap to clone; the writer ends when the last one is dropped.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Change>,
}

/// A hold on the store's gate.
pub type Gate = OwnedRwLockReadGuard<()>;

struct Change {
    record: Record,
    payload: Bytes,
    /// Held until the change is in the index, even if nobody waits for the answer any more.
    _gate: Option<Gate>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A blob's bytes within a log: there until the next snapshot.
pub struct Inline {
    log: PathBuf,
    offset: u64,
    length: u64,
}

impl Inline {
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(self.length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// What was found at start.
pub struct Replayed {
    pub index: Index,
    /// Blobs whose file may not have survived a power cut.
    pub inline: HashMap<Digest, Inline>,
    /// The number of the next log, and whether there are logs that no snapshot covers.
    pub next: u64,
    pub uncovered: bool,
}

/// Reads the newest snapshot and every log behind it. A torn end of the last log is what a crash leaves, and is dropped;
/// anywhere else it is damage, and nothing is served from it.
pub fn replay(folder: &Path) -> Result<Replayed, StoreError> {
    fs::create_dir_all(folder).map_err(|source| StoreError::io("create", folder, source))?;
    let (mut snapshots, mut logs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(|source| StoreError::io("read", folder, source))? {
        let path = entry.map_err(|source| StoreError::io("read", folder, source))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        match (path.extension().and_then(|e| e.to_str()), number) {
            (Some("snap"), Some(number)) => snapshots.push(number),
            (Some("log"), Some(number)) => logs.push(number),
            // A snapshot that was not finished.
            _ => drop(fs::remove_file(&path)),
        }
    }
    let newest = snapshots.iter().max().copied();
    let mut replayed =
        Replayed { index: Index::default(), inline: HashMap::new(), next: 1, uncovered: false };
    if let Some(number) = newest {
        read_file(&snapshot_path(folder, number), &mut replayed, false)?;
        replayed.inline.clear();
        replayed.next = number + 1;
    }
    logs.retain(|number| newest.is_none_or(|newest| *number > newest));
    logs.sort_unstable();
    let last = logs.last().copied();
    for number in logs {
        read_file(&log_path(folder, number), &mut replayed, Some(number) == last)?;
        replayed.next = number + 1;
        replayed.uncovered = true;
    }
    Ok(replayed)
}

fn read_file(path: &Path, replayed: &mut Replayed, may_be_torn: bool) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|source| StoreError::io("open", path, source))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut offset = 0;
    loop {
        match record::decode(&mut reader).map_err(|source| StoreError::io("read", path, source))? {
            Frame::Whole { record, payload, length } => {
                offset += length;
                if !payload.is_empty() {
                    let length = payload.len() as u64;
                    let inline = Inline { log: path.into(), offset: offset - length, length };
                    if let Some(digest) = carried(&record) {
                        replayed.inline.insert(digest.clone(), inline);
                    }
                }
                replayed.index.apply(&record);
            }
            Frame::End { torn: true } if !may_be_torn => {
                return Err(StoreError::Damaged { path: path.into(), offset });
            }
            Frame::End { torn } => {
                if torn {
                    tracing::warn!(journal = %path.display(), offset, "dropped a write that was cut off");
                    cut(path, offset).map_err(|source| StoreError::io("truncate", path, source))?;
                }
                return Ok(());
            }
        }
    }
}

/// Once another log follows this one, its torn end would be damage.
fn cut(path: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(length)?;
    file.sync_all()
}

fn carried(record: &Record) -> Option<&Digest> {
    match record {
        Record::Blob { digest, .. } => Some(digest),
        Record::Manifest(manifest) => Some(&manifest.digest),
        _ => None,
    }
}

fn log_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

fn snapshot_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.snap"))
}

impl Journal {
    /// Starts the writer on a new log behind those that were replayed.
    pub fn start(folder: PathBuf, next: u64, index: Arc<RwLock<Index>>) -> Result<Self, StoreError> {
        let log = Log::create(&folder, next).map_err(|source| StoreError::io("create", &folder, source))?;
        let (queue, changes) = mpsc::channel(QUEUE);
        let writer = Writer { folder, log, index, snapshot: None };
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.run(changes))
            .map_err(|source| StoreError::Thread { source })?;
        Ok(Self { queue })
    }

    /// Returns when the change is on the disk and in the index.
    pub async fn append(&self, record: Record, payload: Bytes, gate: Option<Gate>) -> Result<(), StoreError> {
        let (done, written) = oneshot::channel();
        let change = Change { record, payload, _gate: gate, done };
        self.queue.send(change).await.map_err(|_| StoreError::Stopped)?;
        written.await.map_err(|_| StoreError::Stopped)?.map_err(|source| StoreError::Journal { source })
    }
}

/// The log that is being written.
struct Log {
    number: u64,
    file: File,
    length: u64,
    /// After a failed sync nobody knows what is on the disk: writing on would be guessing.
    broken: bool,
}

impl Log {
    fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = log_path(folder, number);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self { number, file, length: 0, broken: false })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the journal failed; restart the registry"));
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Nothing was promised: take back what was written and go on, for instance when there is room again.
            let undone =
                self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            self.broken = undone.is_err();
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.broken = true;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

struct Writer {
    folder: PathBuf,
    log: Log,
    index: Arc<RwLock<Index>>,
    snapshot: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        let mut bytes = Vec::new();
        while let Some(first) = changes.blocking_recv() {
            let mut batch = Vec::new();
            bytes.clear();
            let mut next = Some(first);
            while let Some(change) = next {
                let start = bytes.len();
                match record::encode(&change.record, &change.payload, &mut bytes) {
                    Ok(()) => batch.push(change),
                    Err(error) => {
                        bytes.truncate(start);
                        let _ = change.done.send(Err(error));
                    }
                }
                next = if bytes.len() < BATCH { changes.try_recv().ok() } else { None };
            }
            self.write(&bytes, batch);
            if bytes.capacity() > BATCH {
                bytes = Vec::new();
            }
            self.rotate();
        }
        if let Some(running) = self.snapshot.take() {
            let _ = running.join();
        }
    }

    fn write(&mut self, bytes: &[u8], batch: Vec<Change>) {
        match self.log.append(bytes) {
            Ok(()) => {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                batch.iter().for_each(|change| index.apply(&change.record));
                drop(index);
                // Whoever does not wait for the answer any more has lost nothing.
                batch.into_iter().for_each(|change| drop(change.done.send(Ok(()))));
            }
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written");
                for change in batch {
                    let again = error.raw_os_error().map(io::Error::from_raw_os_error);
                    let copy = again.unwrap_or_else(|| io::Error::new(error.kind(), error.to_string()));
                    let _ = change.done.send(Err(copy));
                }
            }
        }
    }

    fn rotate(&mut self) {
        if self.log.length < ROTATE_AT || self.snapshot.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        match Log::create(&self.folder, self.log.number + 1) {
            Ok(log) => {
                let done = std::mem::replace(&mut self.log, log).number;
                self.snapshot(done);
            }
            Err(error) => tracing::error!(%error, "no new journal could be begun; the old one grows on"),
        }
    }

    /// Writes the state after log `number` beside the writing of the next one. The index may be a little ahead of that
    /// by then: what it is ahead by is in the next log, and applying that again changes nothing.
    fn snapshot(&mut self, number: u64) {
        let (folder, index) = (self.folder.clone(), self.index.clone());
        let work = move || {
            if let Err(error) = take_snapshot(&folder, number, &index) {
                tracing::error!(%error, "no snapshot could be taken; the journal is kept");
            }
        };
        self.snapshot = std::thread::Builder::new().name("snapshot".into()).spawn(work).ok();
    }
}

/// Writes the state after log `number`, and removes what it makes needless.
pub fn take_snapshot(folder: &Path, number: u64, index: &RwLock<Index>) -> io::Result<()> {
    let unfinished = folder.join(format!("{number:08}.tmp"));
    let file = File::create(&unfinished)?;
    // The blobs whose bytes are only in the logs so far.
    nix::unistd::syncfs(&file)?;
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    let (mut frames, mut last) = (Vec::new(), String::new());
    // A few repositories at a time, so that nobody waits long for the index. What changes meanwhile is in the next log.
    while let Some((records, name)) =
        index.read().unwrap_or_else(PoisonError::into_inner).records_behind(&last, SNAPSHOT_STEP)
    {
        frames.clear();
        records.iter().try_for_each(|record| record::encode(record, b"", &mut frames))?;
        writer.write_all(&frames)?;
        last = name;
    }
    writer.flush()?;
    drop(writer);
    file.sync_all()?;
    fs::rename(&unfinished, snapshot_path(folder, number))?;
    File::open(folder)?.sync_all()?;
    for old in (1..=number).rev() {
        // Removed from the newest down: the first that is missing ends it.
        let log = fs::remove_file(log_path(folder, old)).is_ok();
        let snapshot = old < number && fs::remove_file(snapshot_path(folder, old)).is_ok();
        if !log && !snapshot && old < number {
            break;
        }
    }
    Ok(())
}
