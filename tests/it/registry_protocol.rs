//! The distribution-spec, section by section, against the registry in this process.

use fnbuild::oci::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::registry_kit::{INDEX, MANIFEST, code, header, manifest_of, random, sha512, start, start_in};

#[tokio::test]
async fn a_blob_is_pulled_whole_in_parts_and_on_condition() {
    let registry = start(|_| ()).await;
    let bytes = random(300_000);
    let digest = registry.push_blob("pull/blob", &bytes).await;
    let url = registry.url(&format!("/v2/pull/blob/blobs/{digest}"));

    let head = registry.head(&url).await;
    assert_eq!((head.status(), header(&head, "content-length")), (StatusCode::OK, "300000".into()));
    let whole = registry.get(&url).await;
    assert_eq!(header(&whole, "docker-content-digest"), digest.to_string());
    let etag = header(&whole, "etag");
    assert_eq!(whole.bytes().await.unwrap(), bytes);

    let ranged = |range: &str| registry.client.get(&url).header("range", range).send();
    let part = ranged("bytes=1000-200999").await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(header(&part, "content-range"), "bytes 1000-200999/300000");
    assert_eq!(part.bytes().await.unwrap(), bytes[1000..201_000]);
    let tail = ranged("bytes=-5").await.unwrap();
    assert_eq!(tail.bytes().await.unwrap(), bytes[299_995..]);
    let beyond = ranged("bytes=300000-").await.unwrap();
    assert_eq!(
        (beyond.status(), header(&beyond, "content-range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */300000".into())
    );

    let known = registry.client.get(&url).header("if-none-match", &etag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert!(known.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_blob_is_pushed_in_every_way() {
    let registry = start(|_| ()).await;
    for (length, digest_of) in [0, 1, 1000, 131_072, 131_073, 3_000_000]
        .into_iter()
        .flat_map(|length| [(length, Digest::of as fn(Vec<u8>) -> Digest), (length, |bytes| sha512(&bytes))])
    {
        let bytes = random(length);
        let digest = digest_of(bytes.clone());
        let name = format!("push/{}{length}", digest.algorithm().name());
        // One POST.
        let url = registry.url(&format!("/v2/{name}/blobs/uploads/?digest={digest}"));
        let posted = registry.client.post(url).body(bytes.clone()).send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::CREATED);
        // POST and PUT.
        let location = registry.begin(&format!("{name}/put")).await;
        assert_eq!(registry.finish(&location, &digest, &bytes).await.status(), StatusCode::CREATED);
        // Chunks, then an empty PUT; and chunks of which the last comes with the PUT.
        for last in [0, length / 3] {
            let location = registry.begin(&format!("{name}/chunks")).await;
            let mut sent = 0;
            for chunk in bytes[..length - last].chunks(1 + length / 3) {
                let answer = registry.patch(&location, Some(sent), chunk).await;
                sent += chunk.len();
                assert_eq!(
                    (answer.status(), header(&answer, "range")),
                    (StatusCode::ACCEPTED, format!("0-{}", sent - 1))
                );
            }
            let answer = registry.finish(&location, &digest, &bytes[length - last..]).await;
            assert_eq!(answer.status(), StatusCode::CREATED, "{length} bytes, the last {last} with the PUT");
        }
        for place in ["", "/put", "/chunks"] {
            let back = registry.get(&format!("/v2/{name}{place}/blobs/{digest}")).await;
            assert_eq!(back.bytes().await.unwrap(), bytes);
        }
    }
}

#[tokio::test]
async fn chunks_out_of_order_are_416_and_the_status_says_where_to_go_on() {
    let registry = start(|_| ()).await;
    let bytes = random(3000);
    let location = registry.begin("push/order").await;
    let early = registry.patch(&location, Some(1000), &bytes[1000..2000]).await;
    assert_eq!(early.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(registry.patch(&location, Some(0), &bytes[..1000]).await.status(), StatusCode::ACCEPTED);
    let again = registry.patch(&location, Some(0), &bytes[..1000]).await;
    assert_eq!(
        (again.status(), header(&again, "range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "0-999".into())
    );
    assert_eq!(code(again).await, "BLOB_UPLOAD_INVALID");
    let status = registry.get(&location).await;
    assert_eq!((status.status(), header(&status, "range")), (StatusCode::NO_CONTENT, "0-999".into()));
    assert_eq!(header(&status, "location"), location);
    // A stream of unknown length, as docker sends it.
    assert_eq!(registry.patch(&location, None, &bytes[1000..]).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.finish(&location, &Digest::of(&bytes), b"").await.status(), StatusCode::CREATED);
    assert_eq!(registry.get(&location).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_upload_can_be_cancelled_and_belongs_to_its_repository() {
    let registry = start(|_| ()).await;
    let location = registry.begin("push/cancel").await;
    let elsewhere = location.replace("push/cancel", "push/other");
    assert_eq!(registry.get(&elsewhere).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(registry.delete(&location).await.status(), StatusCode::NO_CONTENT);
    let gone = registry.finish(&location, &Digest::of(b"x"), b"x").await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(code(gone).await, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn wrong_digests_and_names_are_400_and_leave_nothing() {
    let registry = start(|_| ()).await;
    for length in [10, 500_000] {
        let location = registry.begin("push/wrong").await;
        let wrong = Digest::of(random(8));
        let refused = registry.finish(&location, &wrong, &random(length)).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(code(refused).await, "DIGEST_INVALID");
        assert_eq!(
            registry.get(&format!("/v2/push/wrong/blobs/{wrong}")).await.status(),
            StatusCode::NOT_FOUND
        );
    }
    assert_eq!(std::fs::read_dir(registry.root.join("uploads")).unwrap().count(), 0);
    for (path, expected) in [
        ("/v2/UPPER/tags/list", "NAME_INVALID"),
        ("/v2/a/blobs/sha256:abc", "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:0cc175b9c0f1b6a831c399e269772661", "DIGEST_INVALID"),
        ("/v2/a/manifests/sha256:abc", "DIGEST_INVALID"),
        ("/v2/a/referrers/nonsense", "DIGEST_INVALID"),
        ("/v2/a/tags/list?n=x", "UNSUPPORTED"),
    ] {
        let response = registry.get(path).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(code(response).await, expected, "{path}");
    }
    let algorithm = registry.send(Method::POST, "/v2/a/blobs/uploads/?digest-algorithm=md5").await;
    assert_eq!(algorithm.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_blob_is_mounted_with_and_without_its_source() {
    let registry = start(|_| ()).await;
    let digest = registry.push_blob("mount/from", &random(100)).await;
    let mount = |to: &str, query: String| {
        let url = registry.url(&format!("/v2/{to}/blobs/uploads/?mount={query}"));
        registry.client.post(url).send()
    };
    let wrong = mount("mount/a", format!("{digest}&from=mount/nowhere")).await.unwrap();
    assert_eq!(wrong.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.head(&format!("/v2/mount/a/blobs/{digest}")).await.status(), StatusCode::NOT_FOUND);
    for (to, query) in [("mount/a", format!("{digest}&from=mount/from")), ("mount/b", digest.to_string())] {
        let mounted = mount(to, query).await.unwrap();
        assert_eq!(mounted.status(), StatusCode::CREATED);
        assert_eq!(header(&mounted, "location"), format!("/v2/{to}/blobs/{digest}"));
        assert_eq!(registry.head(&format!("/v2/{to}/blobs/{digest}")).await.status(), StatusCode::OK);
    }
    let missing = mount("mount/c", Digest::of(random(9)).to_string()).await.unwrap();
    assert_eq!(missing.status(), StatusCode::ACCEPTED);
    assert!(header(&missing, "location").starts_with("/v2/mount/c/blobs/uploads/"));
}

#[tokio::test]
async fn a_manifest_is_kept_byte_for_byte_by_tag_and_digest() {
    let registry = start(|_| ()).await;
    let layer = random(50);
    let digest = registry.push_image("manifest/kept", "one", &layer).await;
    let text = manifest_of(b"{}", &[&layer]).to_string();
    for reference in ["one".to_string(), digest.to_string()] {
        let url = format!("/v2/manifest/kept/manifests/{reference}");
        let got = registry.get(&url).await;
        assert_eq!(header(&got, "content-type"), MANIFEST);
        assert_eq!(header(&got, "docker-content-digest"), digest.to_string());
        assert_eq!(got.text().await.unwrap(), text);
        let head = registry.head(&url).await;
        assert_eq!(header(&head, "content-length"), text.len().to_string());
        let same = registry.client.get(registry.url(&url)).header("if-none-match", format!("\"{digest}\""));
        assert_eq!(same.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);
    }
    let tagged = format!("{}?tag=two&tag=three", sha512(text.as_bytes()));
    let put = registry.put_manifest("manifest/kept", &tagged, &manifest_of(b"{}", &[&layer])).await;
    assert_eq!((put.status(), header(&put, "oci-tag")), (StatusCode::CREATED, "two, three".into()));
    let two = registry.head("/v2/manifest/kept/manifests/two").await;
    assert_eq!(header(&two, "docker-content-digest"), sha512(text.as_bytes()).to_string());
}

#[tokio::test]
async fn an_incomplete_manifest_names_all_that_it_lacks() {
    let registry = start(|_| ()).await;
    registry.push_blob("manifest/lacks", b"{}").await;
    let (first, second) = (random(10), random(11));
    let refused = registry.put_manifest("manifest/lacks", "t", &manifest_of(b"{}", &[&first, &second])).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let errors: Value = refused.json().await.unwrap();
    let named: Vec<&str> = errors["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["detail"]["digest"].as_str().unwrap())
        .collect();
    assert_eq!(named, [Digest::of(&first).to_string(), Digest::of(&second).to_string()]);
    assert_eq!(errors["errors"][0]["code"], "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(registry.get("/v2/manifest/lacks/manifests/t").await.status(), StatusCode::NOT_FOUND);
    // A blob of another repository is not this one's.
    registry.push_blob("manifest/other", &first).await;
    let refused = registry.put_manifest("manifest/lacks", "t", &manifest_of(b"{}", &[&first])).await;
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    // What is fetched from elsewhere need not be here, nor the subject.
    let mut far = manifest_of(b"{}", &[&first]);
    far["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
    far["layers"][0]["urls"] = json!(["https://elsewhere.example/layer"]);
    far["subject"] = json!({"mediaType": MANIFEST, "digest": Digest::of("later"), "size": 5});
    let accepted = registry.put_manifest("manifest/lacks", "far", &far).await;
    assert_eq!(
        (accepted.status(), header(&accepted, "oci-subject")),
        (StatusCode::CREATED, Digest::of("later").to_string())
    );
}

#[tokio::test]
async fn manifests_have_a_bound_and_must_be_what_they_say() {
    let registry = start(|_| ()).await;
    let put = |kind: &'static str, body: Vec<u8>| {
        let request = registry.client.put(registry.url("/v2/manifest/bound/manifests/t"));
        request.header("content-type", kind).body(body).send()
    };
    let mut large =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"a": ""}});
    large["annotations"]["a"] = "A".repeat((4 << 20) - 200).into();
    assert_eq!(put(INDEX, large.to_string().into()).await.unwrap().status(), StatusCode::CREATED);
    large["annotations"]["a"] = "A".repeat(4 << 20).into();
    assert_eq!(put(INDEX, large.to_string().into()).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    for (kind, body) in [
        (MANIFEST, "not json".to_string()),
        (MANIFEST, "[]".into()),
        (INDEX, manifest_of(b"{}", &[]).to_string()),
    ] {
        let refused = put(kind, body.into()).await.unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(code(refused).await, "MANIFEST_INVALID");
    }
    // Any type that is JSON.
    let own = put("application/vnd.example.thing+json; charset=utf-8", b"{\"a\":1}".to_vec()).await.unwrap();
    assert_eq!(own.status(), StatusCode::CREATED);
    let got = registry.get("/v2/manifest/bound/manifests/t").await;
    assert_eq!(header(&got, "content-type"), "application/vnd.example.thing+json");
}

#[tokio::test]
async fn tags_and_the_catalog_come_in_pages() {
    let registry = start(|_| ()).await;
    for tag in ["b", "a", "c", "A", "10"] {
        registry.push_image("list/tags", tag, b"layer").await;
    }
    registry.push_image("list/more", "x", b"layer").await;
    let listed = |path: String| {
        let registry = &registry;
        async move {
            let response = registry.get(&path).await;
            let link = header(&response, "link");
            let value: Value = response.json().await.unwrap();
            let names = value.get("tags").or(value.get("repositories")).unwrap().clone();
            (names, link)
        }
    };
    let all = listed("/v2/list/tags/tags/list".into()).await;
    assert_eq!(all, (json!(["10", "A", "a", "b", "c"]), String::new()));
    let (first, link) = listed("/v2/list/tags/tags/list?n=2".into()).await;
    assert_eq!(first, json!(["10", "A"]));
    let next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_string();
    assert_eq!(listed(next).await.0, json!(["a", "b"]));
    assert_eq!(listed("/v2/list/tags/tags/list?n=2&last=b".into()).await, (json!(["c"]), String::new()));
    assert_eq!(listed("/v2/list/tags/tags/list?n=0".into()).await, (json!([]), String::new()));
    assert_eq!(listed("/v2/list/tags/tags/list?last=a".into()).await.0, json!(["b", "c"]));
    assert_eq!(listed("/v2/_catalog".into()).await.0, json!(["list/more", "list/tags"]));
    let (page, link) = listed("/v2/_catalog?n=1".into()).await;
    assert_eq!((page, link.contains("last=list/more")), (json!(["list/more"]), true));
    let unknown = registry.get("/v2/list/nobody/tags/list").await;
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(code(unknown).await, "NAME_UNKNOWN");
}

#[tokio::test]
async fn referrers_are_found_filtered_and_paged() {
    let registry = start(|_| ()).await;
    let name = "refer/one";
    registry.push_blob(name, b"{}").await;
    let subject = Digest::of("a subject that comes later");
    let referrer = |kind: &str, annotation: String| {
        let mut manifest = manifest_of(b"{}", &[]);
        manifest["artifactType"] = kind.into();
        manifest["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        manifest["annotations"] = json!({"note": annotation});
        manifest
    };
    let path = format!("/v2/{name}/referrers/{subject}");
    let of = |path: String| {
        let registry = &registry;
        async move {
            let response = registry.get(&path).await;
            assert_eq!(
                (response.status(), header(&response, "content-type")),
                (StatusCode::OK, INDEX.to_string())
            );
            let (link, filters) = (header(&response, "link"), header(&response, "oci-filters-applied"));
            let index: Value = response.json().await.unwrap();
            (index["manifests"].as_array().unwrap().clone(), link, filters)
        }
    };
    assert_eq!(of(path.clone()).await.0.len(), 0);
    // Large annotations, so that five of them do not fit one page.
    for number in 0..5 {
        let manifest = referrer("application/x-sbom", format!("{number}{}", "A".repeat(1 << 20)));
        let reference = Digest::of(manifest.to_string()).to_string();
        assert_eq!(registry.put_manifest(name, &reference, &manifest).await.status(), StatusCode::CREATED);
    }
    let signature = referrer("application/x-signature", "s".into());
    registry.put_manifest(name, "signed", &signature).await;
    let (filtered, link, filters) = of(format!("{path}?artifactType=application/x-signature")).await;
    assert_eq!((filtered.len(), link.as_str(), filters.as_str()), (1, "", "artifactType"));
    assert_eq!(filtered[0]["annotations"]["note"], "s");
    let (mut found, mut next) = (Vec::new(), path.clone());
    loop {
        let (page, link, _) = of(next).await;
        found.extend(page);
        let Some((link, _)) = link.strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        next = link.to_string();
    }
    assert_eq!(found.len(), 6);
    // Gone with its manifest.
    let digest = Digest::of(signature.to_string());
    assert_eq!(
        registry.delete(&format!("/v2/{name}/manifests/{digest}")).await.status(),
        StatusCode::ACCEPTED
    );
    assert_eq!(of(format!("{path}?artifactType=application/x-signature")).await.0.len(), 0);
}

#[tokio::test]
async fn a_referrers_tag_of_an_older_client_is_a_tag_like_any_other() {
    let registry = start(|_| ()).await;
    let (name, subject) = ("refer/fallback", Digest::of("subject"));
    registry.push_blob(name, b"{}").await;
    let mut manifest = manifest_of(b"{}", &[]);
    manifest["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    let digest = Digest::of(manifest.to_string());
    registry.put_manifest(name, &digest.to_string(), &manifest).await;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": MANIFEST, "digest": digest, "size": manifest.to_string().len()}]});
    let tag = format!("sha256-{}", subject.hex());
    assert_eq!(registry.put_manifest(name, &tag, &index).await.status(), StatusCode::CREATED);
    assert_eq!(
        registry.get(&format!("/v2/{name}/manifests/{tag}")).await.text().await.unwrap(),
        index.to_string()
    );
    let listed: Value = registry.get(&format!("/v2/{name}/referrers/{subject}")).await.json().await.unwrap();
    assert_eq!(listed["manifests"][0]["digest"], digest.to_string());
}

#[tokio::test]
async fn tags_manifests_and_blobs_are_deleted_each_for_itself() {
    let registry = start(|_| ()).await;
    let layer = random(20);
    let digest = registry.push_image("delete/it", "one", &layer).await;
    registry.push_image("delete/it", "two", &layer).await;
    let status = |method: Method, path: String| {
        let registry = &registry;
        async move { registry.send(method, &path).await.status().as_u16() }
    };
    let manifest = |reference: &str| format!("/v2/delete/it/manifests/{reference}");
    assert_eq!(status(Method::DELETE, manifest("one")).await, 202);
    assert_eq!(status(Method::GET, manifest("one")).await, 404);
    assert_eq!(status(Method::GET, manifest("two")).await, 200);
    assert_eq!(status(Method::DELETE, manifest(&digest.to_string())).await, 202);
    assert_eq!(status(Method::GET, manifest("two")).await, 404);
    assert_eq!(status(Method::DELETE, manifest(&digest.to_string())).await, 404);
    let blob = format!("/v2/delete/it/blobs/{}", Digest::of(&layer));
    assert_eq!(status(Method::DELETE, blob.clone()).await, 202);
    assert_eq!(status(Method::GET, blob.clone()).await, 404);
    assert_eq!(status(Method::DELETE, blob).await, 404);
    assert_eq!(status(Method::DELETE, "/v2/delete/nobody/manifests/x".into()).await, 404);
    assert_eq!(status(Method::GET, "/v2/delete/it/tags/list".into()).await, 200);
}

#[tokio::test]
async fn a_read_only_registry_serves_and_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let writable = start_in(folder.path(), |_| ()).await;
    let digest = writable.push_image("read/only", "t", b"layer").await;
    writable.stop().await;
    let registry = start_in(folder.path(), |config| config.read_only = true).await;
    let (manifest, blob) = (
        format!("/v2/read/only/manifests/{digest}"),
        format!("/v2/read/only/blobs/{}", Digest::of(b"layer")),
    );
    for path in [&manifest, &blob, "/v2/read/only/tags/list", "/v2/_catalog"] {
        assert_eq!(registry.get(path).await.status(), StatusCode::OK, "{path}");
    }
    for (method, path) in [
        (Method::POST, "/v2/read/only/blobs/uploads/"),
        (Method::PUT, "/v2/read/only/manifests/t"),
        (Method::DELETE, "/v2/read/only/manifests/t"),
        (Method::DELETE, &manifest),
        (Method::DELETE, &blob),
    ] {
        let refused = registry.send(method.clone(), path).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        assert_eq!(code(refused).await, "UNSUPPORTED");
    }
    assert_eq!(registry.get(&manifest).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn metrics_count_what_was_done() {
    let registry = start(|_| ()).await;
    registry.push_image("count/it", "t", b"a layer").await;
    registry.get("/v2/count/it/manifests/t").await;
    let text = registry.get("/metrics").await.text().await.unwrap();
    for line in [
        "fnbuild_registry_requests_total{kind=\"manifest\",status=\"2xx\"} 2",
        "fnbuild_registry_received_bytes_total 9",
        "fnbuild_registry_repositories 1",
        "fnbuild_registry_blobs 3",
        "fnbuild_registry_uploads 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}
