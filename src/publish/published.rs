//! What is in the registry already: its tags, repaired from the record, and the deletion of what nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::function::{FunctionRecord, VersionNumber};
use crate::oci::{Descriptor, Digest, Repository, Tag};
use crate::registry::{self, ManifestKind, Registry};

/// The images of recorded functions, as a registry holds them.
#[derive(Clone)]
pub struct Published {
    registry: Arc<Registry>,
}

impl Published {
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    /// `HOST[:PORT]`.
    pub fn host(&self) -> &str {
        self.registry.host()
    }

    /// Whether the registry answers and takes our credentials.
    pub async fn check(&self) -> Result<(), registry::Error> {
        self.registry.check().await
    }

    /// Whether an image is there: a version must not be recorded without one.
    pub async fn contains(&self, repository: &Repository, digest: &Digest) -> Result<bool, registry::Error> {
        Ok(self.registry.head_manifest(repository, digest).await?.is_some())
    }

    /// What refers to an image: SBOMs, signatures, reports.
    pub async fn attached(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, registry::Error> {
        self.registry.referrers(repository, digest).await
    }

    /// Lets `:N` and `:latest` say what the record says. Tags are for people, so one that is right already costs a
    /// question and nothing more.
    pub async fn tag(&self, record: &FunctionRecord, number: VersionNumber) -> Result<(), registry::Error> {
        let Some(version) = record.version(number) else { return Ok(()) };
        let (repository, digest) = (&version.image.repository, &version.image.digest);
        let mut tags = vec![number.to_string()];
        if number == record.current {
            tags.push("latest".into());
        }
        let mut manifest = None;
        for tag in tags.iter().filter_map(|tag| tag.parse::<Tag>().ok()) {
            let present = self.registry.head_manifest(repository, &tag).await?;
            if present.is_some_and(|present| present.digest == *digest) {
                continue;
            }
            let manifest = match &manifest {
                Some(manifest) => manifest,
                None => manifest.insert(self.registry.pull_manifest(repository, digest).await?),
            };
            let media_type = &manifest.descriptor.media_type;
            self.registry.push_manifest(repository, &tag, media_type, manifest.bytes.clone()).await?;
        }
        Ok(())
    }

    /// The tags that do not say what the record says.
    pub async fn untagged(&self, record: &FunctionRecord) -> Result<Vec<String>, registry::Error> {
        let numbers = record.versions.iter().map(|version| (version.number.to_string(), version));
        let latest = record.current().map(|version| ("latest".to_string(), version));
        let mut wrong = Vec::new();
        for (name, version) in numbers.chain(latest) {
            let Ok(tag) = name.parse::<Tag>() else { continue };
            let found = self.registry.head_manifest(&version.image.repository, &tag).await?;
            if found.is_none_or(|found| found.digest != version.image.digest) {
                wrong.push(format!("{}:{name}", version.image.repository));
            }
        }
        Ok(wrong)
    }

    /// Deletes the images of a function's versions, and what is attached to them, except those that a record in `others` or somebody's own tag
    /// still stands for. Gives a line for each that stays.
    pub async fn delete(&self, record: &FunctionRecord, others: &[FunctionRecord]) -> Vec<String> {
        let image = |version: &crate::function::Version| {
            (version.image.repository.clone(), version.image.digest.clone())
        };
        let used: BTreeSet<_> = others.iter().flat_map(|other| other.versions.iter().map(image)).collect();
        let ours: BTreeSet<_> = record.versions.iter().map(image).collect();
        let mut kept = Vec::new();
        for (repository, digest) in &ours {
            let stays =
                |why: &str| format!("{}/{repository}@{digest} stays in the registry: {why}", self.host());
            if used.contains(&(repository.clone(), digest.clone())) {
                kept.push(stays("another function uses it"));
                continue;
            }
            match self.foreign_tag(repository, digest).await {
                Ok(None) => {}
                Ok(Some(tag)) => {
                    kept.push(stays(&format!("the tag {tag} stands for it", tag = tag.as_str())));
                    continue;
                }
                Err(error) => {
                    kept.push(stays(&error.to_string()));
                    continue;
                }
            }
            if let Err(error) = self.delete_whole(repository, digest).await {
                kept.push(stays(&error.to_string()));
            } else if let Err(error) = self.registry.delete_referrers(repository, digest).await {
                kept.push(format!(
                    "what is attached to {repository}@{digest} stays in {}: {error}",
                    self.host()
                ));
            }
        }
        kept
    }

    /// An image; of several platforms the index and the images that it names.
    async fn delete_whole(&self, repository: &Repository, digest: &Digest) -> Result<(), registry::Error> {
        let manifests = match self.registry.pull_manifest(repository, digest).await {
            Ok(manifest) => match manifest.parse()? {
                ManifestKind::Index(index) => index.manifests,
                ManifestKind::Image(_) => Vec::new(),
            },
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.registry.delete_manifest(repository, digest).await?;
        for manifest in manifests {
            // A version for one of the platforms alone may stand for it too.
            if self.foreign_tag(repository, &manifest.digest).await?.is_none() {
                self.registry.delete_manifest(repository, &manifest.digest).await?;
            }
        }
        Ok(())
    }

    /// A tag that fnbuild did not write and that stands for this image.
    async fn foreign_tag(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Tag>, registry::Error> {
        for tag in self.registry.tags(repository).await? {
            let own = tag.as_str() == "latest" || tag.as_str().bytes().all(|b| b.is_ascii_digit());
            if own {
                continue;
            }
            let stands_for = self.registry.head_manifest(repository, &tag).await?;
            if stands_for.is_some_and(|found| found.digest == *digest) {
                return Ok(Some(tag));
            }
        }
        Ok(None)
    }
}
