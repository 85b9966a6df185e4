//! A registry as the source of images.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{ImageSource, PullError};
use crate::oci::{Descriptor, Digest, Repository};
use crate::registry::Registry;

/// Pieces between the registry and containerd: enough that neither waits for the other.
const PIECES: usize = 4;

#[async_trait::async_trait]
impl ImageSource for Arc<Registry> {
    async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Bytes, PullError> {
        Ok(self.pull_manifest(repository, digest).await?.bytes)
    }

    async fn blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, PullError> {
        let (registry, repository, blob) = (self.clone(), repository.clone(), blob.clone());
        let (sender, pieces) = mpsc::channel(PIECES);
        // A task of its own, because a download borrows the registry. It ends when the stream is dropped.
        tokio::spawn(async move {
            let mut download = registry.pull_blob(&repository, &blob);
            loop {
                let piece = match download.piece().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => return,
                    Err(error) => Err(io::Error::other(error)),
                };
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(pieces).boxed())
    }
}
