//! An image as one tar that both families of tools load: an OCI layout with docker's `manifest.json` beside it.
//!
//! `docker load` reads `manifest.json`; `ctr images import` and skopeo read either. Each blob is in it once.

use std::io::{Read, Write};

use serde::Serialize;

use super::tar::{self, Header, Kind};
use super::{Image, ImageError};
use crate::oci::{Descriptor, Digest, ImageIndex};

/// Docker's own description of an image in a tar.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes the image under these names (`fn/add:latest`), which are what docker will call it. The same image and names
/// give the same bytes.
pub fn write_docker_archive(image: &Image, names: &[String], mut out: impl Write) -> Result<(), ImageError> {
    let place = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
    let layers = &image.manifest().layers;
    let docker = [DockerImage {
        config: place(&image.manifest().config.digest),
        repo_tags: names.to_vec(),
        layers: layers.iter().map(|layer| place(&layer.digest)).collect(),
    }];
    let serialise = |source| ImageError::Serialise { what: "the archive's index", source };
    let mut archive = Archive { out: &mut out };
    archive.bytes("oci-layout", super::layout::VERSION.as_bytes())?;
    archive.bytes("index.json", &serde_json::to_vec(&index(image, names)).map_err(serialise)?)?;
    archive.bytes("manifest.json", &serde_json::to_vec(&docker).map_err(serialise)?)?;
    archive.folder("blobs")?;
    archive.folder("blobs/sha256")?;
    archive.bytes(&place(&image.descriptor().digest), image.manifest_bytes())?;
    archive.bytes(&place(&image.manifest().config.digest), image.config_bytes())?;
    let mut written: Vec<&Digest> = Vec::new();
    for (layer, descriptor) in image.layers().iter().zip(layers) {
        if !written.contains(&&descriptor.digest) {
            archive.file(&place(&descriptor.digest), descriptor.size, layer.open()?)?;
            written.push(&descriptor.digest);
        }
    }
    out.write_all(&tar::END).and_then(|()| out.flush()).map_err(ImageError::write("the archive"))
}

/// Lists the image once for each name, by the annotations that containerd and the image-spec have for names.
fn index(image: &Image, names: &[String]) -> ImageIndex {
    let named = |name: &String| {
        let mut descriptor: Descriptor = image.descriptor().clone();
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        descriptor.annotations.insert("org.opencontainers.image.ref.name".into(), tag.into());
        descriptor.annotations.insert("io.containerd.image.name".into(), format!("docker.io/{name}"));
        descriptor
    };
    ImageIndex::new(names.iter().map(named).collect())
}

struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    fn header(&mut self, path: &str, kind: Kind<'_>, mode: u32) -> Result<(), ImageError> {
        let mut header = Vec::new();
        Header { path, kind, mode, mtime: 0 }.write(&mut header);
        self.out.write_all(&header).map_err(ImageError::write("the archive"))
    }

    fn folder(&mut self, path: &str) -> Result<(), ImageError> {
        self.header(path, Kind::Folder, 0o755)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.file(path, bytes.len() as u64, bytes)
    }

    fn file(&mut self, path: &str, size: u64, content: impl Read) -> Result<(), ImageError> {
        self.header(path, Kind::File { size }, 0o644)?;
        let mut content = content.take(size);
        let padding = [0; 512];
        let mut copy = || {
            if std::io::copy(&mut content, &mut self.out)? != size {
                return Err(std::io::Error::other("a blob is shorter than its size"));
            }
            self.out.write_all(padding.get(..tar::padding(size)).unwrap_or_default())
        };
        copy().map_err(ImageError::write("the archive"))
    }
}
