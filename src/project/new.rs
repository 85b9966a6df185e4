//! A new function: a folder that answers, is tested and can be pushed as it is.

use std::io;
use std::path::{Path, PathBuf};

use super::ProjectError;
use crate::function::FunctionName;

/// What the folder holds.
const FILES: [(&str, &str); 4] = [
    ("func.py", include_str!("new/func.py")),
    ("test_func.py", include_str!("new/test_func.py")),
    ("requirements.txt", include_str!("new/requirements.txt")),
    (".fnignore", include_str!("new/fnignore")),
];

/// Makes the folder of this name in `parent`, and gives its files. Nothing that is there is written over; where a file
/// cannot be written, nothing stays.
pub fn create(parent: &Path, name: &FunctionName) -> Result<Vec<PathBuf>, ProjectError> {
    let folder = parent.join(name.as_str());
    std::fs::create_dir(&folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => ProjectError::Exists { path: folder.clone() },
        _ => ProjectError::Write { path: folder.clone(), source },
    })?;
    let write = |(file, text): &(&str, &str)| {
        let path = folder.join(file);
        match std::fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(ProjectError::Write { path, source }),
        }
    };
    let written: Result<_, _> = FILES.iter().map(write).collect();
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&folder);
    }
    written
}
