//! The content store: blobs by digest, with the labels by which the garbage collector follows references.

use std::io;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1 as c8d;
use containerd_client::tonic::{Code, Status};
use futures_util::{Stream, StreamExt};

use super::{Containerd, Error, Labels};
use crate::oci::{Descriptor, Digest};

/// Bytes in one message: large enough that messages cost nothing, small enough to hold a few.
const CHUNK: usize = 1 << 20;

/// A manifest has at most 4 MiB by the distribution-spec; a config is never larger.
const MAX_SMALL: usize = 4 << 20;

impl Containerd {
    /// Whether the blob is in the content store of this namespace.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let request = c8d::InfoRequest { digest: digest.to_string() };
        match self.content().info(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.failed(format!("look for {digest}"), status)),
        }
    }

    /// A whole blob that is known to be small: a manifest or a config.
    pub async fn read_blob(&self, digest: &Digest) -> Result<Bytes, Error> {
        let failed = |source| self.failed(format!("read {digest}"), source);
        let request = c8d::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let mut answer = self.content().read(request).await.map_err(failed)?.into_inner();
        let mut bytes = BytesMut::new();
        while let Some(part) = answer.message().await.map_err(failed)? {
            if bytes.len() + part.data.len() > MAX_SMALL {
                return Err(failed(Status::out_of_range("larger than a manifest or config may be")));
            }
            bytes.extend_from_slice(&part.data);
        }
        Ok(bytes.freeze())
    }

    /// Writes a small blob that is in memory.
    pub async fn write_bytes(&self, blob: &Descriptor, bytes: Bytes, labels: Labels) -> Result<(), Error> {
        let source = futures_util::stream::once(async { Ok(bytes) });
        self.write_blob(blob, Box::pin(source), labels).await
    }

    /// Streams a blob into the store, which checks size and digest. Already there: only the labels are set.
    pub async fn write_blob<S>(&self, blob: &Descriptor, source: S, labels: Labels) -> Result<(), Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    {
        let (failure, mut failed_reading) = tokio::sync::oneshot::channel();
        let messages = messages(blob, source, labels.clone(), failure);
        let written = match self.content().write(messages).await {
            Ok(answer) => drain(answer.into_inner()).await,
            Err(status) => Err(status),
        };
        if let Ok(source) = failed_reading.try_recv() {
            return Err(Error::Blob { blob: blob.digest.clone(), source });
        }
        match written {
            Ok(()) => Ok(()),
            // Labels ride on the commit and are dropped when there is nothing to commit.
            Err(status) if status.code() == Code::AlreadyExists => {
                self.label_blob(&blob.digest, labels).await
            }
            Err(status) => Err(self.failed(format!("write {}", blob.digest), status)),
        }
    }

    /// Sets labels of a blob, leaving its others alone.
    pub async fn label_blob(&self, digest: &Digest, labels: Labels) -> Result<(), Error> {
        if labels.is_empty() {
            return Ok(());
        }
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = c8d::Info { digest: digest.to_string(), labels, ..Default::default() };
        let request =
            c8d::UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
        let updated = self.content().update(request).await;
        updated.map(drop).map_err(|status| self.failed(format!("label {digest}"), status))
    }
}

/// Unique: a reference that a crash left half written would be resumed, and two writers would collide. Whoever commits
/// second is told that the blob already exists.
fn write_ref(digest: &Digest) -> String {
    format!("fnbuild-{digest}-{:016x}", getrandom::u64().unwrap_or_default())
}

async fn drain(
    mut answer: containerd_client::tonic::Streaming<c8d::WriteContentResponse>,
) -> Result<(), Status> {
    while answer.message().await?.is_some() {}
    Ok(())
}

/// The write as messages: data in pieces of at most [`CHUNK`], then the commit.
fn messages<S>(
    blob: &Descriptor,
    source: S,
    labels: Labels,
    failure: tokio::sync::oneshot::Sender<io::Error>,
) -> impl Stream<Item = c8d::WriteContentRequest> + Send + 'static
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
{
    let template = c8d::WriteContentRequest {
        r#ref: write_ref(&blob.digest),
        total: i64::try_from(blob.size).unwrap_or(i64::MAX),
        expected: blob.digest.to_string(),
        ..Default::default()
    };
    let state = Writing { source, template, labels, offset: 0, rest: Bytes::new(), failure: Some(failure) };
    futures_util::stream::unfold(Some(state), |state| async move {
        let mut state = state?;
        match state.next_piece().await {
            Some(data) => {
                let mut message = state.message(c8d::WriteAction::Write);
                state.offset += data.len() as i64;
                message.data = data.into();
                Some((message, Some(state)))
            }
            None if state.failure.is_none() => None,
            None => {
                let mut message = state.message(c8d::WriteAction::Commit);
                message.labels = std::mem::take(&mut state.labels);
                Some((message, None))
            }
        }
    })
}

struct Writing<S> {
    source: S,
    template: c8d::WriteContentRequest,
    labels: Labels,
    offset: i64,
    rest: Bytes,
    /// Taken when reading the source failed: then nothing is committed.
    failure: Option<tokio::sync::oneshot::Sender<io::Error>>,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> Writing<S> {
    fn message(&self, action: c8d::WriteAction) -> c8d::WriteContentRequest {
        c8d::WriteContentRequest { action: action as i32, offset: self.offset, ..self.template.clone() }
    }

    async fn next_piece(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while piece.len() < CHUNK {
            if self.rest.is_empty() {
                match self.source.next().await {
                    Some(Ok(bytes)) => self.rest = bytes,
                    Some(Err(error)) => {
                        if let Some(failure) = self.failure.take() {
                            let _ = failure.send(error);
                        }
                        return None;
                    }
                    None => break,
                }
            }
            let taken = self.rest.split_to(self.rest.len().min(CHUNK - piece.len()));
            // A source that hands out whole pieces costs no copy.
            if piece.is_empty() && taken.len() == CHUNK {
                return Some(taken);
            }
            piece.extend_from_slice(&taken);
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}
