//! The bodies of requests: bytes in memory, or content read piece by piece as the socket takes it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::oci::Digest;

/// What one piece of a streamed body holds at most of many small chunks; with the channel's places it bounds the memory of an upload.
const PIECE: usize = 256 << 10;
const PIECES_WAITING: usize = 3;

/// A blob's bytes piece by piece; an error ends them.
pub type Chunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// A blob's bytes, given from the start each time they are asked for: an upload may have to begin anew.
pub trait Content: Send + Sync {
    fn digest(&self) -> &Digest;
    /// Exactly as many bytes as `chunks` gives.
    fn size(&self) -> u64;
    fn chunks(&self) -> io::Result<Chunks>;
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

    fn chunks(&self) -> io::Result<Chunks> {
        Ok(Box::new(std::iter::once(Ok(self.bytes.clone()))))
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
                let mut bytes = BytesMut::new();
                for chunk in content.chunks()? {
                    bytes.extend_from_slice(&chunk?);
                    if bytes.len() as u64 > remaining {
                        return Err(changed());
                    }
                }
                if bytes.len() as u64 != remaining {
                    return Err(changed());
                }
                Pieces::One(Some(bytes.freeze()))
            }
            Self::Content(content) => Pieces::Many(pump(content.clone())?),
        };
        Ok(Outgoing { pieces, current: Bytes::new(), remaining, moved })
    }
}

/// Reads on a thread of its own, at most [`PIECES_WAITING`] pieces ahead. It ends when the body is dropped.
fn pump(content: Arc<dyn Content>) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let chunks = content.chunks()?;
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    std::thread::Builder::new().name("upload".into()).spawn(move || {
        let mut small = BytesMut::new();
        for chunk in chunks {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            };
            // A zip of many small files comes in crumbs: a system call for each would cost more than the copy.
            if chunk.len() < PIECE / 4 {
                small.extend_from_slice(&chunk);
                if small.len() >= PIECE && sender.blocking_send(Ok(small.split().freeze())).is_err() {
                    return;
                }
                continue;
            }
            for piece in [small.split().freeze(), chunk] {
                if !piece.is_empty() && sender.blocking_send(Ok(piece)).is_err() {
                    return;
                }
            }
        }
        if !small.is_empty() {
            let _ = sender.blocking_send(Ok(small.freeze()));
        }
    })?;
    Ok(receiver)
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
    /// What is left of a piece: it goes out [`PIECE`] by [`PIECE`], as what goes out counts as moved.
    current: Bytes,
    remaining: u64,
    moved: Moved,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match &mut this.pieces {
            _ if !this.current.is_empty() => Some(Ok(std::mem::take(&mut this.current))),
            Pieces::One(bytes) => bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok),
            Pieces::Many(receiver) => std::task::ready!(receiver.poll_recv(cx)),
        };
        Poll::Ready(match piece {
            Some(Ok(mut bytes)) => {
                this.current = bytes.split_off(bytes.len().min(PIECE));
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
