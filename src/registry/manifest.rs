//! Manifests and tags: distribution-spec, "Pulling manifests", "Pushing Manifests", "Content Discovery".

use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LINK};
use http::{Method, StatusCode};
use serde::Deserialize;

use super::auth::Scope;
use super::body::Payload;
use super::push::{stored, unexpected};
use super::transport::{Answer, Call, ErrorInfo};
use super::{DIGEST_HEADER, Error, Registry, location};
use crate::oci::{Descriptor, Digest, ImageIndex, ImageManifest, Repository, Tag, media_type};

/// distribution-spec: registries take manifests of at least this size; a longer one is no manifest.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// A listing of tags is read no further.
const MAX_TAGS: usize = 100_000;

const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json",
);

/// What a manifest is asked for by.
#[derive(Clone, Copy, Debug)]
pub enum Name<'a> {
    Tag(&'a Tag),
    Digest(&'a Digest),
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => fmt::Display::fmt(tag, f),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

impl<'a> From<&'a Tag> for Name<'a> {
    fn from(tag: &'a Tag) -> Self {
        Self::Tag(tag)
    }
}

impl<'a> From<&'a Digest> for Name<'a> {
    fn from(digest: &'a Digest) -> Self {
        Self::Digest(digest)
    }
}

/// A manifest or index, byte for byte as the registry keeps it, and checked against its digest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub descriptor: Descriptor,
    pub bytes: Bytes,
}

/// What a manifest turned out to be.
#[derive(Clone, Debug)]
pub enum ManifestKind {
    Image(ImageManifest),
    Index(ImageIndex),
}

impl Manifest {
    /// Reads the bytes, by their media type.
    pub fn parse(&self) -> Result<ManifestKind, Error> {
        let malformed =
            |source| Error::Malformed { what: format!("manifest {}", self.descriptor.digest), source };
        match self.descriptor.media_type.as_str() {
            media_type::INDEX | media_type::DOCKER_INDEX => {
                serde_json::from_slice(&self.bytes).map(ManifestKind::Index).map_err(malformed)
            }
            _ => serde_json::from_slice(&self.bytes).map(ManifestKind::Image).map_err(malformed),
        }
    }
}

#[derive(Deserialize)]
struct TagList {
    /// `null` for a repository whose tags are all gone.
    tags: Option<Vec<String>>,
}

