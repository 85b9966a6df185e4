//! Several images under one digest, told apart by platform: image-spec, "Image Index".

use super::ImageError;
use crate::oci::{Annotations, Descriptor, ImageIndex};

/// An index and the very bytes that its digest is of.
#[derive(Clone, Debug)]
pub struct Index {
    bytes: Vec<u8>,
    descriptor: Descriptor,
}

impl Index {
    /// Of manifests that each name their platform. In whatever order they come, the index is the same.
    pub fn new(manifests: Vec<Descriptor>, annotations: Annotations) -> Result<Self, ImageError> {
        let mut index = ImageIndex::new(Vec::new());
        manifests.into_iter().for_each(|manifest| index.put(manifest));
        index.annotations = annotations;
        Self::of(&index)
    }

    pub fn of(index: &ImageIndex) -> Result<Self, ImageError> {
        let serialise = |source| ImageError::Serialise { what: "the index", source };
        let bytes = serde_json::to_vec(index).map_err(serialise)?;
        let descriptor = Descriptor::of(index.media_type.clone(), &bytes);
        Ok(Self { bytes, descriptor })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }
}
