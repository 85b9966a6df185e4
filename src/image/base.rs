//! The image below the user's code: read from a layout, its layers opened only when somebody lacks them.

use super::{ImageError, Layer, Layout};
use crate::oci::{Descriptor, ImageConfig, ImageManifest, media_type};

/// A base image, ready to be built upon.
#[derive(Clone, Debug)]
pub struct Base {
    /// The tag that it was found by, for example `python3.11-flask2.3`.
    pub name: String,
    /// Of the manifest.
    pub descriptor: Descriptor,
    pub manifest: ImageManifest,
    pub config: ImageConfig,
    /// Lowest first; as many as the manifest and the config say.
    pub layers: Vec<Layer>,
}

impl Base {
    /// The base that a layout calls `name`.
    ///
    /// Refused are an index (an image must be for one platform) and an image that contradicts itself. Whether the
    /// blobs of the layers are there shows when they are opened: a registry that has them makes them needless here.
    pub fn open(layout: &Layout, name: &str) -> Result<Self, ImageError> {
        let no_base =
            |reason: String| ImageError::NoBase { tag: name.into(), path: layout.path().into(), reason };
        let mut descriptor = layout.resolve(name)?;
        descriptor.annotations.clear();
        if !matches!(descriptor.media_type.as_str(), media_type::MANIFEST | media_type::DOCKER_MANIFEST) {
            return Err(no_base(format!("it is of type {}, not an image manifest", descriptor.media_type)));
        }
        let manifest: ImageManifest = layout.read_json("a manifest", &descriptor)?;
        let config: ImageConfig = layout.read_json("an image config", &manifest.config)?;
        let (layers, diff_ids) = (&manifest.layers, &config.rootfs.diff_ids);
        if layers.len() != diff_ids.len() {
            let text = format!("its manifest has {} layers, its config {}", layers.len(), diff_ids.len());
            return Err(no_base(text));
        }
        let layers = layers.iter().zip(diff_ids).map(|(l, d)| layout.layer(l.clone(), d.clone())).collect();
        Ok(Self { name: name.into(), descriptor, manifest, config, layers })
    }
}
