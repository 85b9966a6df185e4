//! Several platforms: one image for each, and an index that names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::{Arrival, Job, Meter, PublishError, PushedImage, publish_one};
use crate::image::Index;
use crate::oci::{Descriptor, Digest, Platform, Tag};
use crate::registry::{Error, Name, Registry};

/// Publishes an image for each of the job's platforms, by digest, then the index, under the job's tags.
pub(super) async fn publish(
    registry: &Registry,
    job: &Job,
    meter: &Arc<Meter>,
) -> Result<PushedImage, PublishError> {
    let begun = Instant::now();
    let mut images = BTreeMap::new();
    for platform in &job.platforms {
        let one = Job { platforms: vec![platform.clone()], tags: Vec::new(), ..job.clone() };
        images.insert(platform.clone(), publish_one(registry, &one, meter).await?);
    }
    let put = IndexPush { registry, job };
    let mut entries = Vec::new();
    for (platform, image) in &images {
        let found = registry.head_manifest(&job.repository, &image.digest).await;
        let found = found.map_err(|error| put.failed("the image", error))?;
        let lost = || PublishError::StillIncomplete { to: put.to(), digest: image.digest.clone() };
        entries.push(Descriptor { platform: Some(platform.clone()), ..found.ok_or_else(lost)? });
    }
    let index = Index::new(entries, job.options.annotations.clone())?;
    let unchanged = put.settle(&index).await? && images.values().all(|image| image.unchanged);
    Ok(joined(images, index.descriptor().digest.clone(), unchanged, begun))
}

/// What is said of all images at once is said of this machine's where it is among them, else of the first.
fn joined(
    mut images: BTreeMap<Platform, PushedImage>,
    digest: Digest,
    unchanged: bool,
    begun: Instant,
) -> PushedImage {
    let mut layers: Vec<(Descriptor, Arrival)> = Vec::new();
    let mut times = Vec::new();
    for image in images.values() {
        times.extend(image.times.iter().filter(|(step, _)| *step != "all").copied());
        for (layer, arrival) in &image.layers {
            // The code is the same in each of them, and there once the first has brought it.
            if !layers.iter().any(|(known, _)| known.digest == layer.digest) {
                layers.push((layer.clone(), *arrival));
            }
        }
    }
    times.push(("all", begun.elapsed()));
    let here = Platform::host();
    let chosen =
        images.keys().find(|platform| platform.is_like(&here)).or_else(|| images.keys().next()).cloned();
    let chosen = chosen.and_then(|platform| images.remove(&platform));
    let chosen = chosen.unwrap_or_else(|| unreachable!("an index is for two platforms at least"));
    PushedImage { digest, unchanged, layers, times, ..chosen }
}

struct IndexPush<'a> {
    registry: &'a Registry,
    job: &'a Job,
}

impl IndexPush<'_> {
    /// Sees to it that the index is there under every tag; without one, under its digest. Gives whether it was.
    async fn settle(&self, index: &Index) -> Result<bool, PublishError> {
        let digest = &index.descriptor().digest;
        if self.job.tags.is_empty() {
            return self.name(index, Name::Digest(digest), None).await;
        }
        let tags = self.job.tags.iter().map(|tag| self.name(index, Name::Tag(tag), Some(tag)));
        Ok(try_join_all(tags).await?.into_iter().all(|there| there))
    }

    async fn name(&self, index: &Index, name: Name<'_>, tag: Option<&Tag>) -> Result<bool, PublishError> {
        let (repository, descriptor) = (&self.job.repository, index.descriptor());
        let failed = |error| self.failed("the index", error);
        let holds = async || {
            let found = self.registry.head_manifest(repository, name).await.map_err(failed)?;
            Ok::<_, PublishError>(found.is_some_and(|found| found.digest == descriptor.digest))
        };
        if holds().await? {
            return Ok(true);
        }
        let bytes = bytes::Bytes::from(index.bytes().to_vec());
        self.registry.push_manifest(repository, name, &descriptor.media_type, bytes).await.map_err(failed)?;
        match tag {
            Some(tag) if !holds().await? => {
                Err(PublishError::TagForgotten { to: self.to(), tag: tag.clone() })
            }
            _ => Ok(false),
        }
    }

    fn failed(&self, what: &str, source: Error) -> PublishError {
        PublishError::Push { what: what.into(), to: self.to(), source: source.into() }
    }

    fn to(&self) -> String {
        format!("{}/{}", self.registry.host(), self.job.repository)
    }
}
