//! A blob on its way from the mirrored registry: clients get its bytes while they arrive.
//!
//! They read behind the transfer, from the file that it writes. The last byte is held back until the whole has proven to
//! be what its digest says: nobody ever has all of a wrong blob.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::body::Body;

/// One read of the file, and how many of them may wait for a client.
const PIECE: u64 = 128 << 10;
const PIECES: usize = 2;

/// How far a transfer has got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transfer {
    /// So many bytes are in the file.
    Going(u64),
    /// The blob is verified and stored.
    Kept,
    Failed(String),
}

/// A transfer that others may follow.
#[derive(Clone)]
pub struct Arriving {
    file: Arc<File>,
    /// What the other registry says; nothing where it does not.
    size: Option<u64>,
    transfer: watch::Receiver<Transfer>,
}

impl Arriving {
    pub fn new(file: File, size: Option<u64>, transfer: watch::Receiver<Transfer>) -> Self {
        Self { file: Arc::new(file), size, transfer }
    }

    /// The blob's size, where it is known and large enough that a client should not wait for the whole of it.
    pub fn worth_following(&self) -> Option<u64> {
        self.size.filter(|size| *size > super::store::SMALL as u64)
    }

    /// Whether it has not ended yet, in one way or another.
    pub fn goes_on(&self) -> bool {
        matches!(*self.transfer.borrow(), Transfer::Going(_)) && self.transfer.has_changed().is_ok()
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Result<(), String> {
        let end = self.transfer.wait_for(|transfer| !matches!(transfer, Transfer::Going(_))).await;
        match end.as_deref() {
            Ok(Transfer::Failed(problem)) => Err(problem.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err("the transfer broke off".into()),
        }
    }

    /// The blob's bytes as they come.
    pub fn body(self, size: u64) -> Body {
        let (pieces, received) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            if let Err(error) = self.follow(size, &pieces).await {
                // The client, if it is still there, sees the connection end too early.
                let _ = pieces.send(Err(error)).await;
            }
        });
        Body::pieces(received, size)
    }

    async fn follow(mut self, size: u64, pieces: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut offset = 0;
        loop {
            let ready = match &*self.transfer.borrow_and_update() {
                Transfer::Going(written) => (*written).min(size - 1),
                Transfer::Kept => size,
                Transfer::Failed(problem) => return Err(io::Error::other(problem.clone())),
            };
            while offset < ready {
                let piece = self.read(offset, PIECE.min(ready - offset)).await?;
                offset += piece.len() as u64;
                if pieces.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
            if offset == size {
                return Ok(());
            }
            self.transfer.changed().await.map_err(io::Error::other)?;
        }
    }

    async fn read(&self, offset: u64, length: u64) -> io::Result<Bytes> {
        let file = self.file.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            file.read_exact_at(&mut piece, offset)?;
            Ok(Bytes::from(piece))
        });
        reading.await.map_err(io::Error::other)?
    }
}
