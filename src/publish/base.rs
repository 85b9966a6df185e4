//! The base's layers in a registry: kept in the repository `fnbuild/base`, mounted from there into a function's own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::content::{LayerContent, Meter};
use crate::image::{Base, Layer};
use crate::oci::{Descriptor, ImageIndex, Repository, Tag};
use crate::registry::{Error, InMemory, ManifestKind, Mount, Registry};

/// How often a base is pushed to a registry that then lacks a part of it, and how long is waited in between.
const ROUNDS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Where the bases of a registry are.
const REPOSITORY: &str = "fnbuild/base";

/// [`REPOSITORY`], checked.
pub(super) fn home() -> Repository {
    REPOSITORY.parse().unwrap_or_else(|_| unreachable!("a constant repository name"))
}

/// How a layer came to be in the function's repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// It was there.
    Present,
    /// From another repository of the registry, without moving it.
    Mounted,
    /// From here.
    Uploaded,
}

impl Arrival {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Mounted => "mounted",
            Self::Uploaded => "new",
        }
    }
}

/// Brings a base's layers to where they are needed.
pub(super) struct BaseLayers<'a> {
    registry: &'a Registry,
    base: &'a Base,
    config: Vec<u8>,
    manifest: Vec<u8>,
    meter: &'a Arc<Meter>,
    home: Repository,
    pushed: OnceCell<()>,
}

impl<'a> BaseLayers<'a> {
    /// `config` and `manifest` are the base's own bytes.
    pub fn new(
        registry: &'a Registry,
        base: &'a Base,
        (config, manifest): (Vec<u8>, Vec<u8>),
        meter: &'a Arc<Meter>,
    ) -> Self {
        Self { registry, base, config, manifest, meter, home: home(), pushed: OnceCell::new() }
    }

    /// Brings one layer into `repository`: by a mount, or, from a registry that refuses those, by an upload.
    pub async fn supply(
        &self,
        repository: &Repository,
        layer: &Layer,
        descriptor: &Descriptor,
    ) -> Result<Arrival, Error> {
        let digest = &descriptor.digest;
        let refused = match self.registry.mount_blob(repository, digest, &self.home).await? {
            // What this very push brought into the registry was uploaded, wherever it was mounted then.
            Mount::Mounted if self.pushed.initialized() => return Ok(Arrival::Uploaded),
            Mount::Mounted => return Ok(Arrival::Mounted),
            Mount::Refused(upload) => upload,
        };
        if self.registry.has_blob(&self.home, digest, descriptor.size).await? {
            // It is there and was not mounted: this registry does not mount.
            self.upload(repository, layer, descriptor, Some(refused)).await?;
            return Ok(Arrival::Uploaded);
        }
        self.pushed.get_or_try_init(|| self.push()).await?;
        match self.registry.mount_blob(repository, digest, &self.home).await? {
            Mount::Mounted => {}
            Mount::Refused(upload) => self.upload(repository, layer, descriptor, Some(upload)).await?,
        }
        Ok(Arrival::Uploaded)
    }

    /// The whole base into its own repository, under its name. While somebody else brings it there too, docker-registry
    /// may for a moment not have a layer that either has just uploaded.
    async fn push(&self) -> Result<(), Error> {
        for _ in 1..ROUNDS {
            match self.push_once().await {
                Err(Error::IncompleteManifest { .. }) => tokio::time::sleep(PAUSE).await,
                pushed => return pushed,
            }
        }
        self.push_once().await
    }

    async fn push_once(&self) -> Result<(), Error> {
        for (layer, descriptor) in self.base.layers.iter().zip(&self.base.manifest.layers) {
            if !self.registry.has_blob(&self.home, &descriptor.digest, descriptor.size).await? {
                self.upload(&self.home, layer, descriptor, None).await?;
            }
        }
        let config = Arc::new(InMemory::new(self.config.clone()));
        self.registry.push_blob(&self.home, config, None).await?;
        let (descriptor, bytes) = (&self.base.descriptor, self.manifest.clone().into());
        self.registry.push_manifest(&self.home, &descriptor.digest, &descriptor.media_type, bytes).await?;
        match self.base.name.parse::<Tag>() {
            Ok(tag) => self.tag(&tag).await,
            Err(_) => Ok(()),
        }
    }

    /// Lets the tag say this base, for its platform: beside what it says for others.
    async fn tag(&self, tag: &Tag) -> Result<(), Error> {
        let ours =
            Descriptor { platform: Some(self.base.config.platform.clone()), ..self.base.descriptor.clone() };
        let mut index = self.tagged(tag).await?;
        index.put(ours);
        if let [only] = index.manifests.as_slice() {
            let bytes = self.manifest.clone().into();
            return self.registry.push_manifest(&self.home, tag, &only.media_type, bytes).await.map(drop);
        }
        let bytes = serde_json::to_vec(&index)
            .map_err(|source| Error::Malformed { what: "the index of the bases".into(), source })?;
        self.registry.push_manifest(&self.home, tag, &index.media_type, bytes.into()).await.map(drop)
    }

    /// What the tag says now, by platform.
    async fn tagged(&self, tag: &Tag) -> Result<ImageIndex, Error> {
        let Some(found) = self.registry.head_manifest(&self.home, tag).await? else {
            return Ok(ImageIndex::new(Vec::new()));
        };
        let manifest = self.registry.pull_manifest(&self.home, &found.digest).await?;
        if let ManifestKind::Index(index) = manifest.parse()? {
            return Ok(index);
        }
        let image = self.registry.pull_image(&self.home, &found.digest, &self.base.config.platform).await?;
        let known = Descriptor { platform: Some(image.config.platform), ..manifest.descriptor };
        Ok(ImageIndex::new(vec![known]))
    }

    async fn upload(
        &self,
        repository: &Repository,
        layer: &Layer,
        descriptor: &Descriptor,
        upload: Option<crate::registry::Upload>,
    ) -> Result<(), Error> {
        let content = LayerContent::new(layer.clone(), descriptor.clone(), self.meter);
        self.registry.push_blob(repository, Arc::new(content), upload).await
    }
}
