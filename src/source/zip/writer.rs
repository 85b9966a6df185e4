//! A zip writer that can lie, for tests: every field can be set to anything, in either header.

use std::io::Write;

/// An entry whose two headers say what they are told to.
#[derive(Clone)]
pub(crate) struct Lie {
    pub(crate) name: Vec<u8>,
    pub(crate) local_name: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) local_flags: u16,
    pub(crate) method: u16,
    pub(crate) local_method: u16,
    pub(crate) crc: u32,
    pub(crate) local_crc: u32,
    pub(crate) packed: u32,
    pub(crate) local_packed: u32,
    pub(crate) size: u32,
    pub(crate) local_size: u32,
    pub(crate) extra: Vec<u8>,
    pub(crate) local_extra: Vec<u8>,
    pub(crate) made_by: u16,
    pub(crate) attributes: u32,
    /// Where the directory says the entry is, if not where it is.
    pub(crate) offset: Option<u32>,
    /// What follows the data: a data descriptor.
    pub(crate) after: Vec<u8>,
    /// Whether the entry itself is written, and whether it is listed.
    pub(crate) written: bool,
    pub(crate) listed: bool,
}

/// An honest entry, its content deflated.
pub(crate) fn deflated(name: &str, content: &[u8]) -> Lie {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    let data = encoder.finish().unwrap();
    honest(name, content, data, 8)
}

/// An honest entry, its content as it is.
pub(crate) fn stored(name: &str, content: &[u8]) -> Lie {
    honest(name, content, content.to_vec(), 0)
}

pub(crate) fn link(name: &str, target: &str) -> Lie {
    Lie { attributes: 0o120_777 << 16, ..stored(name, target.as_bytes()) }
}

fn honest(name: &str, content: &[u8], data: Vec<u8>, method: u16) -> Lie {
    let (crc, size, packed) = (crc32fast::hash(content), content.len() as u32, data.len() as u32);
    Lie {
        name: name.into(),
        local_name: name.into(),
        data,
        flags: 0,
        local_flags: 0,
        method,
        local_method: method,
        crc,
        local_crc: crc,
        packed,
        local_packed: packed,
        size,
        local_size: size,
        extra: Vec::new(),
        local_extra: Vec::new(),
        made_by: 3 << 8 | 20,
        attributes: if name.ends_with('/') { 0o040_755 << 16 } else { 0o100_644 << 16 },
        offset: None,
        after: Vec::new(),
        written: true,
        listed: true,
    }
}

impl Lie {
    /// The same with its sizes in a data descriptor of the usual form.
    pub(crate) fn streamed(mut self) -> Self {
        (self.flags, self.local_flags) = (self.flags | 8, self.local_flags | 8);
        (self.local_crc, self.local_packed, self.local_size) = (0, 0, 0);
        self.after = b"PK\x07\x08".to_vec();
        for number in [self.crc, self.packed, self.size] {
            self.after.extend(number.to_le_bytes());
        }
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.attributes = mode << 16;
        self
    }

    pub(crate) fn named(mut self, name: &[u8]) -> Self {
        (self.name, self.local_name) = (name.into(), name.into());
        self
    }

    fn local(&self) -> Vec<u8> {
        let mut out = b"PK\x03\x04\x14\0".to_vec();
        for field in [self.local_flags, self.local_method, 0, 0x21] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.local_crc, self.local_packed, self.local_size] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.local_name.len(), self.local_extra.len()] {
            out.extend((field as u16).to_le_bytes());
        }
        [&out[..], &self.local_name, &self.local_extra, &self.data, &self.after].concat()
    }

    fn central(&self, offset: u32) -> Vec<u8> {
        let mut out = b"PK\x01\x02".to_vec();
        for field in [self.made_by, 20, self.flags, self.method, 0, 0x21] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.crc, self.packed, self.size] {
            out.extend(field.to_le_bytes());
        }
        for field in [self.name.len() as u16, self.extra.len() as u16, 0, 0, 0] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.attributes.to_le_bytes());
        out.extend(self.offset.unwrap_or(offset).to_le_bytes());
        [&out[..], &self.name, &self.extra].concat()
    }
}

/// A zip of these entries with an honest end.
pub(crate) fn zip(entries: &[Lie]) -> Vec<u8> {
    let (mut out, mut directory, mut listed) = (Vec::new(), Vec::new(), 0u16);
    for entry in entries {
        let offset = out.len() as u32;
        if entry.written {
            out.extend(entry.local());
        }
        if entry.listed {
            directory.extend(entry.central(offset));
            listed += 1;
        }
    }
    let start = out.len() as u32;
    let size = directory.len() as u32;
    out.extend(directory);
    out.extend(end(listed, size, start, b""));
    out
}

/// An end record.
pub(crate) fn end(entries: u16, size: u32, start: u32, comment: &[u8]) -> Vec<u8> {
    let mut out = b"PK\x05\x06\0\0\0\0".to_vec();
    out.extend(entries.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(size.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend((comment.len() as u16).to_le_bytes());
    out.extend(comment);
    out
}
