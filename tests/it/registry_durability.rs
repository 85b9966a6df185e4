//! `kill -9`, restarts and full disks: what was answered stays, and nothing wrong becomes visible.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fnbuild::oci::Digest;
use reqwest::StatusCode;

use crate::registry_kit::{Registry, code, header, manifest_of, program, random, start, start_in};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_under_load() {
    let data = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(String, Digest, Vec<u8>)> = Vec::new();
    for round in 0..4 {
        let (mut server, address) = program(data.path(), &[]);
        let base = format!("http://{address}");
        // Everything that earlier rounds were told is there.
        let registry = Registry::at(base.clone());
        for (name, manifest, layer) in &acknowledged {
            let got = registry.get(&format!("/v2/{name}/manifests/latest")).await;
            assert_eq!(header(&got, "docker-content-digest"), manifest.to_string());
            assert_eq!(Digest::of(got.bytes().await.unwrap()), *manifest);
            let blob = registry.get(&format!("/v2/{name}/blobs/{}", Digest::of(layer))).await;
            assert_eq!(blob.bytes().await.unwrap(), *layer);
        }
        let done = Arc::new(AtomicBool::new(false));
        let mut pushing = Vec::new();
        for client in 0..4 {
            let (registry, done) = (Registry::at(base.clone()), done.clone());
            pushing.push(tokio::spawn(async move {
                let mut pushed = Vec::new();
                for image in 0.. {
                    // Small ones live in the journal, large ones in their own file.
                    let layer = random(if image % 3 == 0 { 400_000 } else { 2000 });
                    let name = format!("kill/{round}-{client}-{image}");
                    let Some(manifest) = try_push(&registry, &name, &layer).await else { break };
                    pushed.push((name, manifest, layer));
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    if pushed.len() == 8 {
                        done.store(true, Ordering::Relaxed);
                    }
                }
                pushed
            }));
        }
        while !done.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        server.kill();
        for pushed in pushing {
            acknowledged.extend(pushed.await.unwrap());
        }
    }
    assert!(acknowledged.len() >= 32);
}

