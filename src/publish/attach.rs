//! Files beside an image: an SBOM, a signature, a report. Each is an artifact that names the image as its subject.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join;

use super::PublishError;
use super::place::Place;
use crate::oci::{Descriptor, Digest, Hasher, ImageManifest, Repository, media_type};
use crate::registry::{self, Chunks, Content, InMemory, Registry};

/// Where the name of an attached file is kept: image-spec, "Pre-Defined Annotation Keys".
pub const TITLE: &str = "org.opencontainers.image.title";
/// What an artifact has for its config: image-spec, "Guidance for an Empty Descriptor".
const EMPTY: &[u8] = b"{}";
const CHUNK: usize = 256 << 10;

/// What an attached file is: a media type (RFC 6838, 4.2), `application/spdx+json` for one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArtifactType(String);

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text:?} is no media type (expected one like application/spdx+json)")]
pub struct InvalidArtifactType {
    text: String,
}

impl FromStr for ArtifactType {
    type Err = InvalidArtifactType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |part: &str| {
            part.len() <= 127
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        match text.split_once('/') {
            Some((kind, subtype)) if legal(kind) && legal(subtype) => Ok(Self(text.into())),
            _ => Err(InvalidArtifactType { text: text.chars().take(300).collect() }),
        }
    }
}

/// A file that is to stand beside an image.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub file: PathBuf,
    pub artifact_type: ArtifactType,
}

/// Pushes the file as a referrer of the image. The same file again is the same artifact.
///
/// # Errors
/// When the file cannot be read, the image is not there, or the registry refuses.
pub async fn attach(
    registry: &Registry,
    repository: &Repository,
    image: &Digest,
    attachment: &Attachment,
) -> Result<Descriptor, PublishError> {
    let shown = attachment.file.display().to_string();
    let path = attachment.file.clone();
    let content = Place::Threads.run(move || FileContent::open(path)).wait().await?;
    let content = content.map_err(|source| PublishError::Attach { file: attachment.file.clone(), source })?;
    let failed = |source: registry::Error| PublishError::Push {
        what: shown.clone(),
        to: format!("{}/{repository}", registry.host()),
        source: Box::new(source),
    };
    let subject = registry.head_manifest(repository, image).await.map_err(failed)?;
    let subject = subject.ok_or_else(|| PublishError::NoSubject {
        reference: format!("{}/{repository}@{image}", registry.host()),
    })?;
    let mut layer =
        Descriptor::new(attachment.artifact_type.0.as_str(), content.digest.clone(), content.size);
    if let Some(name) = attachment.file.file_name().and_then(|name| name.to_str()) {
        layer.annotations.insert(TITLE.into(), name.into());
    }
    let config = Descriptor::of(media_type::EMPTY, EMPTY);
    let sent = try_join(
        send(registry, repository, Arc::new(content)),
        send(registry, repository, Arc::new(InMemory::new(EMPTY))),
    );
    sent.await.map_err(failed)?;
    let mut manifest = ImageManifest::new(config, vec![layer.clone()]);
    manifest.artifact_type = Some(attachment.artifact_type.0.clone());
    // Lists of referrers carry the manifest's annotations, not its layers'.
    manifest.annotations = layer.annotations;
    registry.push_referrer(repository, &subject, manifest).await.map_err(failed)
}

async fn send(
    registry: &Registry,
    repository: &Repository,
    content: Arc<dyn Content>,
) -> Result<(), registry::Error> {
    if registry.has_blob(repository, content.digest(), content.size()).await? {
        return Ok(());
    }
    registry.push_blob(repository, content, None).await
}

/// A file on its way up, hashed beforehand. One that changes meanwhile is refused by its digest.
struct FileContent {
    path: PathBuf,
    digest: Digest,
    size: u64,
}

impl FileContent {
    fn open(path: PathBuf) -> io::Result<Self> {
        let mut hasher = Hasher::sha256();
        for chunk in read(&path)? {
            hasher.update(&chunk?);
        }
        Ok(Self { path, size: hasher.bytes(), digest: hasher.finish() })
    }
}

impl Content for FileContent {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn chunks(&self) -> io::Result<Chunks> {
        Ok(Box::new(read(&self.path)?))
    }
}

fn read(path: &Path) -> io::Result<impl Iterator<Item = io::Result<Bytes>> + Send + use<>> {
    let mut file = File::open(path)?;
    Ok(std::iter::from_fn(move || {
        let mut chunk = Vec::with_capacity(CHUNK);
        match file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => None,
            read => Some(read.map(|_| Bytes::from(chunk))),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_type_is_a_media_type() {
        for right in ["application/spdx+json", "application/vnd.example.sbom.v1", "text/plain"] {
            assert!(right.parse::<ArtifactType>().is_ok(), "{right}");
        }
        for wrong in
            ["", "sbom", "/json", "application/", "a/b/c", "a b/c", "text/plain; charset=utf-8", "a/\n"]
        {
            assert!(wrong.parse::<ArtifactType>().is_err(), "{wrong}");
        }
    }
}
