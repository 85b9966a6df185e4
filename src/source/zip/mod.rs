//! A zip as a source: APPNOTE.TXT 6.3, read so that no other reader can see another tree in it.
//!
//! A zip describes itself twice (a header before each entry, a directory at the end), and most tricks live where the two
//! may differ. So everything must agree and every byte must belong to something: entries lie end to end from the first
//! byte to the directory, the directory to its end record, the record to the end of the file.
//!
//! - `fields`: numbers out of bytes, none of which may lie beyond the end.
//! - `directory`: the end records and the central directory → raw entries.
//! - `local`: each entry's own header and data descriptor, held against the directory.

mod directory;
mod fields;
mod local;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod writer;

use std::io::Read;

use bytes::Bytes;

use self::directory::RawEntry;
use super::tree::{self, Content, Entry, Kind};
use super::{Bounds, Form, Options, Source, SourceError, Store, entry, names};

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// The longest target of a link: that of a path.
const MAX_TARGET: u64 = 3_072;

/// What deflate can make of one byte at most (1,032), with room for the smallest streams.
const DEFLATE_LIMIT: u64 = 1_040;

pub(super) fn open(bytes: Bytes, options: &Options) -> Result<Source, SourceError> {
    let bounds = &options.bounds;
    if bytes.len() as u64 > bounds.source {
        let (size, limit) = (bytes.len() as u64, bounds.source);
        return Err(SourceError::TooLarge { what: "the zip", size, limit, flag: "--max-source" });
    }
    let directory = directory::find(&bytes)?;
    let raw = directory::read(&bytes, &directory, bounds.entries)?;
    let starts = local::check(&bytes, &raw, directory.start)?;
    bound(&raw, bytes.len() as u64, bounds)?;

    let mut entries = Vec::new();
    for (raw, start) in raw.iter().zip(starts) {
        if let Some(entry) = read_entry(&bytes, raw, start)? {
            entries.push(entry);
        }
    }
    drop(raw);
    let mut entries = tree::settle(entries, bounds)?;
    let entry = options.entry.clone().unwrap_or_default();
    tree::strip_top(&mut entries, &entry::files(&entry));
    tree::check(&entries)?;
    Source::of(Form::Zip, entry, entries, Store::Bytes(bytes), options)
}

/// Refuses too much by what is declared. Inflating later holds every entry to exactly that.
fn bound(raw: &[RawEntry<'_>], packed: u64, bounds: &Bounds) -> Result<(), SourceError> {
    let mut size = 0u64;
    for entry in raw {
        if entry.size > entry.packed.saturating_mul(DEFLATE_LIMIT) {
            return Err(SourceError::entry(entry.name, "claims to hold more than its bytes can"));
        }
        size = size.saturating_add(entry.size);
    }
    if size > bounds.unpacked {
        let limit = bounds.unpacked;
        return Err(SourceError::TooLarge {
            what: "what it unpacks to",
            size,
            limit,
            flag: "--max-unpacked",
        });
    }
    if size > Bounds::RATIO_FROM && size > packed.saturating_mul(bounds.ratio) {
        return Err(SourceError::Bomb { size, ratio: bounds.ratio });
    }
    Ok(())
}

/// What an entry of the zip is in the tree. `None` for the root itself.
fn read_entry(bytes: &Bytes, raw: &RawEntry<'_>, start: usize) -> Result<Option<Entry>, SourceError> {
    const TYPE: u32 = 0o170_000;
    let refuse = |reason| Err(SourceError::entry(raw.name, reason));
    // A header is 30 bytes long and within the file, so that none of this wraps; `local` has seen that it fits.
    let at = start..start.saturating_add(usize::try_from(raw.packed).unwrap_or(usize::MAX));
    let slash = raw.name.ends_with(b"/");
    let Some(path) = names::clean(raw.name)? else {
        return if slash && raw.size == 0 { Ok(None) } else { refuse("has no name") };
    };
    let kind = match (raw.mode & TYPE, slash) {
        (0o040_000, _) | (0, true) => {
            // Some tools deflate the nothing that a folder holds, to two bytes.
            if raw.size != 0 || raw.packed > if raw.method == DEFLATED { 2 } else { 0 } {
                return refuse("is a folder with content");
            }
            Kind::Folder
        }
        (0o100_000 | 0, false) => {
            let executable = raw.mode & 0o111 != 0;
            let content = match raw.method {
                STORED => Content::Stored { at, crc: Some(raw.crc) },
                _ => Content::Deflated { at, crc: raw.crc },
            };
            Kind::File { executable, size: raw.size, content }
        }
        (0o120_000, false) => Kind::Link { target: read_target(bytes.get(at).unwrap_or_default(), raw)? },
        (_, true) => return refuse("is named like a folder and is none"),
        (0o020_000 | 0o060_000, _) => return refuse("is a device"),
        (0o010_000, _) => return refuse("is a FIFO"),
        (0o140_000, _) => return refuse("is a socket"),
        _ => return refuse("is of an unknown kind"),
    };
    Ok(Some(Entry { path, kind }))
}

/// A link's content is where it leads: small, so it is inflated at once, and checked like any other content.
fn read_target(data: &[u8], raw: &RawEntry<'_>) -> Result<Box<str>, SourceError> {
    let refuse = |reason| Err(SourceError::entry(raw.name, reason));
    if raw.size > MAX_TARGET {
        return refuse("is a symbolic link with a target of more than 3,072 bytes");
    }
    let mut target = Vec::new();
    let read = match raw.method {
        STORED => data.take(raw.size + 1).read_to_end(&mut target),
        _ => flate2::read::DeflateDecoder::new(data).take(raw.size + 1).read_to_end(&mut target),
    };
    if read.is_err() || target.len() as u64 != raw.size || crc32fast::hash(&target) != raw.crc {
        return refuse("is damaged: its size or CRC-32 is wrong");
    }
    match String::from_utf8(target) {
        Ok(target) => Ok(target.into()),
        Err(_) => refuse("is a symbolic link to a name that is not UTF-8"),
    }
}
