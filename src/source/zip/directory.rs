//! The end records and the central directory: APPNOTE 4.3.12 to 4.3.16.

use super::super::SourceError;
use super::fields::{self, Fields, UNICODE_PATH, ZIP64, Zip64};
use super::{DEFLATED, STORED};

const END: [u8; 4] = *b"PK\x05\x06";
const END_SIZE: usize = 22;
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_SIZE: usize = 56;
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_SIZE: usize = 20;
const HEADER: [u8; 4] = *b"PK\x01\x02";
const HEADER_SIZE: usize = 46;

/// Where the central directory is, and how many entries it claims to have.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) start: usize,
    end: usize,
    count: u64,
}

/// An entry as the central directory has it.
#[derive(Debug)]
pub(super) struct RawEntry<'a> {
    pub(super) name: &'a [u8],
    pub(super) flags: u16,
    pub(super) method: u16,
    pub(super) crc: u32,
    /// Bytes in the zip.
    pub(super) packed: u64,
    /// Bytes once unpacked.
    pub(super) size: u64,
    /// Where its own header is.
    pub(super) offset: u64,
    /// Unix mode with the file's type; 0 where the tool knew none.
    pub(super) mode: u32,
}

/// Finds the one directory. A file in which two can be found is refused.
pub(super) fn find(bytes: &[u8]) -> Result<Directory, SourceError> {
    let archive = |reason| SourceError::Archive { reason };
    if !bytes.starts_with(b"PK\x03\x04") && !bytes.starts_with(&END) {
        return Err(match find_end(bytes) {
            Some(_) => archive("there is something before its first entry"),
            None => SourceError::NotAZip { path: None, reason: "it does not begin like one" },
        });
    }
    let end = find_end(bytes)
        .ok_or(archive("its end is missing: it was cut off, or something was added behind it"))?;
    let comment = bytes.get(end + END_SIZE..).unwrap_or_default();
    if comment.windows(4).any(|window| window == END) {
        return Err(archive("its comment hides a second directory"));
    }
    let record = fields::record::<END_SIZE>(bytes, end).ok_or(archive("its end is cut off"))?;
    let record = Fields(record);
    let several = archive("it is one part of several");
    let counts = (record.u16::<8>(), record.u16::<10>());
    if record.u16::<4>() != record.u16::<6>()
        || !matches!(record.u16::<4>(), 0 | 0xffff)
        || counts.0 != counts.1
    {
        return Err(several);
    }
    let narrow = Directory {
        start: record.u32::<16>() as usize,
        end: (record.u32::<16>() as usize).saturating_add(record.u32::<12>() as usize),
        count: counts.0.into(),
    };
    let directory = match find_end64(bytes, end)? {
        Some(wide) => agree(&record, wide)?,
        None if record.u16::<4>() != 0 => return Err(several),
        None => (narrow, end),
    };
    let (directory, follows) = directory;
    if directory.end != follows || directory.start > directory.end {
        return Err(archive("its directory does not lie where its end says"));
    }
    Ok(directory)
}

/// The end record: the last one whose comment reaches exactly to the end of the file.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_SIZE)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    (first..=last).rev().find(|&at| {
        fields::record::<END_SIZE>(bytes, at).is_some_and(|record| {
            record.starts_with(&END) && at + END_SIZE + usize::from(Fields(record).u16::<20>()) == bytes.len()
        })
    })
}

/// The zip64 end record, which must be followed by its locator and then by the end record; with its own place.
fn find_end64(bytes: &[u8], end: usize) -> Result<Option<(Directory, usize)>, SourceError> {
    let lies = || SourceError::Archive { reason: "its zip64 end record contradicts itself" };
    let Some(locator_at) = end.checked_sub(LOCATOR_SIZE) else { return Ok(None) };
    let locator = match fields::record::<LOCATOR_SIZE>(bytes, locator_at) {
        Some(record) if record.starts_with(&LOCATOR) => Fields(record),
        _ => return Ok(None),
    };
    let at = usize::try_from(locator.u64::<8>()).map_err(|_| lies())?;
    let record = fields::record::<END64_SIZE>(bytes, at).filter(|record| record.starts_with(&END64));
    let record = Fields(record.ok_or_else(lies)?);
    // Its size counts from behind the size itself. What could follow (encryption's own data) is not for us.
    let right = record.u64::<4>() == END64_SIZE as u64 - 12
        && at + END64_SIZE == locator_at
        && (locator.u32::<4>(), locator.u32::<16>()) == (0, 1)
        && (record.u32::<16>(), record.u32::<20>()) == (0, 0)
        && record.u64::<24>() == record.u64::<32>();
    if !right {
        return Err(lies());
    }
    let start = usize::try_from(record.u64::<48>()).map_err(|_| lies())?;
    let size = usize::try_from(record.u64::<40>()).map_err(|_| lies())?;
    let end = start.checked_add(size).ok_or_else(lies)?;
    Ok(Some((Directory { start, end, count: record.u64::<24>() }, at)))
}

