//! What the registry's tests share: a registry in this process or as a program, and requests to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fnbuild::oci::{Algorithm, Digest, Hasher};
use fnbuild::registry_server::{self, Config, Policy};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Server, fnbuild, free_port, wait_until};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that ends with the test, and a client for it.
pub struct Registry {
    pub base: String,
    pub client: Client,
    pub root: PathBuf,
    shutdown: CancellationToken,
    serving: Option<tokio::task::JoinHandle<()>>,
    /// Held for its removal.
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Serves in this process.
pub async fn start(change: impl FnOnce(&mut Config)) -> Registry {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let mut registry = start_in(&root, change).await;
    registry._folder = Some(folder);
    registry
}

pub async fn start_in(root: &Path, change: impl FnOnce(&mut Config)) -> Registry {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let mut config = Config { root: root.into(), policy: Policy::default(), ..Config::default() };
    change(&mut config);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let serving = tokio::spawn(async move {
        let opened = registry_server::Opened::open(config).await.unwrap();
        opened.serve(vec![listener], stop).await.unwrap();
    });
    let serving = Some(serving);
    let registry = Registry { base, client: client(), root: root.into(), shutdown, serving, _folder: None };
    let health = format!("{}/healthz", registry.base);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    // The listener takes connections before the folder is open; the first answer says that it is.
    while registry.client.get(&health).send().await.is_err() {
        assert!(std::time::Instant::now() < until, "the registry does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    registry
}

pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

/// The program, on a port of its own. Returns the server and its `HOST:PORT`.
pub fn program(data: &Path, more: &[&str]) -> (Server, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = fnbuild();
    command.args(["registry", "serve", "--quiet", "--listen", &address, "--data-dir"]).arg(data).args(more);
    let server = Server::start(&mut command);
    wait_until("the registry's port", Duration::from_secs(30), || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    (server, address)
}

pub fn sha512(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

/// Bytes that nobody else pushes.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_string()).unwrap_or_default()
}

/// The code of the answer's first error.
pub async fn code(response: Response) -> String {
    let value: Value = response.json().await.unwrap();
    value["errors"][0]["code"].as_str().unwrap_or_default().to_string()
}

/// An image manifest of these blobs.
pub fn manifest_of(config: &[u8], layers: &[&[u8]]) -> Value {
    let part = |kind: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": Digest::of(bytes), "size": bytes.len()});
    let layers: Vec<Value> = layers.iter().map(|layer| part("layer.v1.tar", layer)).collect();
    json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": part("config.v1+json", config), "layers": layers})
}

impl Registry {
    pub fn at(base: String) -> Self {
        let shutdown = CancellationToken::new();
        Self { base, client: client(), root: PathBuf::new(), shutdown, serving: None, _folder: None }
    }

    /// Ends it and waits until its folder is free.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap();
        }
    }

    pub fn url(&self, path: &str) -> String {
        if path.starts_with("http") { path.into() } else { format!("{}{path}", self.base) }
    }

    pub async fn send(&self, method: Method, path: &str) -> Response {
        self.client.request(method, self.url(path)).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path).await
    }

    pub async fn head(&self, path: &str) -> Response {
        self.send(Method::HEAD, path).await
    }

    pub async fn delete(&self, path: &str) -> Response {
        self.send(Method::DELETE, path).await
    }

    /// A new upload's location.
    pub async fn begin(&self, name: &str) -> String {
        let response = self.send(Method::POST, &format!("/v2/{name}/blobs/uploads/")).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        header(&response, "location")
    }

    /// One chunk; `first` is where it says it begins.
    pub async fn patch(&self, location: &str, first: Option<usize>, bytes: &[u8]) -> Response {
        let mut request = self.client.patch(self.url(location)).body(bytes.to_vec());
        if let Some(first) = first {
            request = request.header("content-range", format!("{first}-{}", first + bytes.len() - 1));
        }
        request.send().await.unwrap()
    }

    pub async fn finish(&self, location: &str, digest: &Digest, bytes: &[u8]) -> Response {
        let sign = if location.contains('?') { '&' } else { '?' };
        let url = self.url(&format!("{location}{sign}digest={digest}"));
        self.client.put(url).body(bytes.to_vec()).send().await.unwrap()
    }

    pub async fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let (location, digest) = (self.begin(name).await, Digest::of(bytes));
        let response = self.finish(&location, &digest, bytes).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        digest
    }

    pub async fn put_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Response {
        let url = self.url(&format!("/v2/{name}/manifests/{reference}"));
        let kind = manifest["mediaType"].as_str().unwrap_or(MANIFEST).to_string();
        let request = self.client.put(url).header("content-type", kind);
        request.body(manifest.to_string()).send().await.unwrap()
    }

    /// A whole image of one layer; its manifest's digest.
    pub async fn push_image(&self, name: &str, tag: &str, layer: &[u8]) -> Digest {
        self.push_blob(name, b"{}").await;
        self.push_blob(name, layer).await;
        let manifest = manifest_of(b"{}", &[layer]);
        let response = self.put_manifest(name, tag, &manifest).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        Digest::of(manifest.to_string())
    }
}
