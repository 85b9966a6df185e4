//! The tar that a spliced layer inflates to, for its diff ID; and with that the check of every entry.
//!
//! Inflating is most of the work and entries do not depend on each other. So each worker takes every n-th batch of
//! entries and sends its tar bytes through a short queue of its own; this thread empties the queues in turn, which is the
//! order of the tar, hashes, and gives the buffers back. A large entry flows through the queue as it is inflated: nothing
//! is ever whole in memory. There is a thread for each core and no more, the hashing one counted: what is pushed is being
//! uploaded meanwhile, to a registry that may be on this machine.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bytes::Bytes;
use crc32fast::Hasher as Crc;
use flate2::{Decompress, FlushDecompress, Status};

use super::splice::headers;
use super::tar;
use crate::oci::{Digest, Hasher};
use crate::source::{Content, Entry, Kind, Source, SourceError};

/// Tar bytes travel in buffers of this size.
const BUFFER: usize = 128 << 10;
/// How much a worker may be ahead of the hashing, in buffers.
const QUEUE: usize = 4;
/// Entries are dealt out in batches of at least this many unpacked bytes, or this many entries.
const BATCH_BYTES: u64 = 512 << 10;
const BATCH_ENTRIES: usize = 256;
/// More workers than this would wait for the one that hashes.
const MAX_WORKERS: usize = 3;

/// Inflates and checks every entry of a zip. The first entry, in the tar's order, that is not what the zip's directory
/// says is the error.
pub(super) fn diff_id(source: &Arc<Source>) -> Result<Digest, SourceError> {
    let batches = batches(source.entries());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores - 1).min(MAX_WORKERS).min(batches.len().saturating_sub(1));
    let mut hasher = Hasher::sha256();
    if workers == 0 {
        let mut worker = Worker::new(source, |buffer: &mut Vec<u8>| {
            hasher.update(buffer);
            buffer.clear();
            Ok(())
        });
        batches.into_iter().try_for_each(|batch| worker.batch(batch)).map_err(Stop::into_error)?;
    } else {
        in_parallel(source, &batches, workers, &mut hasher)?;
    }
    hasher.update(&tar::END);
    Ok(hasher.finish())
}

fn batches(entries: &[Entry]) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        if let Kind::File { size, .. } = entry.kind {
            bytes += size;
        }
        if bytes >= BATCH_BYTES || at - start >= BATCH_ENTRIES || at + 1 == entries.len() {
            batches.push(start..at + 1);
            (start, bytes) = (at + 1, 0);
        }
    }
    batches
}

/// What a worker sends: tar bytes, the end of a batch, or why there is no more.
enum Message {
    Tar(Vec<u8>),
    EndOfBatch,
    Failed(SourceError),
}

fn in_parallel(
    source: &Arc<Source>,
    batches: &[Range<usize>],
    workers: usize,
    hasher: &mut Hasher,
) -> Result<(), SourceError> {
    std::thread::scope(|scope| {
        let (empty, emptied): (Vec<Sender<_>>, Vec<Receiver<_>>) = (0..workers).map(|_| channel()).unzip();
        let queues: Vec<Receiver<Message>> = emptied
            .into_iter()
            .enumerate()
            .map(|(first, emptied)| {
                let (sender, receiver) = sync_channel(QUEUE);
                let ends = Ends { sender, emptied };
                scope.spawn(move || work(source, batches.iter().skip(first).step_by(workers), &ends));
                receiver
            })
            .collect();
        for (queue, empty) in (0..batches.len()).zip(queues.iter().zip(&empty).cycle()).map(|(_, ends)| ends)
        {
            loop {
                match queue.recv() {
                    Ok(Message::Tar(mut bytes)) => {
                        hasher.update(&bytes);
                        bytes.clear();
                        // A worker that has ended needs it no more.
                        let _ = empty.send(bytes);
                    }
                    Ok(Message::EndOfBatch) => break,
                    Ok(Message::Failed(error)) => return Err(error),
                    // A worker ends early only by panicking, which the scope passes on.
                    Err(_) => break,
                }
            }
        }
        // Dropping the queues ends workers that are still sending.
        Ok(())
    })
}

/// A worker's ends of its two queues: full buffers out, empty ones back.
struct Ends {
    sender: SyncSender<Message>,
    emptied: Receiver<Vec<u8>>,
}

fn work<'a>(source: &Arc<Source>, batches: impl Iterator<Item = &'a Range<usize>>, ends: &Ends) {
    let sender = &ends.sender;
    let mut worker = Worker::new(source, |buffer: &mut Vec<u8>| {
        let empty = ends.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        let full = std::mem::replace(buffer, empty);
        sender.send(Message::Tar(full)).map_err(|_| Stop::Unwanted)
    });
    for batch in batches {
        let result = worker.batch(batch.clone());
        let message = match result {
            Ok(()) => Message::EndOfBatch,
            Err(Stop::Unwanted) => return,
            Err(Stop::Failed(error)) => Message::Failed(error),
        };
        let last = matches!(message, Message::Failed(_));
        if sender.send(message).is_err() || last {
            return;
        }
    }
}

