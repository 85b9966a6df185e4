//! The registry as a mirror: of docker-registry, and of one that is slow and one that lies.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fnbuild::oci::Digest;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::registry_kit::{Registry, random, start};
use crate::support::{Server, wait_until};

/// docker-registry as the registry that is mirrored.
fn upstream(folder: &Path) -> (Server, String) {
    let port = crate::support::free_port();
    let config = folder.join("upstream.yml");
    let storage = folder.join("upstream");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        storage.display()
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(Command::new("docker-registry").arg("serve").arg(&config));
    let address = format!("127.0.0.1:{port}");
    wait_until("docker-registry's port", Duration::from_secs(20), || {
        std::net::TcpStream::connect(&address).is_ok()
    });
    (server, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_fetches_verifies_keeps_and_serves_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, address) = upstream(folder.path());
    let behind = Registry::at(format!("http://{address}"));
    let (old, new) = (random(50_000), random(2_000_000));
    let first = behind.push_image("team/app", "latest", &old).await;
    let mirror = crate::registry_kit::start(|config| config.mirror = Some(format!("http://{address}"))).await;
    let digest_of =
        |response: reqwest::Response| crate::registry_kit::header(&response, "docker-content-digest");
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), first.to_string());
    let blob = mirror.get(&format!("/v2/team/app/blobs/{}", Digest::of(&old))).await;
    assert_eq!(blob.bytes().await.unwrap(), old);
    // A tag that moved is noticed.
    let second = behind.push_image("team/app", "latest", &new).await;
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), second.to_string());
    // Many at once, one transfer, and not a wrong byte.
    let path = format!("/v2/team/app/blobs/{}", Digest::of(&new));
    let pulls = futures_util::future::join_all((0..8).map(|_| mirror.get(&path))).await;
    for pull in pulls {
        assert_eq!(pull.bytes().await.unwrap(), new);
    }
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{}", Digest::of("nowhere"))).await.status(), 404);
    // A damaged blob upstream is not taken.
    let bad = behind.push_blob("team/app", &random(40_000)).await;
    let stored = folder.path().join("upstream/docker/registry/v2/blobs/sha256");
    std::fs::write(stored.join(&bad.hex()[..2]).join(bad.hex()).join("data"), random(40_000)).unwrap();
    assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{bad}")).await.status(), 502);
    source.kill();
    assert_eq!(digest_of(mirror.get("/v2/team/app/manifests/latest").await), second.to_string());
    assert_eq!(mirror.get(&format!("/v2/team/app/manifests/{first}")).await.status(), 200);
    assert_eq!(mirror.get(&path).await.bytes().await.unwrap(), new);
    assert_eq!(mirror.get("/v2/team/app/manifests/unknown").await.status(), 502);
}

/// Answers one request: the first half of `body` at once, the rest when told to go on.
async fn halting(length: usize, body: Vec<u8>) -> (String, oneshot::Sender<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (go_on, told) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (first, second) = body.split_at(body.len() / 2);
        stream.write_all(first).await.unwrap();
        told.await.unwrap();
        stream.write_all(second).await.unwrap();
    });
    (address, go_on)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_a_blob_while_it_arrives() {
    let bytes = random(4 << 20);
    let path = format!("/v2/team/app/blobs/{}", Digest::of(&bytes));
    let (source, go_on) = halting(bytes.len(), bytes.clone()).await;
    let mirror = start(|config| config.mirror = Some(source)).await;
    let mut first = mirror.get(&path).await;
    assert_eq!((first.status(), first.content_length()), (StatusCode::OK, Some(4 << 20)));
    let mut got = Vec::new();
    while got.len() < 1 << 20 {
        got.extend(first.chunk().await.unwrap().unwrap());
    }
    // The second joins; there is one transfer only, as the source answers once.
    let second = mirror.get(&path).await;
    let known = mirror.head(&path).await;
    assert_eq!(crate::registry_kit::header(&known, "content-length"), (4 << 20).to_string());
    go_on.send(()).unwrap();
    while let Some(chunk) = first.chunk().await.unwrap() {
        got.extend(chunk);
    }
    assert!(got == bytes && second.bytes().await.unwrap() == bytes);
    // Kept: the source is gone.
    assert_eq!(mirror.get(&path).await.bytes().await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_all_of_a_wrong_blob() {
    let (wanted, wrong) = (random(1 << 20), random(1 << 20));
    let path = format!("/v2/team/app/blobs/{}", Digest::of(&wanted));
    let (source, go_on) = halting(wrong.len(), wrong).await;
    let mirror = start(|config| config.mirror = Some(source)).await;
    let response = mirror.get(&path).await;
    assert_eq!(response.status(), StatusCode::OK);
    go_on.send(()).unwrap();
    assert!(response.bytes().await.is_err(), "the connection ends before the last byte");
    // Nor is it kept, and the source does not answer a second time.
    assert_eq!(mirror.get(&path).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(std::fs::read_dir(mirror.root.join("uploads")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_breaks_off_leaves_nothing() {
    let bytes = random(1 << 20);
    let path = format!("/v2/team/app/blobs/{}", Digest::of(&bytes));
    let (source, go_on) = halting(bytes.len(), bytes[..600_000].to_vec()).await;
    let mirror = start(|config| config.mirror = Some(source)).await;
    let response = mirror.get(&path).await;
    go_on.send(()).unwrap();
    assert!(response.bytes().await.is_err());
    assert_eq!(mirror.get(&path).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(std::fs::read_dir(mirror.root.join("uploads")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tools_read_the_folder_as_an_image_layout() {
    let registry = start(|_| ()).await;
    let digest = registry.push_image("team/app", "one", &random(1000)).await;
    registry.push_image("team/app", "two", &random(1000)).await;
    let root = registry.root.clone();
    let kept = tempfile::tempdir().unwrap();
    // Its folder goes with the registry, so a copy of what lies there is looked at.
    fnbuild::registry_server::collect(&root, Default::default()).await.unwrap();
    for name in ["index.json", "oci-layout", "blobs"] {
        let mut copy = Command::new("cp");
        crate::support::run(copy.arg("-a").arg(root.join(name)).arg(kept.path()));
    }
    let index: Value =
        serde_json::from_slice(&std::fs::read(kept.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let mut skopeo = Command::new("skopeo");
    let layout = format!("oci:{}:team/app:one", kept.path().display());
    skopeo.args(["inspect", "--raw", &layout]);
    assert_eq!(Digest::of(skopeo.output().unwrap().stdout), digest);
}
