//! Image records: they make an image visible (`ctr images ls`) and keep its blobs and snapshots from being collected.

use std::collections::HashSet;

use containerd_client::services::v1 as c8d;
use containerd_client::tonic::Code;

use super::unpack::wire_descriptor;
use super::{Containerd, Error, Labels, tolerate};
use crate::oci::{Descriptor, Digest, ImageConfig, ImageManifest};

/// An image record as containerd lists it.
#[derive(Clone, Debug)]
pub struct PinnedImage {
    pub name: String,
    pub digest: String,
    pub labels: Labels,
}

/// The labels by which the garbage collector goes from a manifest to its config and layers.
pub(super) fn manifest_labels(manifest: &ImageManifest) -> Labels {
    let config = ("containerd.io/gc.ref.content.config".to_string(), manifest.config.digest.to_string());
    let mut seen = HashSet::new();
    let layers = manifest.layers.iter().filter(|layer| seen.insert(&layer.digest)).enumerate();
    let layers =
        layers.map(|(at, layer)| (format!("containerd.io/gc.ref.content.l.{at}"), layer.digest.to_string()));
    std::iter::once(config).chain(layers).collect()
}

impl Containerd {
    /// Stores a manifest with the labels that hold its config and layers.
    pub async fn write_manifest(
        &self,
        target: &Descriptor,
        bytes: bytes::Bytes,
        manifest: &ImageManifest,
    ) -> Result<(), Error> {
        self.write_bytes(target, bytes, manifest_labels(manifest)).await
    }

    /// Stores a config with the label that holds the unpacked layers.
    pub async fn write_config(
        &self,
        target: &Descriptor,
        bytes: bytes::Bytes,
        chain: Option<&Digest>,
    ) -> Result<(), Error> {
        let labels = chain.map(|chain| (self.snapshot_reference(), chain.to_string())).into_iter().collect();
        self.write_bytes(target, bytes, labels).await
    }

    /// The label of what needs a snapshot, whose name is its value: the collector then leaves that alone.
    pub fn snapshot_reference(&self) -> String {
        format!("containerd.io/gc.ref.snapshot.{}", super::SNAPSHOTTER)
    }

    /// Manifest and config of an image whose blobs are in the content store.
    pub async fn read_image(&self, digest: &Digest) -> Result<(ImageManifest, ImageConfig), Error> {
        let manifest: ImageManifest = parse(digest, "manifest", &self.read_blob(digest).await?)?;
        let config = parse(digest, "config", &self.read_blob(&manifest.config.digest).await?)?;
        Ok((manifest, config))
    }

    /// Creates the record `name` for the manifest, or points the one that is there at it.
    pub async fn pin_image(&self, name: &str, target: &Descriptor, labels: Labels) -> Result<(), Error> {
        let failed = |source| self.failed(format!("pin image {name}"), source);
        let image = c8d::Image {
            name: name.into(),
            labels,
            target: Some(wire_descriptor(target)),
            ..Default::default()
        };
        let request = c8d::CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        match self.images().create(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = c8d::UpdateImageRequest { image: Some(image), ..Default::default() };
                self.images().update(request).await.map(drop).map_err(failed)
            }
            Err(status) => Err(failed(status)),
        }
    }

    /// Deletes an image record; the collector then takes what nothing else refers to.
    pub async fn unpin_image(&self, name: &str) -> Result<(), Error> {
        let request = c8d::DeleteImageRequest { name: name.into(), ..Default::default() };
        let deleted = self.images().delete(request).await;
        deleted
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|status| self.failed(format!("unpin image {name}"), status))
    }

    /// Image records with this label.
    pub async fn images_labelled(&self, label: &str, value: &str) -> Result<Vec<PinnedImage>, Error> {
        let request = c8d::ListImagesRequest { filters: vec![super::lease::filter(label, value)] };
        let answer = self.images().list(request).await.map_err(|s| self.failed("list images", s))?;
        let pinned = |image: c8d::Image| PinnedImage {
            name: image.name,
            digest: image.target.map(|target| target.digest).unwrap_or_default(),
            labels: image.labels,
        };
        Ok(answer.into_inner().images.into_iter().map(pinned).collect())
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    image: &Digest,
    what: &'static str,
    bytes: &[u8],
) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Malformed { image: image.clone(), what, source })
}