impl Registry {
    /// What a tag or digest stands for, without fetching it; `None` where there is nothing.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        name: impl Into<Name<'_>>,
    ) -> Result<Option<Descriptor>, Error> {
        let name = name.into();
        let answer = self.ask(Method::HEAD, repository, name).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(answer.into_error().await),
        }
        let kind = manifest_type(&answer)?;
        let digest = answer.header(DIGEST_HEADER).map(str::parse::<Digest>);
        match (digest, answer.length()) {
            (Some(Ok(digest)), Some(size)) => Ok(Some(Descriptor::new(kind, digest, size))),
            (Some(Err(invalid)), _) => Err(answer.protocol(invalid.to_string())),
            // The header is optional: then the bytes themselves have to say.
            _ => Ok(Some(self.pull_manifest(repository, name).await?.descriptor)),
        }
    }

    /// Fetches a manifest or index.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::DigestMismatch`] when the bytes are not what was asked for, or not what the
    /// registry says they are; [`Error::TooLarge`] beyond [`MAX_MANIFEST`].
    pub async fn pull_manifest(
        &self,
        repository: &Repository,
        name: impl Into<Name<'_>>,
    ) -> Result<Manifest, Error> {
        let name = name.into();
        self.transport().patiently(|| self.pull_once(repository, name)).await
    }

    async fn pull_once(&self, repository: &Repository, name: Name<'_>) -> Result<Manifest, Error> {
        let url = self.url(repository, "manifests", &name.to_string())?;
        let scope = Scope::pull(repository);
        let answer =
            self.transport().once(Call::new(Method::GET, url, &scope).header(ACCEPT, ACCEPTED)).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(self.not_found(repository, format!("manifest {name}"))),
            status => return Err(unexpected(answer, status, "200 OK").await),
        }
        let media_type = manifest_type(&answer)?;
        let named = answer.header(DIGEST_HEADER).map(str::to_string);
        let bytes = answer.bytes(MAX_MANIFEST).await?;
        let descriptor = Descriptor::of(media_type, &bytes);
        let what = format!("manifest {}/{repository}:{name}", self.host());
        if let Name::Digest(expected) = name {
            let mut hasher = crate::oci::Hasher::new(expected.algorithm());
            hasher.update(&bytes);
            let actual = hasher.finish();
            if actual != *expected {
                return Err(Error::DigestMismatch {
                    what,
                    expected: expected.clone(),
                    actual: actual.to_string(),
                });
            }
        }
        match named {
            Some(actual) if actual.starts_with("sha256:") && actual != descriptor.digest.to_string() => {
                Err(Error::DigestMismatch { what, expected: descriptor.digest, actual })
            }
            _ => Ok(Manifest { descriptor, bytes }),
        }
    }

    /// Stores a manifest under a tag or its own digest, and gives its digest.
    ///
    /// # Errors
    /// [`Error::IncompleteManifest`] where the registry lacks blobs that it names; the list is empty where the
    /// registry did not say which.
    pub async fn push_manifest(
        &self,
        repository: &Repository,
        name: impl Into<Name<'_>>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        let answer = self.put_manifest(repository, name.into(), media_type, bytes).await?;
        stored(answer, &digest).await.map(|()| digest)
    }

    /// The registry's answer, where it has taken the manifest.
    pub(super) async fn put_manifest(
        &self,
        repository: &Repository,
        name: Name<'_>,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<Answer, Error> {
        let url = self.url(repository, "manifests", &name.to_string())?;
        let kind = HeaderValue::try_from(media_type)
            .map_err(|_| Error::protocol(&Method::PUT, &url, "the media type fits no header"))?;
        let scope = Scope::push(repository);
        let call = || {
            Call::new(Method::PUT, url.clone(), &scope)
                .header(CONTENT_TYPE, kind.clone())
                .payload(Payload::Bytes(bytes.clone()))
        };
        let answer = self.transport().send(call).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::ACCEPTED => Ok(answer),
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Err(refused(answer).await?),
            status => Err(unexpected(answer, status, "201 Created").await),
        }
    }

    /// The repository's tags, in the registry's order; empty where there is no such repository.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        let scope = Scope::pull(repository);
        let mut next = Some(self.url(repository, "tags", "list")?);
        let mut tags = Vec::new();
        while let Some(url) = next.take() {
            let answer = self.transport().send(|| Call::new(Method::GET, url.clone(), &scope)).await?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(Vec::new()),
                _ => return Err(answer.into_error().await),
            }
            next = next_page(&answer, &url);
            let bytes = answer.bytes(MAX_MANIFEST).await?;
            let list: TagList = serde_json::from_slice(&bytes)
                .map_err(|source| Error::Malformed { what: format!("the tags of {repository}"), source })?;
            let page = list.tags.unwrap_or_default();
            // A page without tags that leads to another could lead on for ever.
            if page.is_empty() || tags.len() > MAX_TAGS {
                break;
            }
            tags.extend(page.iter().filter_map(|tag| tag.parse().ok()));
        }
        Ok(tags)
    }

    /// Removes a manifest by its digest, and with it every tag that stands for it. `false` where it was not there.
    ///
    /// # Errors
    /// [`Error::Status`] with 405 from a registry that does not delete.
    pub async fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> Result<bool, Error> {
        let url = self.url(repository, "manifests", &digest.to_string())?;
        let scope = Scope::delete(repository);
        let mut answer = self.transport().send(|| Call::new(Method::DELETE, url.clone(), &scope)).await?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::OK | StatusCode::NO_CONTENT => {
                answer.drain().await;
                Ok(true)
            }
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.into_error().await),
        }
    }

    async fn ask(&self, method: Method, repository: &Repository, name: Name<'_>) -> Result<Answer, Error> {
        let url = self.url(repository, "manifests", &name.to_string())?;
        let scope = Scope::pull(repository);
        let call = || Call::new(method.clone(), url.clone(), &scope).header(ACCEPT, ACCEPTED);
        self.transport().send(call).await
    }
}

/// The media type of a manifest's answer, without parameters. HTML is no manifest, whatever the status says.
fn manifest_type(answer: &Answer) -> Result<String, Error> {
    let kind = answer.header(CONTENT_TYPE).unwrap_or(media_type::MANIFEST);
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match kind {
        media_type::MANIFEST | media_type::INDEX | media_type::DOCKER_MANIFEST | media_type::DOCKER_INDEX => {
            Ok(kind.into())
        }
        _ => Err(answer.protocol(format!("{kind:?} is no manifest's media type"))),
    }
}

/// A 400 or 404 to a manifest: incomplete, or something else.
async fn refused(answer: Answer) -> Result<Error, Error> {
    let (method, url, status) = (answer.method.clone(), answer.url.clone(), answer.status());
    let errors = answer.errors().await?;
    let lacks = |error: &&ErrorInfo| matches!(error.code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN");
    let missing: Vec<_> = errors.iter().filter(lacks).collect();
    if !missing.is_empty() {
        let missing = missing.into_iter().filter_map(|error| unknown_digest(&error.detail)).collect();
        return Ok(Error::IncompleteManifest { missing });
    }
    let said: Vec<_> =
        errors.iter().take(3).map(|error| format!("{}: {}", error.code, error.message)).collect();
    let message = if said.is_empty() { String::new() } else { format!(": {}", said.join("; ")) };
    Ok(Error::Status { method, url: super::error::shown(&url), status, message, retry_after: None })
}

/// docker-registry gives `{"digest": …}`, others the digest alone.
fn unknown_digest(detail: &serde_json::Value) -> Option<Digest> {
    detail.get("digest").unwrap_or(detail).as_str()?.parse().ok()
}

/// `Link: </v2/…?n=…&last=…>; rel="next"` (RFC 8288), on the registry's own origin only.
pub(super) fn next_page(answer: &Answer, url: &url::Url) -> Option<url::Url> {
    let link = answer.header(LINK)?;
    let target = link.strip_prefix('<')?.split_once('>')?.0;
    location::resolve(url, target).ok().filter(|next| location::same_origin(next, url) && next != url)
}
