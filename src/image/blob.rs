//! One blob of a layout: written so that a crash leaves all of it or nothing, read so that damage is noticed.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tempfile::NamedTempFile;

use super::ImageError;
use super::layer::{Chunks, Content};
use crate::oci::{Descriptor, Digest, Hasher};

/// Takes a blob's bytes and gives it its place once they are complete. Dropped before that, it leaves nothing.
pub struct BlobWriter {
    blobs: PathBuf,
    file: BufWriter<NamedTempFile>,
    hasher: Hasher,
}

impl BlobWriter {
    /// `blobs` is the layout's folder of that name.
    pub(super) fn new(blobs: PathBuf) -> Result<Self, ImageError> {
        let file = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempfile_in(&blobs)
            .map_err(ImageError::io("create a file in", &blobs))?;
        Ok(Self { blobs, file: BufWriter::with_capacity(256 << 10, file), hasher: Hasher::sha256() })
    }

    /// Makes the blob durable and gives it its name. One that is there already stays as it is.
    pub fn commit(self, media_type: &str) -> Result<Descriptor, ImageError> {
        let size = self.hasher.bytes();
        let descriptor = Descriptor::new(media_type, self.hasher.finish(), size);
        let place = place(&self.blobs, &descriptor.digest);
        let file = self.file.into_inner().map_err(|e| ImageError::io("write", &place)(e.into_error()))?;
        persist(file, &place)?;
        Ok(descriptor)
    }

    /// As [`commit`](Self::commit), if the bytes are those of `expected`; else an error, and nothing is kept.
    pub fn commit_as(self, expected: &Descriptor) -> Result<(), ImageError> {
        let damaged = |reason| ImageError::Damaged {
            digest: expected.digest.clone(),
            path: self.blobs.parent().unwrap_or(&self.blobs).into(),
            reason,
        };
        if self.hasher.bytes() != expected.size {
            return Err(damaged("it has another size"));
        }
        if self.hasher.clone().finish() != expected.digest {
            return Err(damaged("its bytes have another digest"));
        }
        self.commit(&expected.media_type).map(drop)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Where a blob is kept: image-layout, "Blobs".
pub(super) fn place(blobs: &Path, digest: &Digest) -> PathBuf {
    blobs.join(digest.algorithm().name()).join(digest.hex())
}

/// Moves a complete file to its place: content first, then its name, then the folder that holds the name.
pub(super) fn persist(file: NamedTempFile, place: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    let folder = place.parent().unwrap_or(place);
    file.as_file()
        .set_permissions(PermissionsExt::from_mode(0o644))
        .and_then(|()| file.as_file().sync_all())
        .map_err(ImageError::io("write", place))?;
    std::fs::create_dir_all(folder).map_err(ImageError::io("create", folder))?;
    file.persist(place).map_err(|e| ImageError::io("write", place)(e.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ImageError::io("write", folder))
}

/// A blob's bytes, checked against its descriptor on the way: the last read fails if they are not what it says.
pub(super) struct CheckedFile {
    file: File,
    hasher: Option<Hasher>,
    expected: Descriptor,
}

impl CheckedFile {
    pub(super) fn new(file: File, expected: Descriptor) -> Self {
        let hasher = Some(Hasher::new(expected.digest.algorithm()));
        Self { file, hasher, expected }
    }
}

impl Read for CheckedFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(out)?;
        let Some(hasher) = &mut self.hasher else { return Ok(length) };
        hasher.update(&out[..length]);
        let ended = length == 0 && !out.is_empty();
        let damaged = hasher.bytes() > self.expected.size
            || ended
                && (hasher.bytes() != self.expected.size || hasher.clone().finish() != self.expected.digest);
        if damaged {
            let text = format!("the stored bytes of {} are not what their name says", self.expected.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if ended {
            self.hasher = None;
        }
        Ok(length)
    }
}

/// A layer that is a blob of a layout.
pub(super) struct Blob {
    pub(super) path: PathBuf,
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    /// Locked, so that nobody discards the blob meanwhile.
    pub(super) _held: Option<File>,
}

impl Content for Blob {
    fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }

    fn chunks(&self) -> Result<Chunks, ImageError> {
        let file = File::open(&self.path).map_err(ImageError::io("open", &self.path))?;
        Ok(read_in_chunks(CheckedFile::new(file, self.descriptor.clone())))
    }

    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        Ok(self.descriptor.clone())
    }

    fn diff_id(&self) -> Result<Digest, ImageError> {
        Ok(self.diff_id.clone())
    }
}

/// Pieces of 256 KiB.
pub(super) fn read_in_chunks(mut from: impl Read + Send + 'static) -> Chunks {
    let mut ended = false;
    Box::new(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut buffer = BytesMut::zeroed(256 << 10);
        let chunk = from.read(&mut buffer).map(|length| {
            buffer.truncate(length);
            buffer.freeze()
        });
        ended = chunk.as_ref().map_or(true, Bytes::is_empty);
        chunk.map(|chunk| (!chunk.is_empty()).then_some(chunk)).transpose()
    }))
}
