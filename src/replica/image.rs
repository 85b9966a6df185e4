//! Images into containerd: fetched from the registry under a lease, unpacked, pinned by an image record.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use super::{Error, FolderId};
use crate::containerd::{Containerd, Labels, chain_id};
use crate::function::NewVersion;
use crate::oci::{
    ContainerConfig, Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest, Platform, Repository,
};

/// Whatever a registry's client has to say.
pub type PullError = Box<dyn std::error::Error + Send + Sync>;

/// Where images come from: a registry, by digest. What it gives is verified by who takes it.
#[async_trait::async_trait]
pub trait ImageSource: Send + Sync {
    /// A manifest's or index's bytes.
    async fn manifest(&self, repository: &Repository, digest: &Digest) -> Result<Bytes, PullError>;

    /// A blob's bytes.
    async fn blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, PullError>;
}

/// How many layers are fetched at once.
const PARALLEL_LAYERS: usize = 3;

pub(super) const FOLDER_LABEL: &str = "io.fnbuild.folder";

/// The label of images that have fnbuild's runtime in them, and so its health check.
pub(super) const RUNTIME_LABEL: &str = "io.fnbuild.runtime";

/// Where a function's files are inside.
pub(super) const CODE: &str = "/function";

/// The variable of images that names the function to call.
pub(super) const ENTRY: &str = "FNBUILD_ENTRY";

/// An image whose layers are unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The image record that pins it.
    pub name: String,
    pub chain: Option<Digest>,
    pub config: ImageConfig,
    /// Where the image is a base of fnbuild's with layers of a function's on top.
    pub code: Option<Code>,
}

/// What a function has over its base.
#[derive(Debug)]
pub(super) struct Code {
    pub base: Arc<Base>,
    /// The folders that are `/function` once merged, the uppermost first.
    pub folders: Vec<PathBuf>,
}

/// What is below the functions: enough to start a container that is nobody's yet.
#[derive(Debug)]
pub(super) struct Base {
    /// Of all the rest: a container of this key fits every image of this key.
    pub key: Digest,
    pub chain: Digest,
    /// An image's, without its entry point.
    pub config: ContainerConfig,
}

/// Fetches and remembers.
pub(super) struct Images {
    containerd: Containerd,
    source: Arc<dyn ImageSource>,
    folder: FolderId,
    known: Mutex<HashMap<Digest, Known>>,
}

struct Known {
    image: Arc<tokio::sync::OnceCell<Arc<Unpacked>>>,
    since: Instant,
}

/// How long an image is kept that no record names yet: it is pushed, then prepared, then recorded.
pub(super) const FRESH: Duration = Duration::from_secs(600);

impl Images {
    pub fn new(containerd: Containerd, source: Arc<dyn ImageSource>, folder: FolderId) -> Self {
        Self { containerd, source, folder, known: Mutex::default() }
    }

