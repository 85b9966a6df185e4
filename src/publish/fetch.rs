//! A base that is not here yet, out of a registry: any image can be one.

use crate::image::{ImageError, Layout};
use crate::oci::{Descriptor, Platform, Reference, Tag};
use crate::registry::{Name, Registry};

use super::PublishError;
use super::base::home;

/// Takes the image that `reference` names, for this machine's platform, into `layout` under `tag`.
///
/// Every blob is checked on its way; the tag is written last, so a fetch that breaks off leaves no base behind. Blobs
/// that are here already are not fetched again.
pub async fn fetch_base(
    registry: &Registry,
    reference: &Reference,
    layout: &Layout,
    tag: &str,
) -> Result<Descriptor, PublishError> {
    let failed = |source| PublishError::Fetch { what: reference.to_string(), source: Box::new(source) };
    let latest = Tag::latest();
    let name = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => Name::Digest(digest),
        (None, tag) => Name::Tag(tag.as_ref().unwrap_or(&latest)),
    };
    let repository = &reference.repository;
    let pulled = registry.pull_image(repository, name, &Platform::host()).await.map_err(failed)?;
    for layer in &pulled.image.layers {
        if !layout.contains(layer) {
            let mut blob = layout.blob_writer()?;
            registry.pull_blob_to(repository, layer, &mut blob).await.map_err(failed)?;
            blob.commit_as(layer)?;
        }
    }
    layout.write_blob(&pulled.image.config.media_type, &pulled.config_bytes)?;
    let descriptor = layout.write_blob(&pulled.manifest.descriptor.media_type, &pulled.manifest.bytes)?;
    layout.tag(tag, descriptor.clone())?;
    Ok(descriptor)
}

/// The base that `layout` calls `name`, fetched from the registry's own bases if it is not here.
///
/// So a machine that never built a base can build upon one, as long as somebody pushed a function with it.
pub(super) async fn ensure_base(
    registry: &Registry,
    layout: &Layout,
    name: &str,
) -> Result<(), PublishError> {
    match layout.resolve(name) {
        Err(ImageError::NoTag { .. }) => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Ok(()),
    }
    let absent = || PublishError::NoBase { name: name.into(), registry: registry.host().into() };
    let tag = name.parse::<Tag>().map_err(|_| absent())?;
    let reference = Reference::by_tag(registry.host(), &home(), &tag);
    let failed = |source| PublishError::Fetch { what: reference.to_string(), source: Box::new(source) };
    let found = registry.head_manifest(&reference.repository, &tag).await.map_err(failed)?;
    let digest = found.ok_or_else(absent)?.digest;
    let by_digest = Reference { digest: Some(digest), ..reference.clone() };
    fetch_base(registry, &by_digest, layout, name).await?;
    Ok(())
}
