//! An OCI image layout: image-spec, "OCI Image Layout". A folder of blobs and an index that names some of them.
//!
//! Blobs get their name only when they are complete; the index is replaced as a whole, under a lock on the folder, so
//! that any number of processes may write to one layout.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::blob::{self, Blob, BlobWriter, CheckedFile};
use super::{Image, ImageError, Layer};
use crate::oci::{Descriptor, Digest, ImageIndex};

/// The annotation by which an index names what it lists.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const VERSION_FILE: &str = "oci-layout";
pub(super) const VERSION: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Manifests, configs and indexes are read whole; registries cap them at 4 MiB.
const MAX_DOCUMENT: u64 = 4 << 20;

/// A layout on disk. Holds no state but the path.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A layout that is there.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let root = root.into();
        let no_layout = |reason| ImageError::NoLayout { path: root.clone(), reason };
        match std::fs::read(root.join(VERSION_FILE)) {
            Ok(text) => {
                let version: serde_json::Value =
                    serde_json::from_slice(&text).map_err(|_| no_layout("its file oci-layout is no JSON"))?;
                match version.get("imageLayoutVersion").and_then(|v| v.as_str()) {
                    Some(version) if version.starts_with("1.") => Ok(Self { root }),
                    _ => Err(no_layout("its version is not 1")),
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !root.exists() => {
                Err(ImageError::NoBases { path: root })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(no_layout("it has no file oci-layout")),
            Err(e) => Err(ImageError::io("open", root.join(VERSION_FILE))(e)),
        }
    }

    /// A layout that is there, or a new, empty one. A folder with other things in it is refused.
    pub fn create(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let root = root.into();
        if root.join(VERSION_FILE).exists() {
            return Self::open(root);
        }
        let blobs = root.join("blobs").join("sha256");
        match std::fs::read_dir(&root) {
            // Another process may be making this very layout.
            Ok(mut entries) => {
                let foreign = |name: &std::ffi::OsStr| {
                    name != "blobs" && name != VERSION_FILE && name != "index.json" && !is_incoming(name)
                };
                if entries.any(|entry| entry.is_ok_and(|entry| foreign(&entry.file_name()))) {
                    let reason = "it is a folder with other things in it";
                    return Err(ImageError::NoLayout { path: root, reason });
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(ImageError::io("read", &root)(e)),
        }
        std::fs::create_dir_all(&blobs).map_err(ImageError::io("create", &blobs))?;
        let layout = Self { root };
        let _lock = layout.lock()?;
        if !layout.index_path().exists() {
            layout.write_index(&ImageIndex::new(Vec::new()))?;
        }
        layout.replace(VERSION_FILE, VERSION.as_bytes())?;
        drop(_lock);
        Ok(layout)
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What the layout lists.
    pub fn index(&self) -> Result<ImageIndex, ImageError> {
        let path = self.index_path();
        let mut text = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_DOCUMENT).read_to_end(&mut text))
            .map_err(ImageError::io("read", &path))?;
        let json = |source| ImageError::Json { what: "the index", path: self.root.clone(), source };
        serde_json::from_slice(&text).map_err(json)
    }

    /// Every tag with what it stands for, in the index's order.
    pub fn tags(&self) -> Result<Vec<(String, Descriptor)>, ImageError> {
        let named =
            |descriptor: Descriptor| Some((descriptor.annotations.get(REF_NAME)?.clone(), descriptor));
        Ok(self.index()?.manifests.into_iter().filter_map(named).collect())
    }

    /// What a tag stands for; [`ImageError::NoTag`] if it is none.
    pub fn resolve(&self, tag: &str) -> Result<Descriptor, ImageError> {
        let found = self.tags()?.into_iter().find(|(name, _)| name == tag);
        found
            .map(|(_, descriptor)| descriptor)
            .ok_or_else(|| ImageError::NoTag { tag: tag.into(), path: self.root.clone() })
    }

    /// Makes `tag` stand for a manifest (or index) whose blobs are all there.
    pub fn tag(&self, tag: &str, mut descriptor: Descriptor) -> Result<(), ImageError> {
        descriptor.annotations.insert(REF_NAME.into(), tag.into());
        self.change_index(|manifests| {
            manifests.retain(|m| m.annotations.get(REF_NAME).is_none_or(|name| name != tag));
            manifests.push(descriptor);
        })
    }

    /// Forgets a tag. Blobs stay: something else may refer to them.
    pub fn untag(&self, tag: &str) -> Result<(), ImageError> {
        self.change_index(|manifests| {
            manifests.retain(|m| m.annotations.get(REF_NAME).is_none_or(|name| name != tag));
        })
    }

    /// Whether a blob is there, in full. Its bytes are looked at when it is read.
    pub fn contains(&self, descriptor: &Descriptor) -> bool {
        let place = self.blob_path(&descriptor.digest);
        std::fs::metadata(place).is_ok_and(|meta| meta.is_file() && meta.len() == descriptor.size)
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob::place(&self.root.join("blobs"), digest)
    }

    /// A blob's bytes. The last read fails if they are not those that the descriptor names.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        Ok(Box::new(CheckedFile::new(file, descriptor.clone())))
    }

    /// A blob that is a document (manifest, config, index: at most 4 MiB), whole and checked.
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(self.damaged(&descriptor.digest, "it is too large for a document"));
        }
        // One byte more than is there lets the end be seen without growing.
        let mut bytes = Vec::with_capacity(usize::try_from(descriptor.size).unwrap_or(0) + 1);
        self.open_blob(descriptor)?
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("read", self.blob_path(&descriptor.digest)))?;
        Ok(bytes)
    }

    /// As [`read_blob`](Self::read_blob), parsed.
    pub fn read_json<T: DeserializeOwned>(
        &self,
        what: &'static str,
        descriptor: &Descriptor,
    ) -> Result<T, ImageError> {
        let json = |source| ImageError::Json { what, path: self.blob_path(&descriptor.digest), source };
        serde_json::from_slice(&self.read_blob(descriptor)?).map_err(json)
    }

    /// A layer whose blob is in this layout. The descriptor is that of the manifest.
    pub fn layer(&self, descriptor: Descriptor, diff_id: Digest) -> Layer {
        Layer::new(Blob { path: self.blob_path(&descriptor.digest), descriptor, diff_id, _held: None })
    }

    /// The same, kept from [`discard`](Self::discard) for as long as the layer lives, in any process. `None` where the blob
    /// is not there, or just being discarded.
    pub fn hold(&self, descriptor: Descriptor, diff_id: Digest) -> Option<Layer> {
        let path = self.blob_path(&descriptor.digest);
        let file = File::open(&path).ok()?;
        file.try_lock_shared().ok()?;
        // Whoever discarded it may have been done between the two.
        let is_there = self.contains(&descriptor);
        is_there.then(|| Layer::new(Blob { path, descriptor, diff_id, _held: Some(file) }))
    }

    /// Removes a blob; `false` if somebody holds it. One that is gone is success.
    pub fn discard(&self, digest: &Digest) -> std::io::Result<bool> {
        let path = self.blob_path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            opened => opened?,
        };
        match file.try_lock() {
            Ok(()) => std::fs::remove_file(&path).map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// For a blob whose digest is not known before its last byte.
    pub fn blob_writer(&self) -> Result<BlobWriter, ImageError> {
        BlobWriter::new(self.root.join("blobs"))
    }

    /// Keeps a blob that is in memory.
    pub fn write_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ImageError> {
        let descriptor = Descriptor::of(media_type, bytes);
        if !self.contains(&descriptor) {
            self.write_from(&descriptor, bytes)?;
        }
        Ok(descriptor)
    }

    /// Keeps a blob that is known by its descriptor. Other bytes than those are an error and leave nothing.
    pub fn write_from(&self, descriptor: &Descriptor, mut from: impl Read) -> Result<(), ImageError> {
        let mut writer = self.blob_writer()?;
        std::io::copy(&mut from.by_ref().take(descriptor.size + 1), &mut writer)
            .map_err(ImageError::io("write", self.blob_path(&descriptor.digest)))?;
        writer.commit_as(descriptor)
    }

    /// Keeps a whole image, blobs first, then its tags. Says of each layer whether it was new here.
    pub fn write_image(&self, image: &Image, tags: &[&str]) -> Result<Vec<bool>, ImageError> {
        let mut new = Vec::new();
        for layer in image.layers() {
            let descriptor = layer.descriptor()?;
            new.push(!self.contains(&descriptor));
            if !self.contains(&descriptor) {
                self.write_from(&descriptor, layer.open()?)?;
            }
        }
        self.write_blob(&image.manifest().config.media_type, image.config_bytes())?;
        self.write_blob(&image.descriptor().media_type, image.manifest_bytes())?;
        tags.iter().try_for_each(|tag| self.tag(tag, image.descriptor().clone()))?;
        Ok(new)
    }

    fn damaged(&self, digest: &Digest, reason: &'static str) -> ImageError {
        ImageError::Damaged { digest: digest.clone(), path: self.root.clone(), reason }
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        change(&mut index.manifests);
        self.write_index(&index)
    }

    fn write_index(&self, index: &ImageIndex) -> Result<(), ImageError> {
        let serialise = |source| ImageError::Serialise { what: "the index", source };
        self.replace("index.json", &serde_json::to_vec(index).map_err(serialise)?)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let place = self.root.join(name);
        let mut file = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempfile_in(&self.root)
            .map_err(ImageError::io("create a file in", &self.root))?;
        file.write_all(bytes).map_err(ImageError::io("write", &place))?;
        blob::persist(file, &place)
    }

    /// Held while the returned file is open. The folder itself is locked: a layout has no place for a lock file.
    fn lock(&self) -> Result<File, ImageError> {
        let folder = File::open(&self.root).map_err(ImageError::io("open", &self.root))?;
        folder.lock().map_err(ImageError::io("lock", &self.root))?;
        Ok(folder)
    }
}

fn is_incoming(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".incoming-")
}
