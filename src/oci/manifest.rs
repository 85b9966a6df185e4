//! Image manifests and indexes: image-spec, "Image Manifest" and "Image Index".

use serde::{Deserialize, Serialize};

use super::{Annotations, Descriptor, Platform, media_type};

/// One image for one platform: a config and its layers, lowest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    pub schema_version: u32,
    /// Docker wants it, OCI allows it: always written.
    #[serde(default = "manifest_media_type")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

impl ImageManifest {
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: manifest_media_type(),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: Annotations::new(),
        }
    }
}

/// Several manifests under one digest, told apart by platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    pub schema_version: u32,
    #[serde(default = "index_media_type")]
    pub media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
}

impl ImageIndex {
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: index_media_type(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: Annotations::new(),
        }
    }

    /// Lists a manifest in the place of one for the same platform, in the order of platforms.
    pub fn put(&mut self, manifest: Descriptor) {
        self.manifests.retain(|known| match (&known.platform, &manifest.platform) {
            (Some(known), Some(new)) => !known.is_like(new),
            _ => true,
        });
        self.manifests.push(manifest);
        self.manifests.sort_by(|a, b| a.platform.cmp(&b.platform));
    }

    /// The manifest for a platform, whatever its variant.
    pub fn for_platform(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .find(|known| known.platform.as_ref().is_some_and(|known| known.is_like(platform)))
    }
}

fn manifest_media_type() -> String {
    media_type::MANIFEST.into()
}

fn index_media_type() -> String {
    media_type::INDEX.into()
}
