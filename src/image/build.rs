//! A base and a source → an image: one layer, a config, a manifest.

use std::sync::Arc;

use super::pack::Pack;
use super::splice::Splice;
use super::{Base, CODE_FOLDER, ImageError, Layer};
use crate::oci::{Annotations, Descriptor, History, ImageConfig, ImageManifest, media_type};
use crate::source::{Form, Source};

/// What the user may put into an image beside the code.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// The function's name, for `org.opencontainers.image.title`.
    pub name: Option<String>,
    pub labels: Annotations,
    /// Of the manifest.
    pub annotations: Annotations,
    /// `KEY`, `VALUE`: set for every container of the image, over what the base sets.
    pub env: Vec<(String, String)>,
    /// Seconds since 1970, of the config and its last history entry: `SOURCE_DATE_EPOCH`. Without it 0, as the time of a
    /// build must not be part of a digest.
    pub epoch: Option<i64>,
}

/// An image: everything that a registry or a layout needs of it.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: ImageManifest,
    manifest_bytes: Vec<u8>,
    descriptor: Descriptor,
    config: ImageConfig,
    config_bytes: Vec<u8>,
    layers: Vec<Layer>,
}

impl Image {
    /// An image of these layers, lowest first. Fills in what they decide: `rootfs` of the config, and the manifest.
    pub fn new(
        mut config: ImageConfig,
        layers: Vec<Layer>,
        annotations: Annotations,
    ) -> Result<Self, ImageError> {
        config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect::<Result<_, _>>()?;
        let config_bytes = serialise("the image config", &config)?;
        let mut descriptors = layers.iter().map(Layer::descriptor).collect::<Result<Vec<_>, _>>()?;
        for descriptor in &mut descriptors {
            descriptor.annotations.clear();
            // An image keeps to one family of media types; over docker's only the name changes, not the bytes.
            if descriptor.media_type == media_type::DOCKER_LAYER {
                descriptor.media_type = media_type::LAYER_GZIP.into();
            }
        }
        let mut manifest = ImageManifest::new(Descriptor::of(media_type::CONFIG, &config_bytes), descriptors);
        manifest.annotations = annotations;
        let manifest_bytes = serialise("the manifest", &manifest)?;
        let descriptor = Descriptor::of(media_type::MANIFEST, &manifest_bytes);
        Ok(Self { manifest, manifest_bytes, descriptor, config, config_bytes, layers })
    }

    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// The very bytes that the digest is of.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// Of the manifest: its digest is the image's.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The very bytes that the manifest names as its config.
    pub fn config_bytes(&self) -> &[u8] {
        &self.config_bytes
    }

    /// Lowest first. For media types, take the manifest's descriptors.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// The layer that a source's code becomes. Nothing is read yet.
pub fn code_layer(source: &Arc<Source>) -> Layer {
    match source.form() {
        Form::Zip => Layer::new(Splice::new(source.clone())),
        Form::File | Form::Folder => Layer::new(Pack::new(source.clone())),
    }
}

/// Puts the code's layer on the base. Waits for the layer's digest and diff ID where they are not known yet.
///
/// The same base, source and options give the same image, wherever and whenever.
pub fn build(base: &Base, source: &Source, code: &Layer, options: &Options) -> Result<Image, ImageError> {
    let entry = source.entry_point().to_string();
    let created = timestamp(options.epoch.unwrap_or(0))?;
    let mut config = base.config.clone();
    config.created = Some(created.clone());
    config.author = None;

    let container = &mut config.config;
    for (key, value) in &options.env {
        set_env(&mut container.env, key, value);
    }
    set_env(&mut container.env, "FNBUILD_ENTRY", &entry);
    container.working_dir = Some(format!("/{CODE_FOLDER}"));
    let mut labels = Annotations::from([
        ("io.fnbuild.entry".to_string(), entry),
        ("io.fnbuild.source".into(), source.digest()?.to_string()),
        ("io.fnbuild.base".into(), base.descriptor.digest.to_string()),
        ("org.opencontainers.image.base.name".into(), base.name.clone()),
        ("org.opencontainers.image.base.digest".into(), base.descriptor.digest.to_string()),
        ("org.opencontainers.image.created".into(), created.clone()),
    ]);
    labels.extend(options.name.iter().map(|name| ("org.opencontainers.image.title".into(), name.clone())));
    container.labels.extend(labels);
    container.labels.extend(options.labels.clone());

    let layers: Vec<Layer> = base.layers.iter().chain([code]).cloned().collect();
    complete_history(&mut config.history, base.layers.len());
    config.history.push(History {
        created: Some(created),
        created_by: Some("fnbuild build".into()),
        comment: Some(format!("the function's code in /{CODE_FOLDER}")),
        empty_layer: false,
    });
    Image::new(config, layers, options.annotations.clone())
}

/// Some bases have no history, or too little: there must be one entry for each layer, or none at all.
fn complete_history(history: &mut Vec<History>, layers: usize) {
    let told = history.iter().filter(|entry| !entry.empty_layer).count();
    if told > layers {
        history.clear();
    }
    let told = told.min(history.len());
    history.extend((told..layers).map(|_| History { comment: Some("base".into()), ..History::default() }));
}

fn set_env(env: &mut Vec<String>, key: &str, value: &str) {
    let line = format!("{key}={value}");
    match env.iter_mut().find(|old| old.split('=').next() == Some(key)) {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

fn timestamp(epoch: i64) -> Result<String, ImageError> {
    jiff::Timestamp::from_second(epoch).map(|t| t.to_string()).map_err(|_| ImageError::Epoch(epoch))
}

fn serialise(what: &'static str, value: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|source| ImageError::Serialise { what, source })
}
