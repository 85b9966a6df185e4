//! Response bodies: nothing, bytes, a part of a file, or what is still arriving; all with constant memory.
//!
//! A file's bytes are taken from the page cache without leaving the thread; only what is not there yet is read on a
//! blocking thread. The buffers of one answer are used again and again.

use std::fs::File;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::sync::mpsc;

/// One read. Large enough that the system calls do not count, small enough to stay in the processor's cache.
const BUFFER: usize = 128 << 10;

pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    File(Box<FileBody>),
    /// Made elsewhere; so many bytes are still to come.
    Pieces(mpsc::Receiver<io::Result<Bytes>>, u64),
}

impl Body {
    pub fn empty() -> Self {
        Self(Kind::Full(None))
    }

    pub fn full(bytes: Bytes) -> Self {
        Self(Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// `length` bytes, in pieces that somebody sends.
    pub fn pieces(pieces: mpsc::Receiver<io::Result<Bytes>>, length: u64) -> Self {
        Self(Kind::Pieces(pieces, length))
    }

    /// `length` bytes from `offset`.
    pub fn file(file: File, offset: u64, length: u64) -> Self {
        let pool = Arc::new(Pool::default());
        Self(Kind::File(Box::new(FileBody {
            file: Arc::new(file),
            offset,
            left: length,
            pool,
            reading: None,
        })))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::File(file) => file.poll(context),
            Kind::Pieces(pieces, left) => pieces.poll_recv(context).map(|piece| match piece {
                Some(piece) => {
                    *left -= piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    Some(piece.map(Frame::data))
                }
                None if *left > 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                None => None,
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.0 {
            Kind::Full(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Kind::File(file) => file.left,
            Kind::Pieces(_, left) => *left,
        })
    }
}

struct FileBody {
    file: Arc<File>,
    offset: u64,
    left: u64,
    pool: Arc<Pool>,
    reading: Option<tokio::task::JoinHandle<io::Result<Vec<u8>>>>,
}

impl FileBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => match self.read_cached() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(self.frame(bytes)))),
                Ok(None) => self.read_blocking(),
                Err(error) => return Poll::Ready(Some(Err(error))),
            },
        };
        let read = match Pin::new(&mut reading).poll(context) {
            Poll::Ready(read) => read,
            Poll::Pending => {
                self.reading = Some(reading);
                return Poll::Pending;
            }
        };
        Poll::Ready(Some(match read {
            Ok(Ok(bytes)) => Ok(self.frame(bytes)),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }))
    }

    fn frame(&mut self, bytes: Vec<u8>) -> Frame<Bytes> {
        self.offset += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Frame::data(Bytes::from_owner(Pooled { bytes, pool: self.pool.clone() }))
    }

    fn wanted(&self) -> usize {
        usize::try_from(self.left).unwrap_or(BUFFER).min(BUFFER)
    }

    /// What the page cache has; `None` if the disk would have to be waited for.
    fn read_cached(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = self.pool.take(self.wanted());
        let slices = &mut [IoSliceMut::new(&mut buffer)];
        match preadv2(&self.file, slices, self.offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer.truncate(n);
                Ok(Some(buffer))
            }
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => {
                self.pool.give(buffer);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read_blocking(&self) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
        use std::os::unix::fs::FileExt;
        let (file, offset) = (self.file.clone(), self.offset);
        let mut buffer = self.pool.take(self.wanted());
        tokio::task::spawn_blocking(move || file.read_exact_at(&mut buffer, offset).map(|()| buffer))
    }
}

/// Buffers that were written to the socket and can be filled again.
#[derive(Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self, length: usize) -> Vec<u8> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = used.unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    fn give(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

struct Pooled {
    bytes: Vec<u8>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}
