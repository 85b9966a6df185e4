//! What a source asks for: its `requirements.txt` and the lock beside it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;

use super::error::DependencyError;
use super::lock::Lock;
use super::requirements::{MAX_BYTES, Requirements};
use super::target::Target;
use crate::source::{Content, Entry, Form, Kind, Source};

const REQUIREMENTS: &str = "requirements.txt";
const LOCK: &str = "requirements.lock";

/// A list that is not empty, and the lock that was found for it. Whether it fits shows in [`Lock::check`].
#[derive(Clone, Debug)]
pub struct Wanted {
    pub requirements: Requirements,
    pub lock: Option<Lock>,
}

/// Where to look beside the source, and how to take what is found.
#[derive(Clone, Copy, Default, Debug)]
pub struct Places<'a> {
    /// The path that the source was opened at; `None` for one that was uploaded.
    pub source: Option<&'a Path>,
    /// `--requirements`: instead of the source's own list.
    pub requirements: Option<&'a Path>,
    /// `--no-deps`: see [`Requirements::no_deps`].
    pub no_deps: bool,
}

impl Wanted {
    /// `None` if nothing is asked for. A lock in the source counts before one beside it.
    pub fn of(source: &Source, places: Places<'_>) -> Result<Option<Self>, DependencyError> {
        let requirements = Self::requirements_of(source, places)?;
        let inside = match read(source, LOCK)? {
            Some(bytes) => Some(Lock::parse(LOCK, &bytes)?),
            None => None,
        };
        if requirements.is_empty() {
            return match inside {
                Some(lock) if !lock.is_empty() => Err(DependencyError::Stale { file: LOCK.into() }),
                _ => Ok(None),
            };
        }
        let beside = || places.source.map(|path| lock_path(source, path)).filter(|path| path.is_file());
        let lock = match (inside, beside()) {
            (Some(lock), _) => Some(lock),
            (None, Some(path)) => Some(Lock::parse(&path.display().to_string(), &read_path(&path)?)?),
            (None, None) => None,
        };
        Ok(Some(Self { requirements, lock }))
    }

    /// The list alone; empty if there is none.
    pub fn requirements_of(source: &Source, places: Places<'_>) -> Result<Requirements, DependencyError> {
        let mut requirements = match places.requirements {
            Some(path) => Requirements::parse(&path.display().to_string(), &read_path(path)?)?,
            None => match read(source, REQUIREMENTS)? {
                Some(bytes) => Requirements::parse(REQUIREMENTS, &bytes)?,
                None => Requirements::default(),
            },
        };
        requirements.no_deps = places.no_deps;
        Ok(requirements)
    }

    /// The lock, if it fits the list and the targets.
    pub fn checked_lock(&self, targets: &[Target]) -> Result<Option<&Lock>, DependencyError> {
        if let Some(lock) = &self.lock {
            lock.check(&self.requirements, targets)?;
        }
        Ok(self.lock.as_ref())
    }
}

/// Where the lock of a source is kept: in a folder, beside a zip or a `.py`.
pub fn lock_path(source: &Source, path: &Path) -> PathBuf {
    match source.form() {
        Form::Folder => path.join(LOCK),
        Form::Zip | Form::File => lock_beside(path),
    }
}

/// Where the lock of a zip or `.py` is.
pub fn lock_beside(path: &Path) -> PathBuf {
    path.with_file_name(LOCK)
}

/// A small file of a source, by its path.
fn read(source: &Source, path: &str) -> Result<Option<Vec<u8>>, DependencyError> {
    let Some(entry) = source.entries().iter().find(|entry| &*entry.path == path) else { return Ok(None) };
    content(source, entry).map(Some).map_err(DependencyError::io("read", path))
}

fn content(source: &Source, entry: &Entry) -> io::Result<Vec<u8>> {
    beginning(source, entry, MAX_BYTES + 1)
}

/// At most so many bytes of a file of a source.
pub(super) fn beginning(source: &Source, entry: &Entry, most: usize) -> io::Result<Vec<u8>> {
    match &entry.kind {
        // Its CRC is checked when the layer's is computed, before anything is used.
        Kind::File { content: Content::Deflated { at, .. }, .. } => {
            bounded(DeflateDecoder::new(io::Cursor::new(source.slice(at))), most)
        }
        Kind::File { .. } => bounded(source.read_plain(entry)?, most),
        _ => Err(io::Error::other("it is not a plain file")),
    }
}

fn read_path(path: &Path) -> Result<Vec<u8>, DependencyError> {
    File::open(path).and_then(|file| bounded(file, MAX_BYTES + 1)).map_err(DependencyError::io("read", path))
}

/// For a list one byte more than is taken, so that its reader sees that it is too long.
fn bounded(from: impl Read, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
