//! Images that fnbuild did not build: found in the server's registry, or brought there from the one that they name.
//!
//! A record names repository and digest and no registry, so an image of another registry is copied, once, into the
//! function's own repository. From there every node has it, whatever becomes of the place that it came from.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;

use super::{PublishError, Workshop};
use crate::function::FunctionName;
use crate::oci::{Descriptor, Digest, Platform, Reference, Repository, Tag};
use crate::registry::{self, Access, Chunks, Content, InMemory, Name, Patience, Registry};

/// A blob is sent in pieces of this size.
const PIECE: usize = 256 << 10;

/// An image where the server's registry has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adopted {
    pub repository: Repository,
    pub digest: Digest,
}

impl Workshop {
    /// Finds what `image` names. A name without a registry is looked for in the server's own first; what names
    /// another registry, or none and is not here, is copied for the function `name`.
    pub async fn adopt(&self, name: &FunctionName, image: &str) -> Result<Adopted, PublishError> {
        let reference: Reference = image.parse()?;
        let named = names_registry(image);
        if !named || reference.registry == self.registry.host() {
            // Docker Hub's `library/` is nobody else's.
            let plain = reference.repository.as_str().strip_prefix("library/").filter(|_| !named);
            let repository = match plain {
                Some(plain) => plain.parse()?,
                None => reference.repository.clone(),
            };
            let found = self.registry.head_manifest(&repository, of(&reference, &Tag::latest())).await;
            match found.map_err(|source| failed(image, source))? {
                Some(found) => return Ok(Adopted { repository, digest: found.digest }),
                None if named => return Err(PublishError::NoImage { image: image.into() }),
                None => {}
            }
        }
        self.copy(&reference, image, name.repository()).await
    }

    async fn copy(
        &self,
        reference: &Reference,
        image: &str,
        to: Repository,
    ) -> Result<Adopted, PublishError> {
        let _turn = self.builds.acquire().await.map_err(|_| PublishError::Broken)?;
        let failed = |source| failed(image, source);
        // Whoever deploys waits for this.
        let patience = Patience { attempts: 3, ..Patience::default() };
        let access = Access { patience, ..Access::default() };
        let from = Registry::new(&reference.registry, access).map_err(failed)?;
        let latest = Tag::latest();
        let pulled = from.pull_image(&reference.repository, of(reference, &latest), &Platform::host()).await;
        let pulled = pulled.map_err(failed)?;
        for layer in &pulled.image.layers {
            self.copy_blob(&from, &reference.repository, layer, &to).await.map_err(failed)?;
        }
        let pushed = |source| PublishError::Push {
            what: image.to_string(),
            to: format!("{}/{to}", self.registry.host()),
            source: Box::new(source),
        };
        let config = Arc::new(InMemory::new(pulled.config_bytes));
        self.registry.push_blob(&to, config, None).await.map_err(pushed)?;
        let manifest = pulled.manifest;
        let digest = manifest.descriptor.digest;
        let media_type = &manifest.descriptor.media_type;
        self.registry.push_manifest(&to, &digest, media_type, manifest.bytes).await.map_err(pushed)?;
        Ok(Adopted { repository: to, digest })
    }

    async fn copy_blob(
        &self,
        from: &Registry,
        repository: &Repository,
        blob: &Descriptor,
        to: &Repository,
    ) -> Result<(), registry::Error> {
        if self.registry.has_blob(to, &blob.digest, blob.size).await? {
            return Ok(());
        }
        let unusable = |source| registry::Error::Sink { digest: blob.digest.clone(), source };
        let mut file = tempfile::tempfile_in(&self.data).map_err(unusable)?;
        from.pull_blob_to(repository, blob, &mut file).await?;
        let spooled = Arc::new(Spooled { file, digest: blob.digest.clone(), size: blob.size });
        self.registry.push_blob(to, spooled, None).await
    }
}

fn of<'a>(reference: &'a Reference, latest: &'a Tag) -> Name<'a> {
    match &reference.digest {
        Some(digest) => Name::Digest(digest),
        None => Name::Tag(reference.tag.as_ref().unwrap_or(latest)),
    }
}

/// Whether the part before the first slash is a host: as docker tells one from a folder of Docker Hub's.
fn names_registry(image: &str) -> bool {
    image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']) || host == "localhost")
}

fn failed(image: &str, source: registry::Error) -> PublishError {
    PublishError::Adopt { image: image.into(), source: Box::new(source) }
}

/// A blob between two registries, in a file without a name.
struct Spooled {
    file: File,
    digest: Digest,
    size: u64,
}

impl Content for Spooled {
    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn chunks(&self) -> io::Result<Chunks> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        let next = move || {
            let mut piece = vec![0; PIECE];
            match file.read(&mut piece) {
                Ok(0) => None,
                Ok(length) => {
                    piece.truncate(length);
                    Some(Ok(Bytes::from(piece)))
                }
                Err(error) => Some(Err(error)),
            }
        };
        Ok(Box::new(std::iter::from_fn(next)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_host_has_a_dot_a_colon_or_is_this_machine() {
        for image in ["localhost/a", "r.example/a", "registry:5000/a/b:1", "127.0.0.1:5000/a"] {
            assert!(names_registry(image), "{image}");
        }
        for image in ["alpine", "alpine:3", "functions/alpine:latest", "a/b.c:1"] {
            assert!(!names_registry(image), "{image}");
        }
    }

    #[test]
    fn a_spooled_blob_is_given_from_its_start_each_time() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; PIECE + 1]).unwrap();
        let blob = Spooled { file, digest: Digest::of(b""), size: PIECE as u64 + 1 };
        for _ in 0..2 {
            let lengths: Vec<_> = blob.chunks().unwrap().map(|piece| piece.unwrap().len()).collect();
            assert_eq!(lengths, [PIECE, 1]);
        }
    }
}