/// A number in the plain end record is either a placeholder or the same as in the zip64 one.
fn agree(record: &Fields<'_, END_SIZE>, wide: (Directory, usize)) -> Result<(Directory, usize), SourceError> {
    let directory = &wide.0;
    let same = |narrow: u32, placeholder: u32, wide: u64| narrow == placeholder || u64::from(narrow) == wide;
    let right = same(record.u16::<8>().into(), 0xffff, directory.count)
        && same(record.u32::<12>(), u32::MAX, (directory.end - directory.start) as u64)
        && same(record.u32::<16>(), u32::MAX, directory.start as u64);
    if right {
        Ok(wide)
    } else {
        Err(SourceError::Archive { reason: "its two end records contradict each other" })
    }
}

/// Reads the directory, which must hold exactly the entries that it claims, and no more than `limit`.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    directory: &Directory,
    limit: usize,
) -> Result<Vec<RawEntry<'a>>, SourceError> {
    let archive = |reason| SourceError::Archive { reason };
    let mut rest = bytes.get(directory.start..directory.end).ok_or(archive("its directory is cut off"))?;
    // The claimed count is compared, never allocated.
    let mut entries = Vec::new();
    while !rest.is_empty() {
        if entries.len() >= limit {
            return Err(SourceError::TooMany { limit });
        }
        let (entry, after) = read_header(rest)?;
        entries.push(entry);
        rest = after;
    }
    if entries.len() as u64 != directory.count {
        return Err(archive("its directory has another number of entries than its end says"));
    }
    Ok(entries)
}

fn read_header(bytes: &[u8]) -> Result<(RawEntry<'_>, &[u8]), SourceError> {
    let damaged = || SourceError::Archive { reason: "its directory is damaged" };
    let (header, rest) = bytes.split_first_chunk::<HEADER_SIZE>().ok_or_else(damaged)?;
    if !header.starts_with(&HEADER) {
        return Err(damaged());
    }
    let header = Fields(header);
    let (name, rest) = rest.split_at_checked(header.u16::<28>().into()).ok_or_else(damaged)?;
    let (extra, rest) = rest.split_at_checked(header.u16::<30>().into()).ok_or_else(damaged)?;
    let (_comment, rest) = rest.split_at_checked(header.u16::<32>().into()).ok_or_else(damaged)?;

    let refuse = |reason| SourceError::entry(name, reason);
    let mut zip64 = None;
    for record in fields::extras(extra) {
        let (id, data) = record.map_err(|()| refuse("has a damaged extra field"))?;
        match id {
            ZIP64 if zip64.replace(Zip64(data)).is_some() => return Err(refuse("has two zip64 records")),
            UNICODE_PATH => check_unicode_path(name, data)?,
            _ => {}
        }
    }
    let mut zip64 = zip64.unwrap_or(Zip64(&[]));
    let lies = || refuse("has a zip64 record that lacks a number");
    let size = zip64.widen(header.u32::<24>()).ok_or_else(lies)?;
    let packed = zip64.widen(header.u32::<20>()).ok_or_else(lies)?;
    let offset = zip64.widen(header.u32::<42>()).ok_or_else(lies)?;
    if !matches!(header.u16::<34>(), 0 | 0xffff) {
        return Err(refuse("lies in another part of a divided zip"));
    }
    let entry = RawEntry {
        name,
        flags: header.u16::<8>(),
        method: header.u16::<10>(),
        crc: header.u32::<16>(),
        packed,
        size,
        offset,
        mode: header.u32::<38>() >> 16,
    };
    check_method(&entry)?;
    Ok((entry, rest))
}

fn check_method(entry: &RawEntry<'_>) -> Result<(), SourceError> {
    const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
    const PATCHED: u16 = 1 << 5;
    let refuse = |reason| SourceError::entry(entry.name, reason);
    if entry.flags & ENCRYPTED != 0 {
        return Err(refuse("is encrypted").or_else("zip it without a password"));
    }
    if entry.flags & PATCHED != 0 {
        return Err(refuse("is a patch, not a file"));
    }
    match entry.method {
        STORED if entry.packed != entry.size => Err(refuse("is stored, and has two sizes all the same")),
        STORED | DEFLATED => Ok(()),
        _ => {
            let hint = "zip it with the ordinary method, deflate (zip -r, 7z -mm=Deflate)";
            Err(refuse("is compressed by a method other than stored and deflate").or_else(hint))
        }
    }
}

/// APPNOTE 4.6.9: some readers take this name instead of the entry's.
fn check_unicode_path(name: &[u8], data: &[u8]) -> Result<(), SourceError> {
    match data.get(5..) {
        Some(other) if other == name => Ok(()),
        _ => Err(SourceError::entry(name, "has another name in its Unicode path record")),
    }
}
