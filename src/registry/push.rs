//! Blobs on their way up: distribution-spec, "Push". One POST and one PUT each, or a mount.

use std::sync::{Arc, Mutex};

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use url::Url;

use super::auth::Scope;
use super::body::{Content, Payload};
use super::location;
use super::transport::{Answer, Call};
use super::{DIGEST_HEADER, Error, Registry, error::shown};
use crate::oci::{Digest, Repository};

/// An upload that the registry has opened. It needs no digest yet: one can be opened while the bytes are still hashed.
#[derive(Clone, Debug)]
pub struct Upload {
    url: Url,
}

/// How a mount ended.
#[derive(Debug)]
pub enum Mount {
    /// The blob is there.
    Mounted,
    /// The registry would not, and opened an upload instead.
    Refused(Upload),
}

impl Registry {
    /// Whether the repository has the blob, with the size that it should have.
    pub async fn has_blob(&self, repository: &Repository, digest: &Digest, size: u64) -> Result<bool, Error> {
        let url = self.url(repository, "blobs", &digest.to_string())?;
        let scope = Scope::pull(repository);
        let answer = self.transport().send(|| Call::new(Method::HEAD, url.clone(), &scope)).await?;
        match answer.status() {
            // A page that says "welcome" has another length; a registry that gives none is believed.
            StatusCode::OK => Ok(answer.length().is_none_or(|length| length == size)),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }

    /// Opens an upload: the first half of [`Registry::push_blob`], which needs no digest.
    pub async fn begin_upload(&self, repository: &Repository) -> Result<Upload, Error> {
        self.transport().patiently(|| self.begin_once(repository)).await
    }

    async fn begin_once(&self, repository: &Repository) -> Result<Upload, Error> {
        let url = self.url(repository, "blobs/uploads", "")?;
        let scope = Scope::push(repository);
        let answer = self.transport().once(Call::new(Method::POST, url, &scope)).await?;
        opened(answer).await
    }

    /// Uploads a blob. `upload` is one that was opened before, if any; where it has been lost, or the connection
    /// breaks, the blob begins anew.
    ///
    /// # Errors
    /// When the registry refuses it, patience ends, or the content cannot be read.
    pub async fn push_blob(
        &self,
        repository: &Repository,
        content: Arc<dyn Content>,
        upload: Option<Upload>,
    ) -> Result<(), Error> {
        let waiting = Mutex::new(upload);
        let tries = std::sync::atomic::AtomicU32::new(0);
        self.transport()
            .patiently(|| async {
                let again = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
                // The answer may be all that was lost.
                if again && self.has_blob(repository, content.digest(), content.size()).await? {
                    return Ok(());
                }
                let opened = waiting.lock().ok().and_then(|mut slot| slot.take());
                let upload = match opened {
                    Some(upload) => upload,
                    None => self.begin_once(repository).await?,
                };
                self.put_blob(repository, &upload, content.clone()).await
            })
            .await
    }

    async fn put_blob(
        &self,
        repository: &Repository,
        upload: &Upload,
        content: Arc<dyn Content>,
    ) -> Result<(), Error> {
        let digest = content.digest().clone();
        let url = location::with_digest(upload.url.clone(), &digest);
        let scope = Scope::push(repository);
        let call = Call::new(Method::PUT, url, &scope)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .payload(Payload::Content(content));
        let answer = self.transport().once(call).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => stored(answer, &digest).await,
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Error::UploadLost { method: Method::PUT, url: shown(&answer.url) })
            }
            status => Err(unexpected(answer, status, "201 Created").await),
        }
    }

    /// Makes a blob of another repository this one's, without moving it: distribution-spec, "Mounting a blob".
    pub async fn mount_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<Mount, Error> {
        let mut url = self.url(repository, "blobs/uploads", "")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.as_str());
        let scope = Scope::mount(repository, from);
        let answer = self.transport().send(|| Call::new(Method::POST, url.clone(), &scope)).await?;
        match answer.status() {
            StatusCode::CREATED => stored(answer, digest).await.map(|()| Mount::Mounted),
            _ => opened(answer).await.map(Mount::Refused),
        }
    }
}

/// 202 with a `Location` is an open upload; anything else is not.
async fn opened(mut answer: Answer) -> Result<Upload, Error> {
    match answer.status() {
        StatusCode::ACCEPTED => {
            let url = answer.location()?;
            answer.drain().await;
            Ok(Upload { url })
        }
        status => Err(unexpected(answer, status, "202 Accepted").await),
    }
}

/// A registry that names another digest than ours has stored something else.
pub(super) async fn stored(mut answer: Answer, digest: &Digest) -> Result<(), Error> {
    let named = answer.header(DIGEST_HEADER).map(str::to_string);
    answer.drain().await;
    match named {
        Some(actual) if actual != digest.to_string() => Err(Error::DigestMismatch {
            what: format!("what {} {} stored", answer.method, shown(&answer.url)),
            expected: digest.clone(),
            actual: actual.chars().take(160).collect(),
        }),
        _ => Ok(()),
    }
}

/// A success that is not the one the specification knows comes from something that is no registry.
pub(super) async fn unexpected(answer: Answer, status: StatusCode, wanted: &str) -> Error {
    if !status.is_success() {
        return answer.into_error().await;
    }
    let kind = answer.header(CONTENT_TYPE).unwrap_or("no type").to_string();
    answer.protocol(format!("{status} ({kind}) instead of {wanted}: this is no registry"))
}
