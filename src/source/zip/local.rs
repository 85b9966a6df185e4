//! Each entry's own header and data descriptor, held against the directory: APPNOTE 4.3.7 and 4.3.9.

use super::super::SourceError;
use super::directory::RawEntry;
use super::fields::{self, Fields, IN_ZIP64, UNICODE_PATH, ZIP64, Zip64};

const HEADER: [u8; 4] = *b"PK\x03\x04";
const HEADER_SIZE: usize = 30;
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
/// The sizes follow the content instead of preceding it.
const STREAMED: u16 = 1 << 3;

/// Checks that the entries, in the order of their offsets, fill the file from its first byte to the directory, and that
/// each one's header says what the directory says. Gives where each one's content begins, in the directory's order.
pub(super) fn check(
    bytes: &[u8],
    entries: &[RawEntry<'_>],
    directory: usize,
) -> Result<Vec<usize>, SourceError> {
    let archive = |reason| SourceError::Archive { reason };
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_unstable_by_key(|&at| entries.get(at).map(|entry| entry.offset));
    let mut starts = vec![0; entries.len()];
    let mut expected = 0u64;
    for (place, &at) in order.iter().enumerate() {
        let Some(entry) = entries.get(at) else { continue };
        if entry.offset < expected {
            return Err(SourceError::entry(entry.name, "overlaps another entry"));
        }
        if entry.offset > expected {
            return Err(if place == 0 {
                archive("there is something before its first entry")
            } else {
                SourceError::entry(entry.name, "comes after bytes that belong to no entry")
            });
        }
        let next = order.get(place + 1).and_then(|&at| entries.get(at)).map(|entry| entry.offset);
        let end = next.unwrap_or(directory as u64).min(directory as u64);
        let start = check_entry(bytes, entry, end)?;
        if let Some(slot) = starts.get_mut(at) {
            *slot = start;
        }
        expected = end;
    }
    if expected != directory as u64 {
        return Err(archive("there is something before its directory"));
    }
    Ok(starts)
}

/// Checks one entry, which must end exactly where the next thing begins. Gives where its content begins.
fn check_entry(bytes: &[u8], entry: &RawEntry<'_>, end: u64) -> Result<usize, SourceError> {
    let refuse = |reason| SourceError::entry(entry.name, reason);
    let cut_off = || refuse("is cut off");
    let at = usize::try_from(entry.offset).map_err(|_| cut_off())?;
    let header = fields::record::<HEADER_SIZE>(bytes, at).ok_or_else(cut_off)?;
    if !header.starts_with(&HEADER) {
        return Err(refuse("is not where the directory says"));
    }
    let header = Fields(header);
    let name_at = at + HEADER_SIZE;
    let extra_at = name_at + usize::from(header.u16::<26>());
    let start = extra_at + usize::from(header.u16::<28>());
    let name = bytes.get(name_at..extra_at).ok_or_else(cut_off)?;
    let extra = bytes.get(extra_at..start).ok_or_else(cut_off)?;
    if name != entry.name {
        return Err(refuse("has another name in its own header"));
    }
    if header.u16::<8>() != entry.method || header.u16::<6>() != entry.flags {
        return Err(refuse("has another method or other flags in its own header"));
    }
    check_sizes(entry, &header, extra)?;
    let content_end = (start as u64).checked_add(entry.packed).ok_or_else(cut_off)?;
    if entry.flags & STREAMED == 0 {
        return match content_end.cmp(&end) {
            std::cmp::Ordering::Equal => Ok(start),
            std::cmp::Ordering::Greater => Err(refuse("overlaps what follows it, or is cut off")),
            std::cmp::Ordering::Less => Err(refuse("is followed by bytes that belong to no entry")),
        };
    }
    let between = usize::try_from(content_end)
        .ok()
        .zip(usize::try_from(end).ok())
        .and_then(|(from, to)| bytes.get(from..to))
        .ok_or_else(|| refuse("overlaps what follows it, or is cut off"))?;
    check_descriptor(entry, between)?;
    Ok(start)
}

/// The header's CRC and sizes: those of the directory, or nothing yet where they follow the content.
fn check_sizes(
    entry: &RawEntry<'_>,
    header: &Fields<'_, HEADER_SIZE>,
    extra: &[u8],
) -> Result<(), SourceError> {
    let refuse = |reason| SourceError::entry(entry.name, reason);
    let mut zip64 = None;
    for record in fields::extras(extra) {
        // Zeros that align the content are no record and are harmless: nothing in them is read.
        let Ok((id, data)) = record else { break };
        match id {
            ZIP64 if zip64.replace(Zip64(data)).is_some() => return Err(refuse("has two zip64 records")),
            UNICODE_PATH if data.get(5..) != Some(entry.name) => {
                return Err(refuse("has another name in its Unicode path record"));
            }
            _ => {}
        }
    }
    let mut zip64 = zip64.unwrap_or(Zip64(&[]));
    let streamed = entry.flags & STREAMED != 0;
    let mut widen = |field| match zip64.widen(field) {
        // A placeholder without a record behind it promises a number that the descriptor will bring.
        None if streamed && field == IN_ZIP64 => Ok(0),
        number => number.ok_or_else(|| refuse("has a zip64 record that lacks a number")),
    };
    let (size, packed) = (widen(header.u32::<22>())?, widen(header.u32::<18>())?);
    let crc = header.u32::<14>();
    let agrees = |own: u64, listed: u64| own == listed || streamed && own == 0;
    if !agrees(size, entry.size) || !agrees(packed, entry.packed) {
        return Err(refuse("has other sizes in its own header"));
    }
    if !agrees(crc.into(), entry.crc.into()) {
        return Err(refuse("has another CRC-32 in its own header"));
    }
    Ok(())
}

/// What stands between the content and the next thing is the descriptor: with or without a signature, with sizes of 32
/// bits or 64. Its length alone tells the four forms apart.
fn check_descriptor(entry: &RawEntry<'_>, between: &[u8]) -> Result<(), SourceError> {
    let mut expected = Vec::with_capacity(24);
    if matches!(between.len(), 16 | 24) {
        expected.extend_from_slice(&DESCRIPTOR);
    }
    expected.extend_from_slice(&entry.crc.to_le_bytes());
    for size in [entry.packed, entry.size] {
        match (between.len(), u32::try_from(size)) {
            (12 | 16, Ok(size)) => expected.extend_from_slice(&size.to_le_bytes()),
            _ => expected.extend_from_slice(&size.to_le_bytes()),
        }
    }
    if between == expected {
        Ok(())
    } else {
        Err(SourceError::entry(entry.name, "has a data descriptor that contradicts the directory"))
    }
}