/// Why a worker stops before its end.
enum Stop {
    Failed(SourceError),
    /// Nobody listens any more: another worker has failed.
    Unwanted,
}

impl Stop {
    fn into_error(self) -> SourceError {
        match self {
            Self::Failed(error) => error,
            Self::Unwanted => SourceError::entry(b"", "was given up"),
        }
    }
}

/// Turns batches of entries into tar bytes.
struct Worker<'a, E> {
    source: &'a Source,
    inflate: Decompress,
    /// At most [`BUFFER`] bytes and a header.
    buffer: Vec<u8>,
    /// Takes what is in the buffer and leaves it empty.
    emit: E,
}

impl<'a, E: FnMut(&mut Vec<u8>) -> Result<(), Stop>> Worker<'a, E> {
    fn new(source: &'a Source, emit: E) -> Self {
        Self { source, inflate: Decompress::new(false), buffer: Vec::with_capacity(BUFFER), emit }
    }

    fn batch(&mut self, batch: Range<usize>) -> Result<(), Stop> {
        let entries = self.source.entries();
        let mut previous = batch.start.checked_sub(1).and_then(|at| entries.get(at));
        for entry in entries.get(batch).unwrap_or_default() {
            headers(previous.map(|entry| &*entry.path), entry, &mut self.buffer);
            previous = Some(entry);
            if let Kind::File { size, content, .. } = &entry.kind {
                match content {
                    Content::Deflated { at, crc } => {
                        self.deflated(entry, self.source.slice(at), *size, *crc)?
                    }
                    Content::Stored { at, crc } => self.stored(entry, self.source.slice(at), *crc)?,
                    Content::OnDisk => {}
                }
                self.buffer.resize(self.buffer.len() + tar::padding(*size), 0);
            }
            if self.buffer.len() >= BUFFER {
                (self.emit)(&mut self.buffer)?;
            }
        }
        if self.buffer.is_empty() { Ok(()) } else { (self.emit)(&mut self.buffer) }
    }

    /// Inflates exactly `size` bytes out of exactly the whole of `packed`.
    fn deflated(&mut self, entry: &Entry, packed: Bytes, size: u64, crc: u32) -> Result<(), Stop> {
        self.inflate.reset(false);
        let mut found = Crc::new();
        loop {
            if self.buffer.len() >= BUFFER {
                (self.emit)(&mut self.buffer)?;
            }
            let start = self.buffer.len();
            let (seen_in, seen_out) = (self.inflate.total_in(), self.inflate.total_out());
            // One byte more than is due would be too much, and is the most that is ever made of it.
            let due = usize::try_from(size - seen_out).unwrap_or(usize::MAX).saturating_add(1);
            self.buffer.resize(start + due.min(BUFFER - start), 0);
            let rest = usize::try_from(seen_in).ok().and_then(|at| packed.get(at..)).unwrap_or_default();
            let room = self.buffer.get_mut(start..).unwrap_or_default();
            let status = self.inflate.decompress(rest, room, FlushDecompress::None);
            let made = usize::try_from(self.inflate.total_out() - seen_out).unwrap_or(0);
            self.buffer.truncate(start + made);
            found.update(self.buffer.get(start..).unwrap_or_default());
            if self.inflate.total_out() > size {
                return failed(entry, "inflates to more than its declared size");
            }
            match status {
                Err(_) => return failed(entry, "is damaged: it cannot be inflated"),
                Ok(Status::StreamEnd) => break,
                Ok(_) if made == 0 && self.inflate.total_in() == seen_in => {
                    return failed(entry, "is damaged: its deflate stream has no end");
                }
                Ok(_) => {}
            }
        }
        if self.inflate.total_out() != size {
            return failed(entry, "inflates to less than its declared size");
        }
        if self.inflate.total_in() != packed.len() as u64 {
            return failed(entry, "has bytes behind the end of its deflate stream");
        }
        if found.finalize() != crc {
            return failed(entry, "is damaged: its CRC-32 is wrong");
        }
        Ok(())
    }

    fn stored(&mut self, entry: &Entry, content: Bytes, crc: Option<u32>) -> Result<(), Stop> {
        let mut found = Crc::new();
        for part in content.chunks(BUFFER) {
            found.update(part);
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= BUFFER {
                (self.emit)(&mut self.buffer)?;
            }
        }
        match crc {
            Some(crc) if found.finalize() != crc => failed(entry, "is damaged: its CRC-32 is wrong"),
            _ => Ok(()),
        }
    }
}

fn failed(entry: &Entry, reason: &'static str) -> Result<(), Stop> {
    Err(Stop::Failed(SourceError::entry(entry.path.as_bytes(), reason)))
}