/// Pushes an image; `None` when the server is gone.
async fn try_push(registry: &Registry, name: &str, layer: &[u8]) -> Option<Digest> {
    for blob in [b"{}".as_slice(), layer] {
        let url = registry.url(&format!("/v2/{name}/blobs/uploads/?digest={}", Digest::of(blob)));
        let answer = registry.client.post(url).body(blob.to_vec()).send().await.ok()?;
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    let manifest = manifest_of(b"{}", &[layer]).to_string();
    let url = registry.url(&format!("/v2/{name}/manifests/latest"));
    let put = registry.client.put(url).header("content-type", crate::registry_kit::MANIFEST);
    let answer = put.body(manifest.clone()).send().await.ok()?;
    assert_eq!(answer.status(), StatusCode::CREATED);
    Some(Digest::of(manifest))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_kill_9() {
    let data = tempfile::tempdir().unwrap();
    let bytes = random(700_000);
    let (mut server, address) = program(data.path(), &[]);
    let registry = Registry::at(format!("http://{address}"));
    let (begun, empty) = (registry.begin("resume/it").await, registry.begin("resume/it").await);
    assert_eq!(registry.patch(&begun, Some(0), &bytes[..400_000]).await.status(), StatusCode::ACCEPTED);
    server.kill();
    let (_server, address) = program(data.path(), &[]);
    let registry = Registry::at(format!("http://{address}"));
    let status = registry.get(&begun).await;
    assert_eq!((status.status(), header(&status, "range")), (StatusCode::NO_CONTENT, "0-399999".into()));
    assert_eq!(registry.patch(&begun, Some(400_000), &bytes[400_000..]).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.finish(&begun, &Digest::of(&bytes), b"").await.status(), StatusCode::CREATED);
    assert_eq!(registry.finish(&empty, &Digest::of(b"x"), b"x").await.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn small_blobs_that_a_power_cut_took_come_back_from_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let layer = random(3000);
    let (digest, blob) = {
        let registry = start_in(folder.path(), |_| ()).await;
        let digest = registry.push_image("power/cut", "t", &layer).await;
        // As unsynced files are after a power cut: there, and empty.
        let blobs = folder.path().join("blobs/sha256");
        let blob = blobs.join(Digest::of(&layer).hex());
        std::fs::write(&blob, b"").unwrap();
        std::fs::remove_file(blobs.join(digest.hex())).unwrap();
        (digest, blob)
    };
    let copy = tempfile::tempdir().unwrap();
    // A copy stands for the disk at that moment: the process above still holds the lock on its own.
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(folder.path().join("."))
            .arg(copy.path())
            .status()
            .unwrap()
            .success()
    );
    let registry = start_in(copy.path(), |_| ()).await;
    let got = registry.get("/v2/power/cut/manifests/t").await;
    assert_eq!(Digest::of(got.bytes().await.unwrap()), digest);
    let back = registry
        .get(&format!("/v2/power/cut/blobs/sha256:{}", blob.file_name().unwrap().to_str().unwrap()))
        .await;
    assert_eq!(back.bytes().await.unwrap(), layer);
}

#[tokio::test]
async fn a_torn_journal_loses_only_what_was_never_answered() {
    let folder = tempfile::tempdir().unwrap();
    let registry = start_in(folder.path(), |_| ()).await;
    let digest = registry.push_image("torn/journal", "t", b"layer").await;
    let copy = tempfile::tempdir().unwrap();
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(folder.path().join("."))
            .arg(copy.path())
            .status()
            .unwrap()
            .success()
    );
    let log = copy.path().join("journal/00000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let half = bytes[..bytes.len() / 3].to_vec();
    bytes.extend(half);
    std::fs::write(&log, &bytes).unwrap();
    for _ in 0..2 {
        let again = start_in(copy.path(), |_| ()).await;
        assert_eq!(again.get(&format!("/v2/torn/journal/manifests/{digest}")).await.status(), StatusCode::OK);
        again.push_image("torn/journal", "more", &random(10)).await;
        again.stop().await;
    }
}

#[tokio::test]
async fn a_second_registry_on_the_same_folder_is_refused() {
    let registry = start(|_| ()).await;
    let data = registry.root.parent().unwrap();
    let mut command = crate::support::fnbuild();
    command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
    let error = crate::support::run_failing(&mut command, 1);
    assert!(error.contains("in use by another process") && error.contains("hint:"), "{error}");
}

/// A file system of this many MiB, unmounted with the test. Needs root.
struct Small(tempfile::TempDir);

impl Small {
    fn new(mib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(status.unwrap().success());
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_507_and_what_was_there_stays_whole() {
    let disk = Small::new(8);
    let registry = start_in(disk.0.path(), |_| ()).await;
    let layer = random(200_000);
    let digest = registry.push_image("full/disk", "kept", &layer).await;
    for _ in 0..3 {
        let location = registry.begin("full/disk").await;
        let large = random(12 << 20);
        let refused = registry.finish(&location, &Digest::of(&large), &large).await;
        assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE);
        assert!(refused.text().await.unwrap().contains("disk is full"));
    }
    // Small ones, until the journal itself has no room.
    let mut refused = 0;
    while refused < 3 {
        let blob = random(100_000);
        let url = registry.url(&format!("/v2/full/disk/blobs/uploads/?digest={}", Digest::of(&blob)));
        let answer = registry.client.post(url).body(blob).send().await.unwrap();
        if answer.status() != StatusCode::CREATED {
            assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE, "{}", code(answer).await);
            refused += 1;
        }
    }
    let got = registry.get("/v2/full/disk/manifests/kept").await;
    assert_eq!(Digest::of(got.bytes().await.unwrap()), digest);
    let blob = registry.get(&format!("/v2/full/disk/blobs/{}", Digest::of(&layer))).await;
    assert_eq!(blob.bytes().await.unwrap(), layer);
}