    /// Sees to it that the image is there, unpacked and pinned. Free after the first time; concurrent calls for one
    /// image share the work.
    pub async fn prepare(&self, version: &NewVersion) -> Result<Arc<Unpacked>, Error> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Known { image: Arc::default(), since: Instant::now() };
            let known = known.entry(version.digest.clone()).or_insert_with(new);
            known.since = Instant::now();
            known.image.clone()
        };
        let unpacked = cell.get_or_try_init(async || match self.present(version).await? {
            Some(unpacked) => Ok::<_, Error>(Arc::new(unpacked)),
            None => self.fetch(version).await.map(Arc::new),
        });
        unpacked.await.cloned()
    }

    /// Whether it was asked for so lately that its record may not be written yet.
    pub fn is_fresh(&self, digest: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known =
            digest.parse().ok().and_then(|digest: Digest| known.get(&digest).map(|known| known.since));
        known.is_some_and(|since| since.elapsed() < FRESH)
    }

    /// Forgets what is known of an image: somebody took it from containerd behind our back, or it is unpinned.
    pub fn forget(&self, digest: &Digest) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// The digests of all versions that have an image record here.
    pub async fn pinned(&self) -> Result<HashSet<String>, Error> {
        let pinned = self.containerd.images_labelled(FOLDER_LABEL, self.folder.as_str()).await?;
        Ok(pinned.iter().map(|image| digest_in(&image.name).to_string()).collect())
    }

    /// Removes the image records, by their version's digest, that `keep` does not want.
    pub async fn sweep(&self, keep: impl Fn(&str) -> bool) -> Result<(), Error> {
        let pinned = self.containerd.images_labelled(FOLDER_LABEL, self.folder.as_str()).await?;
        for image in pinned.into_iter().filter(|image| !keep(digest_in(&image.name))) {
            if let Ok(digest) = digest_in(&image.name).parse() {
                self.forget(&digest);
            }
            self.containerd.unpin_image(&image.name).await?;
        }
        Ok(())
    }

    /// A name of this data folder alone: another server's record of the same image must not end with ours.
    fn name(&self, version: &NewVersion) -> String {
        format!("fnbuild-{}/{}@{}", self.folder, version.repository, version.digest)
    }

    /// An image that is whole in containerd needs no registry.
    async fn present(&self, version: &NewVersion) -> Result<Option<Unpacked>, Error> {
        let pinned = self.containerd.images_labelled(FOLDER_LABEL, self.folder.as_str()).await?;
        let name = self.name(version);
        let Some(image) = pinned.into_iter().find(|image| image.name == name) else { return Ok(None) };
        let Ok(manifest) = image.digest.parse() else { return Ok(None) };
        let Ok((_, config)) = self.containerd.read_image(&manifest).await else { return Ok(None) };
        let chain = chain_id(&config.rootfs.diff_ids);
        let there = match &chain {
            Some(chain) => self.containerd.has_snapshot(&chain.to_string()).await?,
            None => true,
        };
        if !there {
            return Ok(None);
        }
        let code = code(&self.containerd, chain.as_ref(), &config).await?;
        Ok(Some(Unpacked { name, chain, config, code }))
    }

    /// What is known of an image without asking anybody.
    pub fn known(&self, digest: &Digest) -> Option<Arc<Unpacked>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest)?.image.get().cloned()
    }

    async fn fetch(&self, version: &NewVersion) -> Result<Unpacked, Error> {
        let id = format!("fnbuild-{}-{:016x}", self.folder, getrandom::u64().unwrap_or_default());
        let labels = Labels::from([(FOLDER_LABEL.into(), self.folder.to_string())]);
        let lease = self.containerd.lease(id, labels.clone()).await?;
        let fetched = Fetch { containerd: lease.client(), source: &*self.source, version };
        let fetched = fetched.run(self.name(version), labels).await;
        let released = lease.release().await;
        let fetched = fetched?;
        released?;
        Ok(fetched)
    }
}

/// The version's digest, with which the name of an image record of ours ends.
fn digest_in(name: &str) -> &str {
    name.rsplit('@').next().unwrap_or_default()
}

/// One image on its way in. Everything it makes is held by the client's lease.
struct Fetch<'a> {
    containerd: &'a Containerd,
    source: &'a dyn ImageSource,
    version: &'a NewVersion,
}

