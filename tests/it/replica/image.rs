//! A tiny image with a server in it: busybox's httpd, whose one program runs the script that it is sent.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fnbuild::function::{NewVersion, Settings};
use fnbuild::image::{Base, Layout, build, code_layer};
use fnbuild::oci::{Descriptor, Digest, ImageConfig, ImageManifest, Repository, media_type};
use fnbuild::replica::{ImageSource, PullError};
use fnbuild::source::Source;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::support::base;

/// Runs the request's body as a shell script, its output being the answer.
const SCRIPT: &str = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\n. /dev/stdin 2>&1\n";

/// A registry in memory.
#[derive(Default)]
pub struct Images(Mutex<HashMap<Digest, Bytes>>);

impl Images {
    /// An image that runs `script` with busybox's shell; `httpd` serves on 8081.
    pub fn add(&self, name: &str, script: &str, settings: Settings) -> NewVersion {
        let tar = layer();
        let diff_id = Digest::of(&tar);
        let gz = {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut gz, &tar).unwrap();
            gz.finish().unwrap()
        };
        let layer = self.keep(media_type::LAYER_GZIP, gz);
        let mut config = ImageConfig::default();
        config.platform.architecture = "amd64".into();
        config.platform.os = "linux".into();
        config.config.env = vec!["PATH=/bin".into()];
        config.config.cmd = Some(["sh", "-c", script].map(String::from).to_vec());
        config.config.exposed_ports.insert("8081/tcp".into(), Default::default());
        config.rootfs.diff_ids = vec![diff_id];
        let config = self.keep(media_type::CONFIG, serde_json::to_vec(&config).unwrap());
        let manifest = ImageManifest::new(config, vec![layer]);
        let manifest = self.keep(media_type::MANIFEST, serde_json::to_vec(&manifest).unwrap());
        NewVersion {
            repository: format!("fn/{name}").parse().unwrap(),
            digest: manifest.digest,
            source: None,
            base: None,
            entry: None,
            parameters: None,
            packages: Vec::new(),
            settings,
            author: None,
            deployment: None,
        }
    }

    /// The default base with this `func.py` on it, as `fnbuild build` makes it.
    pub fn python(&self, name: &str, code: &str, settings: Settings) -> NewVersion {
        let layout = Layout::open(base::base().join("bases")).unwrap();
        let base = Base::open(&layout, "python3.11-flask2.3").unwrap();
        let bytes = code.as_bytes().to_vec().into();
        let source = Arc::new(Source::from_module("func", bytes, &Default::default()).unwrap());
        let code = code_layer(&source);
        let image = build(&base, &source, &code, &Default::default()).unwrap();
        for layer in image.layers() {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut layer.open().unwrap(), &mut bytes).unwrap();
            self.keep(layer.media_type(), bytes);
        }
        self.keep(media_type::CONFIG, image.config_bytes().to_vec());
        let manifest = self.keep(media_type::MANIFEST, image.manifest_bytes().to_vec());
        NewVersion {
            repository: format!("fn/{name}").parse().unwrap(),
            digest: manifest.digest,
            source: None,
            base: Some(base.descriptor.digest),
            entry: None,
            parameters: None,
            packages: Vec::new(),
            settings,
            author: None,
            deployment: None,
        }
    }

    fn keep(&self, kind: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(kind, &bytes);
        self.0.lock().unwrap().insert(descriptor.digest.clone(), bytes.into());
        descriptor
    }

    fn get(&self, digest: &Digest) -> Result<Bytes, PullError> {
        self.0.lock().unwrap().get(digest).cloned().ok_or_else(|| format!("no {digest} here").into())
    }
}

#[async_trait::async_trait]
impl ImageSource for Images {
    async fn manifest(&self, _: &Repository, digest: &Digest) -> Result<Bytes, PullError> {
        self.get(digest)
    }

    async fn blob(
        &self,
        _: &Repository,
        blob: &Descriptor,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, PullError> {
        let bytes = self.get(&blob.digest)?;
        Ok(stream::once(async { Ok(bytes) }).boxed())
    }
}

pub fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut entry = |path: &str, kind, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    };
    for folder in ["bin", "etc", "www", "www/cgi-bin"] {
        entry(folder, tar::EntryType::Directory, 0o755, b"");
    }
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    entry("bin/busybox", tar::EntryType::Regular, 0o755, &busybox);
    entry("www/cgi-bin/run", tar::EntryType::Regular, 0o755, SCRIPT.as_bytes());
    entry("www/index.html", tar::EntryType::Regular, 0o644, b"hello");
    for applet in
        ["sh", "httpd", "cat", "id", "sleep", "wget", "nc", "grep", "hostname", "dd", "echo", "kill"]
    {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    tar.into_inner().unwrap()
}
