//! A layer written from scratch: a tar, compressed at a fixed level, with both digests at the end.
//!
//! The tar is cut every MiB and each piece compressed as a gzip member of its own. That bounds memory, costs almost
//! nothing (deflate looks back 32 KiB), and lets a one-shot compressor be used: libdeflate is faster and smaller than the
//! streaming ones, and, unlike those that hash with whatever the processor offers, gives the same bytes everywhere.

use std::io::{self, Read, Write};

use libdeflater::{CompressionLvl, Compressor};

use super::ImageError;
use super::tar::{self, Header, Kind};
use crate::oci::{Descriptor, Digest, Hasher, media_type};

const PIECE: usize = 1 << 20;

/// How hard to try. A fixed part of what makes a digest: never chosen by measurement at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// For code, which is compressed at every push.
    Fast,
    /// For bases, which are compressed once.
    Small,
}

impl Level {
    fn value(self) -> i32 {
        match self {
            Self::Fast => 6,
            Self::Small => 9,
        }
    }
}

/// What a finished layer is called by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
}

/// Takes entries in order and writes a gzipped tar to `W`.
pub struct LayerWriter<W> {
    out: W,
    mtime: u64,
    compressor: Compressor,
    /// The tar's bytes that wait to be compressed; at most [`PIECE`] of them between calls.
    pending: Vec<u8>,
    compressed: Vec<u8>,
    digest: Hasher,
    diff_id: Hasher,
}

impl<W: Write> LayerWriter<W> {
    /// Every entry gets the time `mtime`, in seconds since 1970.
    pub fn new(out: W, level: Level, mtime: u64) -> Self {
        // The level is one of two constants, both within libdeflate's range; its default is the one for `Fast`.
        let level = CompressionLvl::new(level.value()).unwrap_or_default();
        let compressor = Compressor::new(level);
        let (digest, diff_id) = (Hasher::sha256(), Hasher::sha256());
        Self { out, mtime, compressor, pending: Vec::new(), compressed: Vec::new(), digest, diff_id }
    }

    /// A folder. Paths are relative, with `/` between their parts and none at either end.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.header(path, Kind::Folder, mode)
    }

    /// A symbolic link, whose target is written as it is.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.header(path, Kind::Link { target }, 0o777)
    }

    /// A file of exactly `size` bytes; fewer or more in `content` are an error.
    pub fn file(&mut self, path: &str, mode: u32, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.header(path, Kind::File { size }, mode)?;
        let mut left = size;
        while left > 0 {
            let start = self.pending.len();
            let room = (PIECE - start).min(usize::try_from(left).unwrap_or(PIECE));
            self.pending.resize(start + room, 0);
            content.read_exact(&mut self.pending[start..])?;
            left -= room as u64;
            self.drain()?;
        }
        if content.read(&mut [0])? != 0 {
            return Err(io::Error::other("the file grew while it was read"));
        }
        self.pending.resize(self.pending.len() + tar::padding(size), 0);
        self.drain()
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<(Written, W)> {
        self.pending.extend_from_slice(&tar::END);
        self.drain()?;
        self.compress(self.pending.len())?;
        self.out.flush()?;
        let size = self.digest.bytes();
        let descriptor = Descriptor::new(media_type::LAYER_GZIP, self.digest.finish(), size);
        Ok((Written { descriptor, diff_id: self.diff_id.finish() }, self.out))
    }

    fn header(&mut self, path: &str, kind: Kind<'_>, mode: u32) -> io::Result<()> {
        Header { path, kind, mode, mtime: self.mtime }.write(&mut self.pending);
        self.drain()
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.pending.len() >= PIECE {
            self.compress(PIECE)?;
        }
        Ok(())
    }

    /// Turns the first `length` pending bytes into a member.
    fn compress(&mut self, length: usize) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let piece = &self.pending[..length];
        self.diff_id.update(piece);
        self.compressed.resize(self.compressor.gzip_compress_bound(length), 0);
        let size = self.compressor.gzip_compress(piece, &mut self.compressed).map_err(io::Error::other)?;
        let member = &self.compressed[..size];
        self.digest.update(member);
        self.out.write_all(member)?;
        self.pending.drain(..length);
        Ok(())
    }
}

/// Names the failure of a writer that writes to memory or to a file of our own.
pub(super) fn failed(source: io::Error) -> ImageError {
    ImageError::Write { what: "layer", source }
}