impl Fetch<'_> {
    async fn run(&self, name: String, labels: Labels) -> Result<Unpacked, Error> {
        let (target, bytes, manifest) = self.manifest().await?;
        self.blob(&manifest.config).await?;
        let layers = manifest.layers.clone().into_iter();
        let mut copies = stream::iter(layers.map(|layer| async move { self.blob(&layer).await }))
            .buffer_unordered(PARALLEL_LAYERS);
        while let Some(copied) = copies.next().await {
            copied?;
        }
        drop(copies);
        let raw = self.containerd.read_blob(&manifest.config.digest).await?;
        let config: ImageConfig = serde_json::from_slice(&raw).map_err(|source| self.malformed(source))?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, diff_ids) = (manifest.layers.len(), diff_ids.len());
            let image = target.digest.clone();
            return Err(crate::containerd::Error::LayerCount { image, layers, diff_ids }.into());
        }
        if let Some(chain) = chain_id(diff_ids) {
            self.containerd.hold_snapshot(&chain.to_string()).await?;
        }
        let chain = self.containerd.unpack(&manifest.layers, diff_ids).await?;
        self.containerd.write_config(&manifest.config, raw, chain.as_ref()).await?;
        self.containerd.write_manifest(&target, bytes, &manifest).await?;
        self.containerd.pin_image(&name, &target, labels).await?;
        let code = code(self.containerd, chain.as_ref(), &config).await?;
        Ok(Unpacked { name, chain, config, code })
    }

    /// The manifest for this machine: the one named, or the one that the named index lists.
    async fn manifest(&self) -> Result<(Descriptor, Bytes, ImageManifest), Error> {
        let bytes = self.manifest_bytes(&self.version.digest).await?;
        let kind: Kind = serde_json::from_slice(&bytes).map_err(|source| self.malformed(source))?;
        if !kind.manifests {
            let manifest: ImageManifest =
                serde_json::from_slice(&bytes).map_err(|source| self.malformed(source))?;
            let size = bytes.len() as u64;
            let target = Descriptor::new(&manifest.media_type, self.version.digest.clone(), size);
            return Ok((target, bytes, manifest));
        }
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(|source| self.malformed(source))?;
        let architecture = Platform::host().architecture;
        let ours = index.manifests.into_iter().find(|entry| {
            entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture)
        });
        let Some(target) = ours else {
            let (repository, image) = (self.version.repository.clone(), self.version.digest.clone());
            return Err(Error::Platform { repository, image, architecture });
        };
        let bytes = self.manifest_bytes(&target.digest).await?;
        let manifest = serde_json::from_slice(&bytes).map_err(|source| self.malformed(source))?;
        Ok((target, bytes, manifest))
    }

    async fn manifest_bytes(&self, digest: &Digest) -> Result<Bytes, Error> {
        let bytes = self.source.manifest(&self.version.repository, digest).await;
        let bytes = bytes.map_err(|source| self.pull(source))?;
        if Digest::of(&bytes) != *digest && digest.algorithm() == crate::oci::Algorithm::Sha256 {
            return Err(self.pull(format!("the registry gave other bytes than those of {digest}").into()));
        }
        Ok(bytes)
    }

    /// Copies a blob that is not there yet. containerd compares size and digest as it commits.
    async fn blob(&self, blob: &Descriptor) -> Result<(), Error> {
        // Held before it is looked for, so that the collector cannot take it in between.
        self.containerd.hold_blob(&blob.digest).await?;
        if self.containerd.has_blob(&blob.digest).await? {
            return Ok(());
        }
        let bytes = self.source.blob(&self.version.repository, blob).await;
        let bytes = bytes.map_err(|source| self.pull(source))?;
        Ok(self.containerd.write_blob(blob, bytes, Labels::new()).await?)
    }

    fn pull(&self, source: PullError) -> Error {
        let (repository, image) = (self.version.repository.clone(), self.version.digest.clone());
        Error::Pull { repository, image, source }
    }

    fn malformed(&self, source: serde_json::Error) -> Error {
        let (repository, image) = (self.version.repository.clone(), self.version.digest.clone());
        Error::Manifest { repository, image, source }
    }
}

/// Divides an image with fnbuild's runtime into a base and a function's own layers: those on top that have nothing
/// outside of the function's folder. `None` where there is nothing to divide.
async fn code(
    containerd: &Containerd,
    chain: Option<&Digest>,
    config: &ImageConfig,
) -> Result<Option<Code>, Error> {
    let container = &config.config;
    let runs_here = container.working_dir.as_deref() == Some(CODE);
    let (Some(chain), true, true) = (chain, runs_here, container.labels.contains_key(RUNTIME_LABEL)) else {
        return Ok(None);
    };
    let layers = containerd.layer_folders(chain).await?;
    let own = layers.iter().take_while(|layer| has_only_code(layer)).count();
    let diff_ids = &config.rootfs.diff_ids;
    let below = diff_ids.get(..diff_ids.len().saturating_sub(own)).and_then(chain_id);
    let folders = layers.iter().map(|layer| layer.join(&CODE[1..])).filter(|folder| is_folder(folder));
    let folders: Vec<PathBuf> = folders.collect();
    // Merging takes two, and a base has the folder too: it is where its containers start.
    let divided = own > 0 && layers.len() == diff_ids.len() && folders.len() > own;
    let (Some(chain), true) = (below, divided) else { return Ok(None) };
    let mut generic = container.clone();
    generic.env.retain(|pair| !pair.starts_with(&format!("{ENTRY}=")));
    // They say what the function is; a container goes by nothing else in them.
    generic.labels.retain(|label, _| label == RUNTIME_LABEL);
    let key = Digest::of(serde_json::to_vec(&(&chain, &generic)).unwrap_or_default());
    Ok(Some(Code { base: Arc::new(Base { key, chain, config: generic }), folders }))
}

fn has_only_code(layer: &Path) -> bool {
    let names = std::fs::read_dir(layer).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.collect::<Vec<_>>() == [&CODE[1..]] && is_folder(&layer.join(&CODE[1..]))
}

fn is_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Whether there is a list of manifests: what tells an index from a manifest whatever the media type says.
struct Kind {
    manifests: bool,
}

impl<'de> serde::Deserialize<'de> for Kind {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = HashMap::<String, serde::de::IgnoredAny>::deserialize(deserializer)?;
        Ok(Self { manifests: fields.contains_key("manifests") })
    }
}
