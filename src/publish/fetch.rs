//! A base that is not here yet, out of a registry: any image can be one.

use std::path::Path;

use crate::image::{Base, ImageError, Layout};
use crate::oci::{Descriptor, Platform, Reference, Tag};
use crate::registry::{Name, Registry};

use super::PublishError;
use super::base::home;

/// Takes the image that `reference` names into `layout` under `tag`: for a platform, or, of whatever there is, for this
/// machine's.
///
/// Every blob is checked on its way; the tag is written last, so a fetch that breaks off leaves no base behind. Blobs
/// that are here already are not fetched again.
pub async fn fetch_base(
    registry: &Registry,
    reference: &Reference,
    layout: &Layout,
    tag: &str,
    platform: Option<&Platform>,
) -> Result<Descriptor, PublishError> {
    let failed = |source| PublishError::Fetch { what: reference.to_string(), source: Box::new(source) };
    let latest = Tag::latest();
    let name = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Name::Digest(digest),
        (None, tag) => Name::Tag(tag.as_ref().unwrap_or(&latest)),
    };
    let repository = &reference.repository;
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let pulled = registry.pull_image(repository, name, &wanted).await.map_err(failed)?;
    if platform.is_some_and(|platform| !platform.is_like(&pulled.config.platform)) {
        let registry = registry.host().into();
        return Err(PublishError::NoBase { name: tag.into(), platform: Some(wanted.into()), registry });
    }
    for layer in &pulled.image.layers {
        if !layout.contains(layer) {
            let mut blob = layout.blob_writer()?;
            registry.pull_blob_to(repository, layer, &mut blob).await.map_err(failed)?;
            blob.commit_as(layer)?;
        }
    }
    layout.write_blob(&pulled.image.config.media_type, &pulled.config_bytes)?;
    let descriptor = layout.write_blob(&pulled.manifest.descriptor.media_type, &pulled.manifest.bytes)?;
    Base::keep(layout, tag, &descriptor)?;
    Ok(descriptor)
}

/// The base of this name, if it is here.
///
/// # Errors
/// [`PublishError::NoBaseHere`] says how to come by it.
pub fn base_here(data: &Path, name: &str, platform: Option<&Platform>) -> Result<Base, PublishError> {
    match Base::open_for(&Layout::create(data.join("bases"))?, name, platform) {
        Err(ImageError::NoTag { .. }) => {
            Err(PublishError::NoBaseHere { name: name.into(), platform: platform.cloned().map(Box::new) })
        }
        opened => Ok(opened?),
    }
}

/// The base that `layout` calls `name`, fetched from the registry's own bases if it is not here.
///
/// So a machine that never built a base can build upon one, as long as somebody pushed a function with it.
pub(super) async fn open_base(
    registry: &Registry,
    layout: &Layout,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Base, PublishError> {
    match Base::open_for(layout, name, platform) {
        Err(ImageError::NoTag { .. } | ImageError::NoPlatform { .. }) => {}
        opened => return Ok(opened?),
    }
    let absent = || PublishError::NoBase {
        name: name.into(),
        platform: platform.cloned().map(Box::new),
        registry: registry.host().into(),
    };
    let tag = name.parse::<Tag>().map_err(|_| absent())?;
    let reference = Reference::by_tag(registry.host(), &home(), &tag);
    let failed = |source| PublishError::NoBaseFetched {
        name: name.into(),
        what: reference.to_string(),
        source: Box::new(source),
    };
    let found = registry.head_manifest(&reference.repository, &tag).await.map_err(failed)?;
    let digest = found.ok_or_else(absent)?.digest;
    let by_digest = Reference { digest: Some(digest), ..reference.clone() };
    fetch_base(registry, &by_digest, layout, name, platform).await?;
    Ok(Base::open_for(layout, name, platform)?)
}
