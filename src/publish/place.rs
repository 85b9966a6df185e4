//! Where the work on a source is done: on threads of its own, or at once where it is less than the making of a thread.

use std::path::Path;

use tokio::task::JoinHandle;

use super::PublishError;

/// A source up to here is read, packed and hashed in a fraction of a millisecond.
const SMALL: u64 = 64 << 10;
/// From the connect to the first request on the wire, in turns of the event loop.
const TURNS_TO_SEND: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Here,
    Threads,
}

impl Place {
    /// For a zip or file by its size. What a folder holds is not known yet.
    pub fn of_source(path: &Path) -> Self {
        let small = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= SMALL);
        if small { Self::Here } else { Self::Threads }
    }

    /// On a thread it begins at once, whether or not anybody waits; here when it is waited for.
    pub fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        match self {
            Self::Here => Running::Here(Box::new(work)),
            Self::Threads => Running::Thread(tokio::task::spawn_blocking(work)),
        }
    }
}

/// Work that was begun, or is about to be.
pub(super) enum Running<T> {
    Here(Box<dyn FnOnce() -> T + Send>),
    Thread(JoinHandle<T>),
}

impl<T> Running<T> {
    pub async fn wait(self) -> Result<T, PublishError> {
        match self {
            Self::Here(work) => {
                // The registry is to have something to do meanwhile: what waits to be sent goes first.
                for _ in 0..TURNS_TO_SEND {
                    tokio::task::yield_now().await;
                }
                Ok(work())
            }
            Self::Thread(thread) => thread.await.map_err(|_| PublishError::Broken),
        }
    }
}
