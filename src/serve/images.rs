//! The registry as the place that containers' images come from.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use crate::oci::{Descriptor, Digest, Repository};
use crate::registry::Registry;
use crate::replica::{ImageSource, PullError};

/// Pieces of a blob that are read ahead.
const AHEAD: usize = 4;

/// Images by digest from one registry.
pub struct RegistryImages {
    registry: Arc<Registry>,
}

impl RegistryImages {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }
}

#[async_trait]
impl ImageSource for RegistryImages {
    async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Bytes, PullError> {
        Ok(self.registry.pull_manifest(repository, digest).await?.bytes)
    }

    async fn blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, PullError> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (registry, repository, blob) = (Arc::clone(&self.registry), repository.clone(), blob.clone());
        tokio::spawn(async move {
            let mut download = registry.pull_blob(&repository, &blob);
            loop {
                let piece = match download.piece().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => return,
                    Err(error) => Err(io::Error::other(error)),
                };
                let failed = piece.is_err();
                // Whoever asked has gone away, or has been told of the failure.
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        });
        // Its readers ask once more after the end.
        Ok(pieces.fuse().boxed())
    }
}
