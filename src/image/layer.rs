//! A layer: digest, diff ID, size, media type, and its bytes when asked, as often as asked.
//!
//! Nothing is computed before it is needed, and nothing twice. The digest (of the compressed bytes) and the diff ID (of
//! the uncompressed ones) do not wait for one another, so that two threads can find them at once.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};

use super::ImageError;
use crate::oci::{Descriptor, Digest, Hasher};

/// The compressed bytes, piece by piece: no piece is larger than a few MiB, and those of a spliced layer are mostly
/// slices of the zip itself. An error ends them.
pub type Chunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// One way to be a layer.
pub(super) trait Content: Send + Sync {
    fn media_type(&self) -> &str;

    /// The bytes as a registry stores them.
    fn chunks(&self) -> Result<Chunks, ImageError>;

    /// Found by reading all bytes once, unless there is a quicker way.
    fn descriptor(&self) -> Result<Descriptor, ImageError> {
        let mut hasher = Hasher::sha256();
        for chunk in self.chunks()? {
            hasher.update(&chunk.map_err(ImageError::write("layer"))?);
        }
        let size = hasher.bytes();
        Ok(Descriptor::new(self.media_type(), hasher.finish(), size))
    }

    fn diff_id(&self) -> Result<Digest, ImageError>;
}

/// A filesystem layer. Cheap to clone, and shared between threads.
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

struct Inner {
    content: Box<dyn Content>,
    descriptor: Memo<Descriptor>,
    diff_id: Memo<Digest>,
}

impl Layer {
    pub(super) fn new(content: impl Content + 'static) -> Self {
        Self(Arc::new(Inner { content: Box::new(content), descriptor: Memo::new(), diff_id: Memo::new() }))
    }

    pub fn media_type(&self) -> &str {
        self.0.content.media_type()
    }

    /// Media type, digest and size of the compressed bytes. Takes one pass over them, the first time.
    pub fn descriptor(&self) -> Result<Descriptor, ImageError> {
        self.0.descriptor.get(|| self.0.content.descriptor())
    }

    /// The digest of the uncompressed tar. Inflates and checks every entry, the first time, on as many threads as the
    /// machine has use for.
    pub fn diff_id(&self) -> Result<Digest, ImageError> {
        self.0.diff_id.get(|| self.0.content.diff_id())
    }

    /// The compressed bytes from the start, without a copy where that is possible.
    pub fn chunks(&self) -> Result<Chunks, ImageError> {
        self.0.content.chunks()
    }

    /// The compressed bytes from the start.
    pub fn open(&self) -> Result<Box<dyn Read + Send>, ImageError> {
        Ok(Box::new(ChunkReader { chunks: self.chunks()?, current: Bytes::new() }))
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer").field("media_type", &self.media_type()).finish_non_exhaustive()
    }
}

/// A value that is found at most once; who asks while it is being found waits for it. A failure is not kept.
struct Memo<T>(Mutex<Option<T>>);

impl<T: Clone> Memo<T> {
    fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn get<E>(&self, find: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = &*slot {
            return Ok(value.clone());
        }
        let value = find()?;
        *slot = Some(value.clone());
        Ok(value)
    }
}

/// [`Chunks`] as a reader.
struct ChunkReader {
    chunks: Chunks,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.next() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.current.len());
        self.current.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}
