//! What the journal holds: one [`Record`] per change, framed so that a torn tail is seen.
//!
//! A frame is `length, crc32, header length` (three little-endian `u32`), a JSON header and a payload. The checksum
//! covers everything behind it. The payload carries the bytes of small blobs: see [`super::journal`].

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Repository, Tag};

/// Seconds since 1970. Enough until 2106, and half the memory where there are hundreds of thousands of them.
pub type Seconds = u32;

pub fn now() -> Seconds {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Seconds::try_from(since.as_secs()).unwrap_or(Seconds::MAX)
}

/// A change to the index. Applying one twice is the same as applying it once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Record {
    /// The blob is stored, and the repository may serve it.
    Blob { repository: Repository, digest: Digest, size: u64 },
    /// The manifest is stored, the repository serves it, and the tags point to it.
    Manifest(ManifestRecord),
    /// The tag is gone.
    Untag { repository: Repository, tag: Tag, at: Seconds },
    /// The repository no longer serves the manifest, nor the tags that point to it.
    Forget { repository: Repository, digest: Digest },
    /// The repository no longer serves the blob; others may.
    Unlink { repository: Repository, digest: Digest },
    /// The bytes are about to be removed: no repository serves them.
    Gone { digest: Digest },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestRecord {
    pub repository: Repository,
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// What must not be collected while this manifest is here: config, layers, children.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    pub at: Seconds,
}

const PREFIX: usize = 12;
/// Far above any frame that is written (a manifest's annotations are not in it): a larger length is damage.
const MAX_FRAME: usize = 64 << 20;

/// Appends the frame to `out`.
pub fn encode(record: &Record, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    serde_json::to_writer(&mut *out, record)?;
    let header = u32::try_from(out.len() - start - PREFIX).map_err(io::Error::other)?;
    out.extend_from_slice(payload);
    let length = u32::try_from(out.len() - start - PREFIX).map_err(io::Error::other)?;
    let mut prefix = [0; PREFIX];
    prefix[..4].copy_from_slice(&length.to_le_bytes());
    prefix[8..].copy_from_slice(&header.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&prefix[8..]);
    crc.update(out.get(start + PREFIX..).unwrap_or_default());
    prefix[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
    out.splice(start..start + PREFIX, prefix);
    Ok(())
}

/// What stands at the reader's position.
pub enum Frame {
    Whole {
        record: Record,
        payload: Vec<u8>,
        length: u64,
    },
    /// The file ends here, or in the middle of a frame, or in bytes that are no frame.
    End {
        torn: bool,
    },
}

/// Reads one frame. An error is one of the disk, never of the content.
pub fn decode(reader: &mut impl Read) -> io::Result<Frame> {
    let mut prefix = [0; PREFIX];
    match read_up_to(reader, &mut prefix)? {
        0 => return Ok(Frame::End { torn: false }),
        PREFIX => {}
        _ => return Ok(Frame::End { torn: true }),
    }
    let word = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let (length, sum, header) = (word(0) as usize, word(4), word(8) as usize);
    if length > MAX_FRAME || header > length {
        return Ok(Frame::End { torn: true });
    }
    // Grown as bytes arrive, so that a damaged length claims no memory.
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&prefix[8..]);
    crc.update(&body);
    if body.len() != length || crc.finalize() != sum {
        return Ok(Frame::End { torn: true });
    }
    let payload = body.split_off(header);
    match serde_json::from_slice(&body) {
        Ok(record) => Ok(Frame::Whole { record, payload, length: (PREFIX + length) as u64 }),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Record {
        Record::Blob { repository: "fn/add".parse().unwrap(), digest: Digest::of(b"x"), size: 1 }
    }

    #[test]
    fn frames_come_back_with_their_payload() {
        let mut bytes = Vec::new();
        encode(&blob(), b"x", &mut bytes).unwrap();
        let gone = Record::Gone { digest: Digest::of(b"y") };
        encode(&gone, b"", &mut bytes).unwrap();
        let mut reader = bytes.as_slice();
        for (expected, bytes) in [(blob(), b"x".as_slice()), (gone, b"")] {
            match decode(&mut reader).unwrap() {
                Frame::Whole { record, payload, .. } => assert_eq!((record, &payload[..]), (expected, bytes)),
                Frame::End { .. } => panic!("a frame is missing"),
            }
        }
        assert!(matches!(decode(&mut reader).unwrap(), Frame::End { torn: false }));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_a_torn_end() {
        let mut bytes = Vec::new();
        encode(&blob(), b"payload", &mut bytes).unwrap();
        for length in 1..bytes.len() {
            assert!(matches!(decode(&mut &bytes[..length]).unwrap(), Frame::End { torn: true }), "{length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert!(
                matches!(decode(&mut damaged.as_slice()).unwrap(), Frame::End { torn: true }),
                "byte {at}"
            );
        }
    }
}
