//! Pushing blobs: sessions, chunks, mounts. Distribution-spec, "Push".

use http::header::{self, HeaderMap};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::answer::{self, CONTENT_DIGEST, Code, Problem};
use super::body::Body;
use super::range;
use super::route::{self, Query};
use super::server::{Answer, Registry};
use super::store::UploadId;
use crate::oci::{Algorithm, Digest, Repository};

impl Registry {
    /// `POST …/blobs/uploads/`: a mount, a whole blob, or a new session.
    pub async fn begin_upload(
        &self,
        repository: &Repository,
        query: &Query,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Answer {
        if let Some(digest) = query.get("mount") {
            let digest = route::digest(digest)?;
            let from = query.get("from").map(str::parse::<Repository>).transpose();
            let from = from.map_err(|error| Problem::new(Code::NameInvalid, error.to_string()))?;
            if self.store().mount(repository, &digest, from.as_ref()).await? {
                return Ok(stored(repository, &digest));
            }
        } else if let Some(digest) = query.get("digest") {
            let digest = route::digest(digest)?;
            let id = self.store().uploads().begin(repository, digest.algorithm()).await?;
            return self.finish(repository, &id, &digest, headers, body).await;
        }
        let algorithm = match query.get("digest-algorithm") {
            None | Some("sha256") => Algorithm::Sha256,
            Some("sha512") => Algorithm::Sha512,
            Some(other) => {
                let message = format!("{other:?} is not a known algorithm (sha256, sha512)");
                return Err(Problem::new(Code::DigestInvalid, message));
            }
        };
        let id = self.store().uploads().begin(repository, algorithm).await?;
        Ok(progress(StatusCode::ACCEPTED, repository, &id, 0))
    }

    /// `PATCH`: one chunk, in order, or a stream of unknown length.
    pub async fn append_upload(
        &self,
        repository: &Repository,
        id: &UploadId,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Answer {
        let mut upload = self.store().uploads().open(repository, id)?;
        let before = upload.size();
        let declared = in_order(headers, before, repository, id)?;
        upload.append(body, declared).await?;
        self.metrics().received(upload.size() - before);
        Ok(progress(StatusCode::ACCEPTED, repository, id, upload.size()))
    }

    /// `PUT ?digest=`: the last chunk, or none, and the blob's name.
    pub async fn finish_upload(
        &self,
        repository: &Repository,
        id: &UploadId,
        query: &Query,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Answer {
        let digest = query.get("digest");
        let digest = digest.ok_or_else(|| Problem::new(Code::DigestInvalid, "the query needs digest=…"))?;
        self.finish(repository, id, &route::digest(digest)?, headers, body).await
    }

    async fn finish(
        &self,
        repository: &Repository,
        id: &UploadId,
        digest: &Digest,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Answer {
        let mut upload = self.store().uploads().open(repository, id)?;
        let declared = in_order(headers, upload.size(), repository, id)?;
        let before = upload.size();
        let received = upload.complete(body, declared).await?;
        self.metrics().received(received.size() - before);
        self.store().commit(upload, received, repository, digest).await?;
        Ok(stored(repository, digest))
    }

    /// `GET`: how far it got.
    pub fn upload_status(&self, repository: &Repository, id: &UploadId) -> Answer {
        let upload = self.store().uploads().open(repository, id)?;
        Ok(progress(StatusCode::NO_CONTENT, repository, id, upload.size()))
    }

    pub async fn cancel_upload(&self, repository: &Repository, id: &UploadId) -> Answer {
        self.store().uploads().open(repository, id)?.cancel().await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }
}

/// Compares a chunk's `Content-Range` with what is there. Returns how many bytes the client says will come.
fn in_order(
    headers: &HeaderMap,
    size: u64,
    repository: &Repository,
    id: &UploadId,
) -> Result<Option<u64>, Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.trim().parse::<u64>().ok());
    let Some(header) = text(header::CONTENT_RANGE) else { return Ok(length) };
    let Some((first, last)) = range::chunk(header) else {
        let message = format!("Content-Range {header:?} is not FIRST-LAST");
        return Err(Problem::new(Code::BlobUploadInvalid, message));
    };
    if first != size {
        let message = format!("the chunk begins at byte {first}, the upload has {size}");
        return Err(Problem::new(Code::RangeInvalid, message)
            .with(header::LOCATION, &location(repository, id))
            .with(header::RANGE, &range::received(size)));
    }
    let declared = last - first + 1;
    if length.is_some_and(|length| length != declared) {
        let message = format!("Content-Range speaks of {declared} bytes, Content-Length does not");
        return Err(Problem::new(Code::SizeInvalid, message));
    }
    Ok(Some(declared))
}

fn location(repository: &Repository, id: &UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{}", id.as_str())
}

fn progress(status: StatusCode, repository: &Repository, id: &UploadId, size: u64) -> Response<Body> {
    let mut response = answer::empty(status);
    answer::set(&mut response, header::LOCATION, location(repository, id));
    answer::set(&mut response, header::RANGE, range::received(size));
    answer::set(&mut response, super::server::UPLOAD_UUID, id.as_str());
    response
}

fn stored(repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = answer::empty(StatusCode::CREATED);
    answer::set(&mut response, header::LOCATION, format!("/v2/{repository}/blobs/{digest}"));
    answer::set(&mut response, CONTENT_DIGEST, digest.to_string());
    response
}
