//! A zip as a layer, without compressing anything again.
//!
//! A zip's entry is a raw deflate stream with its CRC-32 and size beside it, and so is a gzip member. So the layer is
//!
//! ```text
//! member: tar header                      made here (`gzip::Member`)
//! member: the entry's own deflate bytes   taken from the zip, 18 bytes put round them
//! member: padding, next tar header        made here
//! …
//! ```
//!
//! A stored entry joins the member that is being made, as stored blocks. What a byte of the layer is depends on nothing
//! but the zip's directory and contents, and all of it can be streamed: the layer is never whole anywhere. Whether the
//! contents are what the directory says is not looked at here but in `inflate`, which finds the diff ID.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::gzip::{self, Member};
use super::layer::{Chunks, Content};
use super::tar::{self, Header};
use super::{CODE_FOLDER, ImageError, inflate};
use crate::oci::{Descriptor, Digest, Hasher, media_type};
use crate::source::{self, Entry, Kind, Source, missing_folders};

/// Made bytes and small contents are gathered up to about this size before they are given out.
const GATHER: usize = 128 << 10;
/// From here on, a content is given out as a slice of the zip instead of a copy.
const BY_SLICE: usize = 16 << 10;
/// The largest slice.
const SLICE: usize = 1 << 20;

/// The layer of a zip.
pub(super) struct Splice {
    source: Arc<Source>,
}

impl Splice {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source }
    }
}

impl Content for Splice {
    fn media_type(&self) -> &str {
        media_type::LAYER_GZIP
    }

    fn chunks(&self) -> Result<Chunks, ImageError> {
        Ok(Box::new(Pieces::new(self.source.clone()).map(Ok)))
    }

    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        let mut hasher = Hasher::sha256();
        Pieces::new(self.source.clone()).for_each(|piece| hasher.update(&piece));
        let size = hasher.bytes();
        Ok(Descriptor::new(media_type::LAYER_GZIP, hasher.finish(), size))
    }

    fn diff_id(&self) -> Result<Digest, ImageError> {
        Ok(inflate::diff_id(&self.source)?)
    }
}

/// Writes what stands before an entry's content: headers of folders that the zip only implies, and the entry's own.
///
/// `previous` is the path of the entry before it, `None` for the first.
pub(super) fn headers(previous: Option<&str>, entry: &Entry, out: &mut Vec<u8>) {
    let mut header = |path: &str, kind, mode| Header { path, kind, mode, mtime: 0 }.write(out);
    if previous.is_none() {
        header(CODE_FOLDER, tar::Kind::Folder, 0o755);
    }
    let place = |path: &str| [CODE_FOLDER, "/", path].concat();
    for folder in missing_folders(previous.unwrap_or_default(), &entry.path) {
        header(&place(folder), tar::Kind::Folder, 0o755);
    }
    let kind = match &entry.kind {
        Kind::Folder => tar::Kind::Folder,
        Kind::Link { target } => tar::Kind::Link { target },
        Kind::File { size, .. } => tar::Kind::File { size: *size },
    };
    header(&place(&entry.path), kind, entry.mode());
}

/// The layer's bytes in order.
struct Pieces {
    source: Arc<Source>,
    /// The entry that comes next.
    at: usize,
    member: Member,
    /// Tar bytes that wait to become part of a member: headers and padding.
    tar: Vec<u8>,
    /// What is left of a stored entry's content.
    stored: Bytes,
    /// Gathered, after all that is `ready`.
    out: Vec<u8>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Pieces {
    fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            at: 0,
            member: Member::default(),
            tar: Vec::new(),
            stored: Bytes::new(),
            out: Vec::new(),
            ready: VecDeque::new(),
            ended: false,
        }
    }

    /// Appends the rest of a stored entry, or the next entry, or what ends the archive.
    fn step(&mut self) {
        if !self.stored.is_empty() {
            let part = self.stored.split_to(self.stored.len().min(gzip::MAX_STORED));
            self.member.stored(&part, &mut self.out);
            return;
        }
        let source = self.source.clone();
        let Some(entry) = source.entries().get(self.at) else {
            self.tar.extend_from_slice(&tar::END);
            self.flush_tar();
            self.member.finish(&mut self.out);
            self.ended = true;
            return;
        };
        let previous = self.at.checked_sub(1).and_then(|at| source.entries().get(at));
        headers(previous.map(|entry| &*entry.path), entry, &mut self.tar);
        self.at += 1;
        let Kind::File { size, content, .. } = &entry.kind else { return };
        match content {
            source::Content::Stored { at, .. } => {
                self.flush_tar();
                self.stored = source.slice(at);
            }
            source::Content::Deflated { at, crc } => {
                self.flush_tar();
                self.member.finish(&mut self.out);
                self.out.extend_from_slice(&gzip::HEADER);
                self.append(source.slice(at));
                self.out.extend_from_slice(&gzip::trailer(*crc, *size));
            }
            source::Content::OnDisk => {}
        }
        self.tar.resize(self.tar.len() + tar::padding(*size), 0);
    }

    /// Appends bytes of the zip: few as a copy, many as they are.
    fn append(&mut self, mut packed: Bytes) {
        if packed.len() < BY_SLICE {
            self.out.extend_from_slice(&packed);
            return;
        }
        self.give_out();
        while !packed.is_empty() {
            let part = packed.split_to(packed.len().min(SLICE));
            self.ready.push_back(part);
        }
    }

    fn give_out(&mut self) {
        if !self.out.is_empty() {
            self.ready.push_back(std::mem::take(&mut self.out).into());
        }
    }

    fn flush_tar(&mut self) {
        self.member.runs(&self.tar, &mut self.out);
        self.tar.clear();
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() {
            if self.ended {
                self.give_out();
                break;
            }
            self.step();
            if self.out.len() >= GATHER {
                self.give_out();
            }
        }
        self.ready.pop_front()
    }
}
