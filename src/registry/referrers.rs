//! What refers to an image: distribution-spec, "Listing Referrers" and "Pushing Manifests with Subject".
//!
//! A registry without that API is given the index that the specification has for it, under a tag made of the subject's
//! digest ("Referrers Tag Schema"). Nobody locks that index: who writes it looks afterwards whether it stayed.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, StatusCode};

use super::auth::Scope;
use super::manifest::next_page;
use super::push::unexpected;
use super::transport::Call;
use super::{Error, MAX_MANIFEST, ManifestKind, Registry};
use crate::oci::{Descriptor, Digest, ImageIndex, ImageManifest, Repository, Tag, media_type};

/// Given by a registry that keeps the list of referrers itself.
pub(super) const SUBJECT_HEADER: HeaderName = HeaderName::from_static("oci-subject");
/// A list is read no further.
const MAX_REFERRERS: usize = 10_000;
/// How often an index that somebody else wrote over meanwhile is written again.
const ATTEMPTS: usize = 5;

impl Registry {
    /// Stores a manifest that refers to `subject`, under its own digest, so that [`Registry::referrers`] finds it. Gives
    /// its descriptor, as a list of referrers has it.
    pub async fn push_referrer(
        &self,
        repository: &Repository,
        subject: &Descriptor,
        mut manifest: ImageManifest,
    ) -> Result<Descriptor, Error> {
        manifest.subject =
            Some(Descriptor::new(subject.media_type.clone(), subject.digest.clone(), subject.size));
        let bytes = json("the referrer", &manifest)?;
        let mut descriptor = Descriptor::of(media_type::MANIFEST, &bytes);
        descriptor.artifact_type =
            Some(manifest.artifact_type.unwrap_or_else(|| manifest.config.media_type.clone()));
        descriptor.annotations = manifest.annotations;
        let answer =
            self.put_manifest(repository, (&descriptor.digest).into(), media_type::MANIFEST, bytes).await?;
        let listed = answer.header(SUBJECT_HEADER).is_some();
        super::push::stored(answer, &descriptor.digest).await?;
        if !listed {
            self.list_by_tag(repository, &subject.digest, &descriptor).await?;
        }
        Ok(descriptor)
    }

    /// The manifests whose subject this is. Empty where there are none, or no such repository.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        let scope = Scope::pull(repository);
        let mut next = Some(self.url(repository, "referrers", &subject.to_string())?);
        let mut found = Vec::new();
        while let Some(url) = next.take() {
            let answer = self.transport().send(|| Call::new(Method::GET, url.clone(), &scope)).await?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    return Ok(self.tagged_index(repository, subject).await?.manifests);
                }
                status => return Err(unexpected(answer, status, "200 OK").await),
            }
            if answer.header(CONTENT_TYPE).is_none_or(|kind| !kind.starts_with(media_type::INDEX)) {
                return Err(answer.protocol("the list of referrers is no image index"));
            }
            next = next_page(&answer, &url);
            let bytes = answer.bytes(MAX_MANIFEST).await?;
            let page: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|source| Error::Malformed { what: format!("the referrers of {subject}"), source })?;
            if page.manifests.is_empty() || found.len() > MAX_REFERRERS {
                break;
            }
            found.extend(page.manifests);
        }
        Ok(found)
    }

    /// Removes what refers to a manifest, and the index that lists it, where there is one.
    pub async fn delete_referrers(&self, repository: &Repository, subject: &Digest) -> Result<(), Error> {
        for referrer in self.referrers(repository, subject).await? {
            self.delete_manifest(repository, &referrer.digest).await?;
        }
        if let Some(index) = self.head_manifest(repository, &tag_of(subject)).await? {
            self.delete_manifest(repository, &index.digest).await?;
        }
        Ok(())
    }

    async fn list_by_tag(
        &self,
        repository: &Repository,
        subject: &Digest,
        referrer: &Descriptor,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let mut index = self.tagged_index(repository, subject).await?;
            if index.manifests.iter().any(|listed| listed.digest == referrer.digest) {
                return Ok(());
            }
            index.manifests.push(referrer.clone());
            let bytes = json("the list of referrers", &index)?;
            self.push_manifest(repository, &tag_of(subject), media_type::INDEX, bytes).await?;
        }
        let url = self.url(repository, "manifests", tag_of(subject).as_str())?;
        Err(Error::protocol(&Method::PUT, &url, "others write this list of referrers all the time"))
    }

    /// The index of the tag schema; an empty one where there is none.
    async fn tagged_index(&self, repository: &Repository, subject: &Digest) -> Result<ImageIndex, Error> {
        let tag = tag_of(subject);
        let manifest = match self.pull_manifest(repository, &tag).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_not_found() => return Ok(ImageIndex::new(Vec::new())),
            Err(error) => return Err(error),
        };
        match manifest.parse()? {
            ManifestKind::Index(index) => Ok(index),
            ManifestKind::Image(_) => {
                let url = self.url(repository, "manifests", tag.as_str())?;
                Err(Error::protocol(&Method::GET, &url, "an image stands where a list of referrers should"))
            }
        }
    }
}

/// `sha256-HEX`: at most 32 characters of the algorithm and 64 of the rest.
fn tag_of(subject: &Digest) -> Tag {
    let hex: String = subject.hex().chars().take(64).collect();
    let tag = format!("{}-{hex}", subject.algorithm().name());
    tag.parse().expect("an algorithm's name and hexadecimal digits are a tag")
}

fn json(what: &str, value: &impl serde::Serialize) -> Result<Bytes, Error> {
    let bytes = serde_json::to_vec(value);
    bytes.map(Bytes::from).map_err(|source| Error::Malformed { what: what.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_a_subject_is_cut_to_what_a_tag_can_be() {
        let short = Digest::of(b"x");
        assert_eq!(tag_of(&short).as_str(), format!("sha256-{}", short.hex()));
        let mut hasher = crate::oci::Hasher::new(crate::oci::Algorithm::Sha512);
        hasher.update(b"x");
        let long = hasher.finish();
        assert_eq!(tag_of(&long).as_str(), format!("sha512-{}", &long.hex()[..64]));
    }
}
