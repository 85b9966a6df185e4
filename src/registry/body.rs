//! The bodies of requests: bytes in memory, or content read piece by piece as the socket takes it.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::oci::Digest;

/// What one piece of a streamed body holds; with the channel's places it bounds the memory of an upload.
const PIECE: usize = 256 << 10;
const PIECES_WAITING: usize = 3;

/// A blob's bytes, given from the start each time they are asked for: an upload may have to begin anew.
pub trait Content: Send + Sync {
    fn digest(&self) -> &Digest;
    /// Exactly as many bytes as `open`'s reader gives.
    fn size(&self) -> u64;
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
}

/// A small blob in memory.
pub struct InMemory {
    digest: Digest,
    bytes: Bytes,
}

impl InMemory {
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(&bytes), bytes }
    }
}

impl Content for InMemory {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.bytes.clone())))
    }
}

/// Counts what moved, so that a slow transfer can be told from a stalled one.
pub(super) type Moved = Arc<AtomicU64>;

/// What a request carries, ready to be made into a body as often as it takes.
#[derive(Clone)]
pub(super) enum Payload {
    None,
    Bytes(Bytes),
    Content(Arc<dyn Content>),
}

impl Payload {
    pub fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Content(content) => content.size(),
        }
    }

    /// A fresh body. What small content holds is read here and now: a thread costs more than the reading.
    pub fn body(&self, moved: Moved) -> io::Result<Outgoing> {
        let remaining = self.len();
        let pieces = match self {
            Self::None => Pieces::One(None),
            Self::Bytes(bytes) => Pieces::One(Some(bytes.clone())),
            Self::Content(content) if remaining <= PIECE as u64 => {
                let mut bytes = Vec::with_capacity(PIECE.min(remaining as usize + 1));
                content.open()?.take(remaining + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 != remaining {
                    return Err(changed());
                }
                Pieces::One(Some(bytes.into()))
            }
            Self::Content(content) => Pieces::Many(pump(content.clone())?),
        };
        Ok(Outgoing { pieces, remaining, moved })
    }
}

/// Reads on a thread of its own, at most [`PIECES_WAITING`] pieces ahead. It ends when the body is dropped.
fn pump(content: Arc<dyn Content>) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let mut reader = content.open()?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    std::thread::Builder::new().name("upload".into()).spawn(move || {
        loop {
            let piece = read_piece(&mut reader);
            if matches!(&piece, Ok(bytes) if bytes.is_empty()) {
                return;
            }
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn read_piece(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    reader.by_ref().take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the content has another length than before")
}

enum Pieces {
    One(Option<Bytes>),
    Many(mpsc::Receiver<io::Result<Bytes>>),
}

/// A request's body with a known length.
pub(super) struct Outgoing {
    pieces: Pieces,
    remaining: u64,
    moved: Moved,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match &mut this.pieces {
            Pieces::One(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok),
            Pieces::Many(receiver) => std::task::ready!(receiver.poll_recv(cx)),
        };
        Poll::Ready(match piece {
            Some(Ok(bytes)) => {
                let Some(left) = this.remaining.checked_sub(bytes.len() as u64) else {
                    return Poll::Ready(Some(Err(changed())));
                };
                this.remaining = left;
                this.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if this.remaining > 0 => Some(Err(changed())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}
