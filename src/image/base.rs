//! The image below the user's code: read from a layout, its layers opened only when somebody lacks them.

use super::{ImageError, Index, Layer, Layout};
use crate::oci::{Descriptor, ImageConfig, ImageIndex, ImageManifest, Platform, media_type};

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
    /// The base that a layout calls `name`; of one that is there for several platforms this machine's.
    ///
    /// Refused is an image that contradicts itself. Whether the blobs of the layers are there shows when they are
    /// opened: a registry that has them makes them needless here.
    pub fn open(layout: &Layout, name: &str) -> Result<Self, ImageError> {
        Self::open_for(layout, name, None)
    }

    /// The same for a platform, [`ImageError::NoPlatform`] where it is for others only.
    pub fn open_for(layout: &Layout, name: &str, platform: Option<&Platform>) -> Result<Self, ImageError> {
        let no_base =
            |reason: String| ImageError::NoBase { tag: name.into(), path: layout.path().into(), reason };
        let other = |available: String, wanted: &Platform| ImageError::NoPlatform {
            tag: name.into(),
            path: layout.path().into(),
            platform: Box::new(wanted.clone()),
            available,
        };
        let mut descriptor = layout.resolve(name)?;
        if is_index(&descriptor) {
            let index: ImageIndex = layout.read_json("an index", &descriptor)?;
            let host = Platform::host();
            let wanted = platform.unwrap_or(&host);
            let found = index.for_platform(wanted);
            descriptor = found.cloned().ok_or_else(|| other(listed(&index), wanted))?;
        }
        descriptor = Descriptor::new(descriptor.media_type, descriptor.digest, descriptor.size);
        if !matches!(descriptor.media_type.as_str(), media_type::MANIFEST | media_type::DOCKER_MANIFEST) {
            return Err(no_base(format!("it is of type {}, not an image manifest", descriptor.media_type)));
        }
        let manifest: ImageManifest = layout.read_json("a manifest", &descriptor)?;
        let config: ImageConfig = layout.read_json("an image config", &manifest.config)?;
        if let Some(wanted) = platform.filter(|wanted| !wanted.is_like(&config.platform)) {
            return Err(other(config.platform.to_string(), wanted));
        }
        let (layers, diff_ids) = (&manifest.layers, &config.rootfs.diff_ids);
        if layers.len() != diff_ids.len() {
            let text = format!("its manifest has {} layers, its config {}", layers.len(), diff_ids.len());
            return Err(no_base(text));
        }
        let layers = layers.iter().zip(diff_ids).map(|(l, d)| layout.layer(l.clone(), d.clone())).collect();
        Ok(Self { name: name.into(), descriptor, manifest, config, layers })
    }

    /// Keeps an image whose blobs are all in the layout as the base `name`: in the place of one for the same platform,
    /// beside those for others.
    pub fn keep(layout: &Layout, name: &str, manifest: &Descriptor) -> Result<(), ImageError> {
        let with_platform = |manifest: &Descriptor| {
            let image: ImageManifest = layout.read_json("a manifest", manifest)?;
            let config: ImageConfig = layout.read_json("an image config", &image.config)?;
            let plain = Descriptor::new(manifest.media_type.clone(), manifest.digest.clone(), manifest.size);
            Ok::<_, ImageError>(Descriptor { platform: Some(config.platform), ..plain })
        };
        let mut index = match layout.resolve(name) {
            Ok(known) if is_index(&known) => layout.read_json("an index", &known)?,
            // One that is damaged is replaced.
            Ok(known) => ImageIndex::new(with_platform(&known).into_iter().collect()),
            Err(ImageError::NoTag { .. }) => ImageIndex::new(Vec::new()),
            Err(error) => return Err(error),
        };
        index.put(with_platform(manifest)?);
        if index.manifests.len() == 1 {
            return layout.tag(name, manifest.clone());
        }
        let index = Index::of(&index)?;
        layout.write_blob(media_type::INDEX, index.bytes())?;
        layout.tag(name, index.descriptor().clone())
    }
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), media_type::INDEX | media_type::DOCKER_INDEX)
}

fn listed(index: &ImageIndex) -> String {
    let platforms = index.manifests.iter().filter_map(|known| known.platform.as_ref());
    platforms.map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
