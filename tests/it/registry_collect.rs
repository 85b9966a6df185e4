//! Garbage collection: beside pushes, by policy, from another process and without a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fnbuild::oci::Digest;
use fnbuild::registry_server::{Policy, Report, collect};
use reqwest::StatusCode;
use serde_json::json;

use crate::registry_kit::{INDEX, MANIFEST, Registry, header, manifest_of, program, random, start, start_in};
use crate::support::{fnbuild, run};

fn at_once() -> Policy {
    Policy { grace: Duration::ZERO, ..Policy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_no_manifest_keeps_goes_and_only_after_its_grace() {
    let registry = start(|_| ()).await;
    let (kept, gone) = (random(100_000), random(200_000));
    registry.push_image("gc/one", "kept", &kept).await;
    let digest = registry.push_image("gc/one", "gone", &gone).await;
    registry.delete(&format!("/v2/gc/one/manifests/{digest}")).await;
    let young = collect(&registry.root, Policy::default()).await.unwrap();
    assert_eq!((young.blobs, young.kept_blobs), (0, 2));
    let dry = collect(&registry.root, Policy { dry_run: true, ..at_once() }).await.unwrap();
    assert_eq!(dry.blobs, 2);
    assert_eq!(
        registry.head(&format!("/v2/gc/one/blobs/{}", Digest::of(&gone))).await.status(),
        StatusCode::OK
    );
    let done = collect(&registry.root, at_once()).await.unwrap();
    assert_eq!((done.blobs, done.bytes), (2, dry.bytes));
    assert_eq!(
        registry.head(&format!("/v2/gc/one/blobs/{}", Digest::of(&gone))).await.status(),
        StatusCode::NOT_FOUND
    );
    assert!(!registry.root.join("blobs/sha256").join(Digest::of(&gone).hex()).exists());
    let blob = registry.get(&format!("/v2/gc/one/blobs/{}", Digest::of(&kept))).await;
    assert_eq!(blob.bytes().await.unwrap(), kept);
    // It can come back.
    registry.push_image("gc/one", "gone", &gone).await;
    assert_eq!(collect(&registry.root, at_once()).await.unwrap().blobs, 0);
}

/// Old blobs that nobody keeps, pushers that upload only what a HEAD or a mount says is missing, and a collector, all at
/// once: no push may fail, and every image that was accepted can be pulled whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_push_never_loses_what_it_was_told_is_there() {
    const LAYERS: usize = 200;
    let folder = tempfile::tempdir().unwrap();
    let layers: Arc<Vec<Vec<u8>>> = Arc::new((0..LAYERS).map(|n| random(500 + n)).collect());
    let old = start_in(folder.path(), |_| ()).await;
    for layer in layers.iter() {
        old.push_blob("stress/old", layer).await;
    }
    old.stop().await;
    let hours_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
    for file in std::fs::read_dir(folder.path().join("blobs/sha256")).unwrap() {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(hours_ago).unwrap();
    }
    let registry = Arc::new(start_in(folder.path(), |_| ()).await);
    let pushed = Arc::new(AtomicUsize::new(0));
    let push = |pusher| push_what_is_missing(registry.clone(), layers.clone(), pusher, pushed.clone());
    let pushers: Vec<_> = (0..4).map(|pusher| tokio::spawn(push(pusher))).collect();
    while pushed.load(Ordering::Relaxed) < LAYERS / 8 {
        tokio::task::yield_now().await;
    }
    let over = Arc::new(AtomicBool::new(false));
    let collecting = {
        let (registry, over) = (registry.clone(), over.clone());
        tokio::spawn(async move {
            let mut removed = 0;
            while !over.load(Ordering::Relaxed) {
                removed += collect(&registry.root, Policy::default()).await.unwrap().blobs;
            }
            removed
        })
    };
    for pusher in pushers {
        pusher.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let removed = collecting.await.unwrap();
    // What was promised before the collector began is among what it may not take.
    assert!(removed < LAYERS, "{removed}");
}

/// Every fourth layer, as an image of its own.
async fn push_what_is_missing(
    registry: Arc<Registry>,
    layers: Arc<Vec<Vec<u8>>>,
    pusher: usize,
    pushed: Arc<AtomicUsize>,
) {
    registry.push_blob("stress/new", b"{}").await;
    for (number, layer) in layers.iter().enumerate().skip(pusher).step_by(4) {
        let digest = Digest::of(layer);
        let there = if number % 8 < 4 {
            registry.head(&format!("/v2/stress/old/blobs/{digest}")).await.status() == StatusCode::OK
        } else {
            true
        };
        let mount = registry.url(&format!("/v2/stress/new/blobs/uploads/?mount={digest}&from=stress/old"));
        let mounted = registry.client.post(mount).send().await.unwrap().status() == StatusCode::CREATED;
        assert!(mounted || !there || number % 8 >= 4, "promised by HEAD, and gone");
        if !mounted {
            registry.push_blob("stress/new", layer).await;
        }
        let manifest = manifest_of(b"{}", &[layer]);
        let put = registry.put_manifest("stress/new", &format!("t{number}"), &manifest).await;
        assert_eq!(put.status(), StatusCode::CREATED, "{}", put.text().await.unwrap());
        let back = registry.get(&format!("/v2/stress/new/blobs/{digest}")).await;
        assert_eq!(back.bytes().await.unwrap(), *layer);
        pushed.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn old_untagged_versions_go_but_not_what_a_tag_leads_to() {
    let registry = start(|_| ()).await;
    let name = "gc/untagged";
    let lonely = registry.push_image(name, "moving", &random(10)).await;
    let child = registry.push_image(name, "child", &random(11)).await;
    registry.push_image(name, "moving", &random(12)).await;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST, "digest": child, "size": 9}]});
    registry.put_manifest(name, "index", &index).await;
    registry.delete(&format!("/v2/{name}/manifests/child")).await;
    let mut signature = manifest_of(b"{}", &[]);
    signature["subject"] = json!({"mediaType": MANIFEST, "digest": child, "size": 9});
    let signature_digest = Digest::of(signature.to_string());
    registry.put_manifest(name, &signature_digest.to_string(), &signature).await;

    let policy = |age: u64| Policy { untagged: Some(Duration::from_secs(age)), ..at_once() };
    assert_eq!(collect(&registry.root, policy(3600)).await.unwrap().manifests.len(), 0);
    let report = collect(&registry.root, policy(0)).await.unwrap();
    assert_eq!(report.manifests, [format!("{name}@{lonely}")]);
    assert_eq!(report.blobs, 2, "the manifest and its layer");
    for digest in [&child, &signature_digest] {
        assert_eq!(registry.get(&format!("/v2/{name}/manifests/{digest}")).await.status(), StatusCode::OK);
    }
    assert_eq!(registry.get(&format!("/v2/{name}/manifests/{lonely}")).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_goes_on_with_are_swept() {
    let registry = start(|_| ()).await;
    let location = registry.begin("gc/upload").await;
    assert_eq!(registry.patch(&location, Some(0), &random(1000)).await.status(), StatusCode::ACCEPTED);
    let young = collect(&registry.root, Policy::default()).await.unwrap();
    assert_eq!((young.uploads, registry.get(&location).await.status()), (0, StatusCode::NO_CONTENT));
    let old = Policy { uploads: Duration::ZERO, ..Policy::default() };
    let dry = collect(&registry.root, Policy { dry_run: true, ..old }).await.unwrap();
    assert_eq!(
        (dry.uploads, dry.upload_bytes, registry.get(&location).await.status().as_u16()),
        (1, 1000, 204)
    );
    assert_eq!(collect(&registry.root, old).await.unwrap().uploads, 1);
    assert_eq!(registry.get(&location).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_collects_through_a_running_registry_and_without_one() {
    let data = tempfile::tempdir().unwrap();
    let gc = |more: &[&str]| -> Report {
        let mut command = fnbuild();
        command.args(["registry", "gc", "-o", "json", "--data-dir"]).arg(data.path()).args(more);
        serde_json::from_str(&run(&mut command)).unwrap()
    };
    let digest = {
        let (mut server, address) = program(data.path(), &[]);
        let registry = Registry::at(format!("http://{address}"));
        let digest = registry.push_blob("gc/program", &random(1000)).await;
        let stray = data.path().join("registry/blobs/sha256").join(Digest::of("stray").hex());
        std::fs::write(&stray, "left by a crash").unwrap();
        assert_eq!(gc(&["--dry-run", "--grace", "0s"]).blobs, 2);
        assert_eq!(gc(&[]).blobs, 0);
        assert!(
            header(&registry.head(&format!("/v2/gc/program/blobs/{digest}")).await, "content-length")
                == "1000"
        );
        server.terminate(Duration::from_secs(10));
        digest
    };
    // The promise of the process that has ended is kept to as well.
    let kept = gc(&[]);
    assert_eq!((kept.blobs, kept.kept_blobs), (0, 1));
    assert_eq!(gc(&["--grace", "0s"]).blobs, 2);
    assert!(!data.path().join("registry/blobs/sha256").join(digest.hex()).exists());
}
