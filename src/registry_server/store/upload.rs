//! Uploads that are not complete: one file each, so that they survive a restart, and are swept when nobody returns.
//!
//! The file's name begins with a hash of the repository, so that an upload answers in its own repository only. The
//! running hash is kept in memory between requests; after a restart the bytes are read back instead.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::{SMALL, StoreError, blocking};
use crate::oci::{Algorithm, Digest, Hasher, Repository};

/// Handed to the writing thread at once, and how many of these may wait for it.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;
/// A client that sends nothing for so long has gone away.
const STALL: Duration = Duration::from_secs(60);

/// A version 4 UUID.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UploadId(Box<str>);

impl UploadId {
    fn new() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| StoreError::Interrupted { source: io::Error::other(error) })?;
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (place, byte) in bytes.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.extend([byte >> 4, byte & 15].map(|n| char::from_digit(n.into(), 16).unwrap_or('0')));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UploadId {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if legal { Ok(Self(text.into())) } else { Err(StoreError::UnknownUpload) }
    }
}

/// What a request has brought.
#[expect(clippy::large_enum_variant, reason = "one for each request, moved twice")]
pub enum Received {
    /// All of a blob that is at most [`SMALL`]; nothing is in the file.
    Memory(Bytes),
    /// The file has it; with the hash so far, if that is known.
    File { size: u64, hasher: Option<Hasher> },
}

impl Received {
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

#[derive(Default)]
struct State {
    /// Shared by the request that writes and by its writing thread, which may outlive it by a moment.
    hold: Arc<()>,
    hasher: Option<Hasher>,
}

pub struct Uploads {
    folder: PathBuf,
    states: Mutex<HashMap<String, State>>,
}

impl Uploads {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, states: Mutex::default() }
    }

    fn states(&self) -> std::sync::MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload that will be hashed by `algorithm`.
    pub async fn begin(&self, repository: &Repository, algorithm: Algorithm) -> Result<UploadId, StoreError> {
        let id = UploadId::new()?;
        let name = file_name(repository, &id);
        let path = self.folder.join(&name);
        blocking(move || {
            let created = File::create_new(&path);
            created.map(drop).map_err(|source| StoreError::io("create", &path, source))
        })
        .await?;
        self.states().insert(name, State { hold: Arc::default(), hasher: Some(Hasher::new(algorithm)) });
        Ok(id)
    }

    /// A name in the folder that nobody else uses.
    pub fn temporary(&self, repository: &Repository) -> (String, PathBuf) {
        let id = UploadId::new().map_or_else(|_| format!("{:x}", std::process::id()), |id| id.0.into());
        let name = format!("{}-{id}", short_hash(repository));
        let path = self.folder.join(&name);
        (name, path)
    }

    /// The file of an upload.
    pub fn path(&self, repository: &Repository, id: &UploadId) -> PathBuf {
        self.folder.join(file_name(repository, id))
    }

    /// Opens an upload for one request; a second one at the same time is refused.
    pub fn open(&self, repository: &Repository, id: &UploadId) -> Result<Upload<'_>, StoreError> {
        let name = file_name(repository, id);
        let path = self.folder.join(&name);
        let mut states = self.states();
        let state = states.entry(name.clone()).or_default();
        if Arc::strong_count(&state.hold) > 1 {
            return Err(StoreError::BusyUpload);
        }
        let size = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) => {
                states.remove(&name);
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => StoreError::UnknownUpload,
                    _ => StoreError::io("open", &path, error),
                });
            }
        };
        // A hash that does not fit the file is of no use; the bytes will be read back.
        let hasher = state.hasher.take().filter(|hasher| hasher.bytes() == size);
        Ok(Upload {
            uploads: self,
            name,
            path,
            size,
            hasher,
            hold: state.hold.clone(),
            over: false,
            progress: None,
        })
    }

    /// Removes uploads that nobody has written to for `age`, or counts them. How many, and their bytes.
    pub fn sweep(&self, age: Duration, dry_run: bool) -> Result<(usize, u64), StoreError> {
        let io = |source| StoreError::io("sweep", &self.folder, source);
        let (mut count, mut bytes) = (0, 0);
        let limit = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(metadata) = entry.metadata() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut states = self.states();
            let busy = states.get(&name).is_some_and(|state| Arc::strong_count(&state.hold) > 1);
            if busy || metadata.modified().is_ok_and(|modified| modified > limit) {
                continue;
            }
            if !dry_run {
                states.remove(&name);
                fs::remove_file(entry.path()).map_err(io)?;
            }
            (count, bytes) = (count + 1, bytes + metadata.len());
        }
        Ok((count, bytes))
    }

    /// Uploads that have begun since the start and are not complete.
    pub fn open_count(&self) -> usize {
        self.states().len()
    }
}

fn short_hash(repository: &Repository) -> String {
    Digest::of(repository.as_str()).short().into()
}

fn file_name(repository: &Repository, id: &UploadId) -> String {
    format!("{}-{}", short_hash(repository), id.as_str())
}

/// One request's hold on an upload.
pub struct Upload<'a> {
    uploads: &'a Uploads,
    name: String,
    path: PathBuf,
    size: u64,
    hasher: Option<Hasher>,
    hold: Arc<()>,
    over: bool,
    progress: Option<Progress>,
}

/// Told how many bytes are in the file, each time that it has grown.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

