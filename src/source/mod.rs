//! What the user hands in, made safe: a zip, one `.py` file or a folder → [`Source`].
//!
//! What leaves this room can be trusted in shape: paths are relative, stay inside, are unique and agree with each other;
//! links stay inside too; only files, folders and links are left; there is an entry point whose module parses. Other
//! contents are not looked at yet: whoever inflates them checks their sizes and CRCs on the way.
//!
//! Nothing here writes anywhere, and nothing is allocated by a size or count that the input declares.

mod bounds;
mod entry;
mod error;
mod file;
mod folder;
mod names;
mod python;
mod tree;
mod zip;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytes::Bytes;

use crate::function::{EntryPoint, Parameter};
use crate::oci::Digest;

#[cfg(test)]
pub(crate) use self::zip::writer as zip_writer;
pub use bounds::Bounds;
pub use error::SourceError;
pub use names::escaped;
pub use python::{SyntaxError, Version};
pub use tree::{Content, Entry, Kind, Missing, missing_folders};

/// What the user may say about a source beside its path.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// Instead of `func:run`, or of the file's own name and `run`.
    pub entry: Option<EntryPoint>,
    pub bounds: Bounds,
    /// The Python that will run it: syntax that is newer is an error. `None` where that is not known yet.
    pub python: Option<Version>,
}

/// Which of the three ways a source came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    Zip,
    /// One `.py` file.
    File,
    Folder,
}

/// A function's code, checked and sorted, its contents still where they were.
#[derive(Debug)]
pub struct Source {
    form: Form,
    entry: EntryPoint,
    parameters: Option<Vec<Parameter>>,
    /// By path, part by part, so that a folder comes right before what is in it.
    entries: Vec<Entry>,
    store: Store,
    digest: OnceLock<Digest>,
}

/// Where contents are.
#[derive(Debug)]
enum Store {
    /// The bytes of the zip or the `.py`, mapped.
    Bytes(Bytes),
    /// The folder that entries' paths begin at.
    Folder(PathBuf),
}

impl Source {
    /// Opens a zip, a `.py` file or a folder, by what it is: a folder, a name that ends in `.py`, else a zip.
    pub fn open(path: &Path, options: &Options) -> Result<Self, SourceError> {
        Self::open_at(path, options).map_err(|error| error.at(path))
    }

    fn open_at(path: &Path, options: &Options) -> Result<Self, SourceError> {
        let meta = std::fs::metadata(path).map_err(SourceError::io("open", path))?;
        if meta.is_dir() {
            return folder::open(path, options);
        }
        if !meta.is_file() {
            return Err(SourceError::NotASource { path: path.into() });
        }
        let bytes = file::map(path, &options.bounds)?;
        if path.extension().is_some_and(|extension| extension == "py") {
            file::open(&path.file_stem().unwrap_or_default().to_string_lossy(), bytes, options)
        } else {
            Self::from_zip(bytes, options)
        }
    }

    /// A zip that is in memory or mapped.
    pub fn from_zip(bytes: Bytes, options: &Options) -> Result<Self, SourceError> {
        zip::open(bytes, options)
    }

    /// A `.py` that is in memory, under the module name that its bytes are to be imported by.
    pub fn from_module(name: &str, bytes: Bytes, options: &Options) -> Result<Self, SourceError> {
        file::open(name, bytes, options)
    }

    /// Of entries that were settled. Looks into the entry point's module.
    fn of(
        form: Form,
        entry: EntryPoint,
        entries: Vec<Entry>,
        store: Store,
        options: &Options,
    ) -> Result<Self, SourceError> {
        let mut source = Self { form, entry, parameters: None, entries, store, digest: OnceLock::new() };
        source.parameters = entry::check(&source, options.python)?;
        Ok(source)
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// What answers a call.
    pub fn entry_point(&self) -> &EntryPoint {
        &self.entry
    }

    /// What it takes, in the order of the source; `None` where only the import could tell.
    pub fn parameters(&self) -> Option<&[Parameter]> {
        self.parameters.as_deref()
    }

    /// Sorted by path, part by part. Folders that are only implied by what is in them have no entry here: see
    /// [`missing_folders`].
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Of what the user handed in: the bytes of a zip or `.py`; for a folder of its paths, modes and contents.
    pub fn digest(&self) -> Result<&Digest, SourceError> {
        if let Some(digest) = self.digest.get() {
            return Ok(digest);
        }
        let digest = match &self.store {
            Store::Bytes(bytes) => Digest::of(bytes),
            Store::Folder(root) => folder::digest(root, &self.entries)?,
        };
        Ok(self.digest.get_or_init(|| digest))
    }

    /// A part of the zip's or `.py`'s bytes, without a copy. Empty where there are none: for a folder, or beyond the end.
    pub fn slice(&self, range: &Range<usize>) -> Bytes {
        match &self.store {
            Store::Bytes(bytes) if range.start <= range.end && range.end <= bytes.len() => {
                bytes.slice(range.clone())
            }
            _ => Bytes::new(),
        }
    }

    /// The content of a file that is stored as it is: all files of a folder and of a `.py`, some of a zip.
    pub fn read_plain(&self, entry: &Entry) -> io::Result<Box<dyn Read + Send>> {
        match (&self.store, &entry.kind) {
            (Store::Folder(root), Kind::File { .. }) => Ok(Box::new(File::open(root.join(&*entry.path))?)),
            (Store::Bytes(_), Kind::File { content: Content::Stored { at, .. }, .. }) => {
                Ok(Box::new(io::Cursor::new(self.slice(at))))
            }
            _ => Err(io::Error::other("the entry is not stored as it is")),
        }
    }
}
