//! Pulling: manifests and blobs by GET and HEAD, with ranges and conditions. Distribution-spec, "Pull".

use std::fs::File;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::answer::{self, CONTENT_DIGEST, Code, Problem};
use super::body::Body;
use super::mirror::Mirrored;
use super::range::{self, Wanted};
use super::route::ManifestName;
use super::server::{Answer, Registry};
use super::store::Found;
use crate::oci::{Digest, Repository};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// What has a digest for its name never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");

/// What the client asked for, beside the path.
pub struct Asked<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
}

impl Asked<'_> {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// Whether `If-None-Match` names what would be sent.
    fn has_it(&self, digest: &Digest) -> bool {
        let values = self.headers.get_all(header::IF_NONE_MATCH).iter();
        let mut tags = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        tags.any(|tag| tag.trim() == "*" || matches_tag(tag, digest))
    }

    /// The `Range`, unless `If-Range` speaks of other content.
    fn range(&self, digest: &Digest, size: u64) -> Wanted {
        let text = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let condition = text(header::IF_RANGE).is_none_or(|tag| matches_tag(tag, digest));
        match text(header::RANGE) {
            Some(range) if condition => range::wanted(range, size),
            _ => Wanted::All,
        }
    }
}

/// `"DIGEST"` with or without its quotes, weak or not.
fn matches_tag(tag: &str, digest: &Digest) -> bool {
    tag.trim().trim_start_matches("W/").trim_matches('"') == digest.to_string()
}

impl Registry {
    pub async fn get_blob(&self, repository: &Repository, digest: &Digest, asked: Asked<'_>) -> Answer {
        let found = |registry: &Self| {
            if asked.is_head() {
                // The client will not upload what it is told is there.
                registry.store().promise(repository, digest)
            } else {
                registry.store().index().blob_in(repository, digest, None)
            }
        };
        let mut size = found(self);
        if size.is_none() {
            let whole = !asked.headers.contains_key(header::RANGE);
            match self.mirror_blob(repository, digest, whole).await? {
                Mirrored::Here => size = found(self),
                Mirrored::Arriving(arriving, size) => {
                    let mut response = described(StatusCode::OK, digest, OCTETS, Some(size));
                    if !asked.is_head() {
                        *response.body_mut() = arriving.body(size);
                    }
                    return Ok(response);
                }
                Mirrored::Nowhere => {}
            }
        }
        let unknown = || Problem::new(Code::BlobUnknown, format!("{repository} has no blob {digest}"));
        let size = size.ok_or_else(unknown)?;
        if asked.has_it(digest) {
            return Ok(described(StatusCode::NOT_MODIFIED, digest, OCTETS, None));
        }
        if asked.is_head() {
            return Ok(described(StatusCode::OK, digest, OCTETS, Some(size)));
        }
        let (status, offset, length) = match asked.range(digest, size) {
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part { offset, length } => (StatusCode::PARTIAL_CONTENT, offset, length),
            Wanted::Nothing => {
                return Err(Problem::new(Code::RangeInvalid, format!("the blob has {size} bytes"))
                    .with(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        let path = self.store().blob_path(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "a blob that should be there cannot be opened");
                return Err(Problem::new(Code::Internal, "the blob cannot be read"));
            }
        };
        let mut response = described(status, digest, OCTETS, Some(length));
        if status == StatusCode::PARTIAL_CONTENT {
            let last = offset + length - 1;
            answer::set(&mut response, header::CONTENT_RANGE, format!("bytes {offset}-{last}/{size}"));
        }
        *response.body_mut() = Body::file(file, offset, length);
        Ok(response)
    }

    pub async fn get_manifest(
        &self,
        repository: &Repository,
        name: &ManifestName,
        asked: Asked<'_>,
    ) -> Answer {
        let found = self.find_manifest(repository, name).await?;
        let content_type = HeaderValue::from_str(&found.media_type).unwrap_or(OCTETS);
        if asked.has_it(&found.digest) {
            return Ok(described(StatusCode::NOT_MODIFIED, &found.digest, content_type, None));
        }
        let mut response = described(StatusCode::OK, &found.digest, content_type, Some(found.size));
        if matches!(name, ManifestName::Tag(_)) {
            response.headers_mut().remove(header::CACHE_CONTROL);
        }
        if !asked.is_head() {
            *response.body_mut() = Body::full(self.read_manifest(&found).await?.into());
        }
        Ok(response)
    }

    async fn find_manifest(&self, repository: &Repository, name: &ManifestName) -> Result<Found, Problem> {
        let here = || match name {
            ManifestName::Tag(tag) => self.store().index().tagged(repository, tag),
            ManifestName::Digest(digest) => self.store().index().manifest(repository, digest),
        };
        self.mirror_manifest(repository, name, here().as_ref()).await?;
        here().ok_or_else(|| {
            let what = match name {
                ManifestName::Tag(tag) => format!("tag {tag}"),
                ManifestName::Digest(digest) => format!("manifest {digest}"),
            };
            Problem::new(Code::ManifestUnknown, format!("{repository} has no {what}"))
        })
    }

    pub async fn read_manifest(&self, found: &Found) -> Result<Vec<u8>, Problem> {
        let path = self.store().blob_path(&found.digest);
        let read = tokio::fs::read(&path).await;
        read.map_err(|error| {
            tracing::error!(%error, path = %path.display(), "a manifest that should be there cannot be read");
            Problem::new(Code::Internal, "the manifest cannot be read")
        })
    }
}

fn described(
    status: StatusCode,
    digest: &Digest,
    content_type: HeaderValue,
    length: Option<u64>,
) -> Response<Body> {
    let mut response = answer::empty(status);
    let text = digest.to_string();
    answer::set(&mut response, CONTENT_DIGEST, &text);
    answer::set(&mut response, header::ETAG, format!("\"{text}\""));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, FOREVER);
    headers.insert(header::CONTENT_TYPE, content_type);
    match length {
        Some(length) => headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length)),
        None => headers.remove(header::CONTENT_LENGTH),
    };
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    }
    response
}
