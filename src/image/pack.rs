//! A source that is no zip as a layer: compressed once, when its digest or bytes are first wanted, and kept.
//!
//! Up to 1 MiB is kept in memory, more in a file without a name, which the kernel removes with the last handle.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tempfile::SpooledTempFile;

use super::layer::{Chunks, Content};
use super::writer::{LayerWriter, Level, Written, failed};
use super::{CODE_FOLDER, ImageError};
use crate::oci::{Descriptor, Digest, media_type};
use crate::source::{Kind, Source, missing_folders};

const IN_MEMORY: usize = 1 << 20;

/// The layer of a folder or a `.py`.
pub(super) struct Pack {
    source: Arc<Source>,
    packed: Mutex<Option<Arc<Packed>>>,
}

struct Packed {
    written: Written,
    bytes: Kept,
}

enum Kept {
    Memory(Bytes),
    File(Arc<File>),
}

impl Pack {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self { source, packed: Mutex::new(None) }
    }

    fn packed(&self) -> Result<Arc<Packed>, ImageError> {
        let mut slot = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(packed) = &*slot {
            return Ok(packed.clone());
        }
        let out = SpooledTempFile::new(IN_MEMORY);
        let mut layer = LayerWriter::new(out, Level::Fast, 0);
        append(&mut layer, &self.source)?;
        let (written, out) = layer.finish().map_err(failed)?;
        let bytes = match out.into_inner() {
            tempfile::SpooledData::InMemory(cursor) => Kept::Memory(cursor.into_inner().into()),
            tempfile::SpooledData::OnDisk(file) => Kept::File(Arc::new(file)),
        };
        Ok(slot.insert(Arc::new(Packed { written, bytes })).clone())
    }
}

impl Content for Pack {
    fn media_type(&self) -> &str {
        media_type::LAYER_GZIP
    }

    fn chunks(&self) -> Result<Chunks, ImageError> {
        let packed = self.packed()?;
        Ok(match &packed.bytes {
            Kept::Memory(bytes) => Box::new(std::iter::once(Ok(bytes.clone()))),
            Kept::File(file) => super::blob::read_in_chunks(FromStart { file: file.clone(), at: 0 }),
        })
    }

    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        Ok(self.packed()?.written.descriptor.clone())
    }

    fn diff_id(&self) -> Result<Digest, ImageError> {
        Ok(self.packed()?.written.diff_id.clone())
    }
}

fn append<W: Write>(layer: &mut LayerWriter<W>, source: &Source) -> Result<(), ImageError> {
    layer.folder(CODE_FOLDER, 0o755).map_err(failed)?;
    let mut previous = "";
    for entry in source.entries() {
        let place = |path: &str| format!("{CODE_FOLDER}/{path}");
        for folder in missing_folders(previous, &entry.path) {
            layer.folder(&place(folder), 0o755).map_err(failed)?;
        }
        previous = &entry.path;
        let path = place(&entry.path);
        let step = ImageError::io("pack", &*entry.path);
        match &entry.kind {
            Kind::Folder => layer.folder(&path, entry.mode()),
            Kind::Link { target } => layer.link(&path, target),
            Kind::File { size, .. } => source
                .read_plain(entry)
                .and_then(|mut content| layer.file(&path, entry.mode(), *size, &mut content)),
        }
        .map_err(step)?;
    }
    Ok(())
}

/// Reads a file by position, so that several readers do not disturb each other.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl io::Read for FromStart {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(out, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}
