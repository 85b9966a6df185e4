//! A file on disk, mapped; and one `.py` as a whole source.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use super::tree::{Content, Entry, Kind};
use super::{Bounds, Form, Options, Source, SourceError, Store};
use crate::function::{EntryPoint, InvalidEntryPoint};

/// The file's bytes, of which the kernel keeps in memory what it likes.
pub(super) fn map(path: &Path, bounds: &Bounds) -> Result<Bytes, SourceError> {
    let file = File::open(path).map_err(SourceError::io("open", path))?;
    let size = file.metadata().map_err(SourceError::io("open", path))?.len();
    if size > bounds.source {
        return Err(SourceError::TooLarge {
            what: "the source",
            size,
            limit: bounds.source,
            flag: "--max-source",
        });
    }
    if size == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is only ever read, as bytes, of which any value is valid. Should another process change the file
    // meanwhile, what is read is wrong and some digest or CRC will not fit; should it cut the file short, reading ends
    // this process by SIGBUS, as it would any program that maps its input.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(SourceError::io("map", path))?;
    Ok(Bytes::from_owner(map))
}

/// One module, under its own name.
pub(super) fn open(stem: &str, bytes: Bytes, options: &Options) -> Result<Source, SourceError> {
    let own = EntryPoint::of_module(stem)?;
    if own.module.contains('.') {
        // A file is one module: a dot would make it one within a package that is not there.
        return Err(InvalidEntryPoint { text: own.to_string() }.into());
    }
    let entry = options.entry.clone().unwrap_or(own);
    let name = format!("{stem}.py");
    let content = Content::Stored { at: 0..bytes.len(), crc: None };
    let kind = Kind::File { executable: false, size: bytes.len() as u64, content };
    let entries = vec![Entry { path: name.into(), kind }];
    Source::of(Form::File, entry, entries, Store::Bytes(bytes), options)
}
