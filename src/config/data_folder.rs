//! The folder that a server's state is in: its format, and the lock that keeps a second server out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The layout of the folder: which files are where.
const FORMAT: u32 = 1;

/// A data folder that is ours as long as this lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Locked. The kernel takes the lock back when the process ends, however it ends.
    _lock: File,
    fresh: bool,
}

/// Why a folder cannot be served from.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    #[error("the data folder {} is in use by another fnbuild server (process {process})", path.display())]
    InUse { path: PathBuf, process: String },
    #[error("the data folder {} has format {found}; this fnbuild reads formats up to {FORMAT}", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error("the format of the data folder {} cannot be read: {text:?}", path.display())]
    Format { path: PathBuf, text: String },
    #[error("cannot {step} the data folder {}", path.display())]
    Disk {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl DataFolderError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InUse { .. } => Some("stop that server, or give this one its own --data-dir".into()),
            Self::Newer { .. } => Some("run the newer fnbuild that wrote it".into()),
            Self::Disk { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or name a folder of yours with --data-dir".into())
            }
            Self::Format { .. } | Self::Disk { .. } => None,
        }
    }
}

impl DataFolder {
    /// Makes the folder where there is none, and keeps it for this process alone.
    pub fn open(path: &Path) -> Result<Self, DataFolderError> {
        let failed = |step| move |source| DataFolderError::Disk { step, path: path.into(), source };
        std::fs::create_dir_all(path).map_err(failed("make"))?;
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(false);
        let mut lock = how.open(path.join("serve.lock")).map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                let _ = lock.take(20).read_to_string(&mut process);
                return Err(DataFolderError::InUse { path: path.into(), process: process.trim().into() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // Who holds it, for the message above. The lock itself does not depend on it.
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut lock).map_err(failed("lock"))?;
        let fresh = check_format(path)?;
        Ok(Self { path: path.into(), _lock: lock, fresh })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no server has ever finished starting here: only then may state be made instead of found.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether a server has ever finished starting in a folder, which is only looked at.
    pub fn was_used(path: &Path) -> bool {
        path.join("format").exists()
    }

    /// From here on, state that is missing is missing.
    pub fn mark_used(&self) -> Result<(), DataFolderError> {
        if !self.fresh {
            return Ok(());
        }
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
            writeln!(file, "{FORMAT}")?;
            file.as_file().sync_all()?;
            file.persist(self.path.join("format"))?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| DataFolderError::Disk { step: "write to", path: self.path.clone(), source })
    }
}

/// `true` where there is no format yet.
fn check_format(path: &Path) -> Result<bool, DataFolderError> {
    let text = match std::fs::read_to_string(path.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(source) => return Err(DataFolderError::Disk { step: "read", path: path.into(), source }),
    };
    match text.trim().parse::<u32>() {
        Ok(found) if found > FORMAT => Err(DataFolderError::Newer { path: path.into(), found }),
        Ok(_) => Ok(false),
        Err(_) => {
            let text = text.chars().take(80).collect();
            Err(DataFolderError::Format { path: path.into(), text })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataFolder::open(folder.path()).unwrap();
        let refused = DataFolder::open(folder.path()).unwrap_err();
        let ours = std::process::id().to_string();
        assert!(matches!(&refused, DataFolderError::InUse { process, .. } if *process == ours), "{refused}");
        drop(first);
        DataFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_is_fresh_until_it_was_used() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataFolder::open(folder.path()).unwrap();
        assert!(first.is_fresh());
        first.mark_used().unwrap();
        drop(first);
        assert!(!DataFolder::open(folder.path()).unwrap().is_fresh());
    }

    #[test]
    fn a_newer_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "2\n").unwrap();
        assert!(matches!(DataFolder::open(folder.path()), Err(DataFolderError::Newer { found: 2, .. })));
        std::fs::write(folder.path().join("format"), "x").unwrap();
        assert!(matches!(DataFolder::open(folder.path()), Err(DataFolderError::Format { .. })));
    }
}