impl Upload<'_> {
    pub fn report_to(&mut self, progress: Progress) {
        self.progress = Some(progress);
    }

    /// Bytes received in earlier requests, and in this one once [`Upload::append`] has returned.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file is no longer this upload's.
    pub fn finished(mut self) {
        self.over = true;
    }

    pub async fn cancel(self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.finished();
        blocking(move || fs::remove_file(&path).map_err(|source| StoreError::io("remove", &path, source)))
            .await
    }

    /// Takes the rest of the blob. One that is small and whole stays in memory.
    pub async fn complete<B>(&mut self, body: &mut B, declared: Option<u64>) -> Result<Received, StoreError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if self.size == 0 {
            let (bytes, more) = first_bytes(body).await?;
            if !more {
                check_length(declared, bytes.len() as u64)?;
                return Ok(Received::Memory(bytes));
            }
            self.write(bytes, body, declared).await?;
        } else {
            self.append(body, declared).await?;
        }
        Ok(Received::File { size: self.size, hasher: self.hasher.take() })
    }

    /// Appends the body to the file. What arrived before an interruption stays and can be continued from.
    pub async fn append<B>(&mut self, body: &mut B, declared: Option<u64>) -> Result<(), StoreError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.write(Bytes::new(), body, declared).await
    }

    async fn write<B>(&mut self, first: Bytes, body: &mut B, declared: Option<u64>) -> Result<(), StoreError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let before = self.size;
        let (chunks, waiting) = mpsc::channel(CHUNKS);
        let (path, hasher) = (self.path.clone(), self.hasher.take());
        let (hold, progress) = (self.hold.clone(), self.progress.clone());
        let writer = tokio::task::spawn_blocking(move || {
            let _hold = hold;
            let mut hashing = Hashing { hasher, size: before, progress };
            let written = write_chunks(&path, &mut hashing, waiting);
            (written.map(|()| hashing.size - before), hashing.hasher)
        });
        let fed = feed(first, body, chunks).await;
        let (written, hasher) = writer.await.map_err(|_| StoreError::Stopped)?;
        self.hasher = hasher;
        // The writer's own failure comes first: it is why the feeding ended.
        self.size = before + written?;
        fed?;
        check_length(declared, self.size - before)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        let mut states = self.uploads.states();
        if self.over {
            states.remove(&self.name);
        } else if let Some(state) = states.get_mut(&self.name) {
            state.hasher = self.hasher.take();
        }
    }
}

fn check_length(declared: Option<u64>, received: u64) -> Result<(), StoreError> {
    if declared.is_none_or(|declared| declared == received) { Ok(()) } else { Err(StoreError::WrongLength) }
}

/// The next bytes of the body; `None` at its end.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, StoreError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let frame = tokio::time::timeout(STALL, body.frame()).await;
        let frame = frame.map_err(|source| StoreError::Interrupted { source: source.into() })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(StoreError::Interrupted { source: io::Error::other(error) }),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The body, if it is at most [`SMALL`]; else a little more than that of it, and `true`.
async fn first_bytes<B>(body: &mut B) -> Result<(Bytes, bool), StoreError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(first) = next(body).await? else { return Ok((Bytes::new(), false)) };
    if body.is_end_stream() && first.len() <= SMALL {
        return Ok((first, false));
    }
    let mut bytes = BytesMut::from(first);
    while bytes.len() <= SMALL {
        match next(body).await? {
            Some(more) => bytes.extend_from_slice(&more),
            None => return Ok((bytes.freeze(), false)),
        }
    }
    Ok((bytes.freeze(), true))
}

/// Passes the body on in pieces that are worth waking a thread for.
async fn feed<B>(first: Bytes, body: &mut B, chunks: mpsc::Sender<Vec<Bytes>>) -> Result<(), StoreError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut held = first.len();
    let mut chunk = vec![first];
    let ended = loop {
        match next(body).await {
            Ok(Some(bytes)) => {
                held += bytes.len();
                chunk.push(bytes);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if held >= CHUNK {
            held = 0;
            if chunks.send(std::mem::take(&mut chunk)).await.is_err() {
                // The writer has failed; it says why.
                return Ok(());
            }
        }
    };
    let _ = chunks.send(chunk).await;
    ended
}

/// What is known of the file's content while it is written.
struct Hashing {
    /// `None` where it is not known; the bytes are read back then.
    hasher: Option<Hasher>,
    size: u64,
    progress: Option<Progress>,
}

impl Hashing {
    fn take(&mut self, chunk: &[Bytes]) {
        for bytes in chunk {
            self.size += bytes.len() as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(bytes);
            }
        }
        if let Some(progress) = &self.progress {
            progress(self.size);
        }
    }
}

/// Writes behind what is there and hashes on the way. After a failure the hash is of no use.
fn write_chunks(
    path: &Path,
    hashing: &mut Hashing,
    mut chunks: mpsc::Receiver<Vec<Bytes>>,
) -> Result<(), StoreError> {
    let before = hashing.size;
    let io = |source| StoreError::io("write", path, source);
    let opened = File::options().append(true).open(path);
    let mut file = opened.map_err(io).inspect_err(|_| hashing.hasher = None)?;
    while let Some(chunk) = chunks.blocking_recv() {
        if let Err(error) = write_all(&mut file, &chunk) {
            hashing.hasher = None;
            // A full disk should not stay full of something that nobody was told is there.
            let _ = file.set_len(before);
            return Err(io(error));
        }
        hashing.take(&chunk);
    }
    Ok(())
}

fn write_all(file: &mut File, chunk: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunk.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
