//! OpenFaaS's management API, by its published description: what its command line and client libraries send, and what
//! they need to be told.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fnbuild::oci::{Descriptor, Digest, ImageConfig, ImageManifest, Tag, media_type};
use fnbuild::registry::{Access, InMemory, Registry};
use serde_json::{Value, json};

use crate::replica::image::layer;
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{run, wait_until};

/// Busybox's httpd, which runs the script that it is sent: an image that fnbuild did not build, on the port that its
/// kind listens on although it does not say so.
fn push_foreign_image(host: &str, repository: &str) {
    let tar = layer();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar).unwrap();
    let gz = gz.finish().unwrap();
    let mut config = ImageConfig::default();
    config.platform.architecture = "amd64".into();
    config.platform.os = "linux".into();
    config.config.env = vec!["PATH=/bin".into()];
    config.config.cmd = Some(["httpd", "-f", "-p", "8080", "-h", "/www"].map(String::from).to_vec());
    config.rootfs.diff_ids = vec![Digest::of(&tar)];
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = ImageManifest::new(
        Descriptor::of(media_type::CONFIG, &config),
        vec![Descriptor::of(media_type::LAYER_GZIP, &gz)],
    );
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let (repository, tag) = (repository.parse().unwrap(), Tag::latest());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let registry = Registry::new(host, Access::default()).unwrap();
        for blob in [gz, config] {
            registry.push_blob(&repository, Arc::new(InMemory::new(blob)), None).await.unwrap();
        }
        registry.push_manifest(&repository, &tag, media_type::MANIFEST, manifest.into()).await.unwrap();
    });
}

/// A request with a JSON body and no type, as OpenFaaS's clients send it.
fn send(server: &FnbuildServer, method: &str, path: &str, body: &Value) -> (u16, String) {
    server.curl(&["-X", method, "-H", "Content-Type:", "-d", &body.to_string(), path])
}

fn told(server: &FnbuildServer, path: &str) -> Value {
    let (status, body) = server.get(path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Runs a script in the function's container, by its HTTP server.
fn inside(server: &FnbuildServer, name: &str, script: &str) -> String {
    let (status, answer) = server.curl(&["-d", script, &format!("/function/{name}/cgi-bin/run")]);
    assert_eq!(status, 200, "{answer}");
    answer.trim_end().to_string()
}

#[test]
fn an_image_is_deployed_described_updated_scaled_read_and_deleted() {
    let server = FnbuildServer::start();
    push_foreign_image(&server.registry().host(), "functions/httpd");
    let image = format!("{}/functions/httpd:latest", server.registry().host());
    assert_eq!(send(&server, "POST", "/system/secrets", &json!({ "name": "key", "value": "v-1" })).0, 201);
    let mut spec = json!({
        "service": "web", "image": image, "namespace": "openfaas-fn", "envProcess": "cat",
        "envVars": { "WHO": "me" }, "secrets": ["key"], "labels": { "canary": "true" },
        "annotations": { "topics": "a, b" }, "limits": { "memory": "32Mi", "cpu": "100m" },
    });
    assert_eq!(send(&server, "PUT", "/system/functions", &spec).0, 404, "clients update first, then deploy");
    assert_eq!(send(&server, "POST", "/system/functions", &spec).0, 202);

    let status = told(&server, "/system/function/web?namespace=openfaas-fn");
    for key in ["image", "namespace", "envProcess", "envVars", "secrets", "annotations", "limits"] {
        assert_eq!(status[key], spec[key], "{key}");
    }
    assert_eq!((&status["name"], &status["labels"]["canary"]), (&json!("web"), &json!("true")));
    assert_eq!((&status["replicas"], status.get("requests")), (&json!(1), None));
    assert!(status["createdAt"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{status}");
    assert_eq!(told(&server, "/system/functions")[0]["name"], "web");
    wait_until("the one replica that OpenFaaS keeps", Duration::from_secs(60), || {
        told(&server, "/system/function/web")["availableReplicas"] == 1
    });

    assert_eq!(server.get("/function/web/").1, "hello");
    assert_eq!(server.get("/function/web.openfaas-fn/").1, "hello");
    assert_eq!(told(&server, "/system/function/web")["invocationCount"], 2);
    assert_eq!(told(&server, "/system/namespace/openfaas-fn")["name"], "openfaas-fn");
    let facts =
        "echo $WHO $fprocess; cat /var/openfaas/secrets/key; echo a line >&2; echo a line > /proc/1/fd/2";
    assert!(inside(&server, "web", facts).starts_with("me cat\nv-1"));
    wait_until("the log line", Duration::from_secs(20), || {
        let (status, lines) = server.get("/system/logs?name=web&follow=false&tail=5&instance=");
        assert_eq!(status, 200);
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).any(|line| {
            line["text"] == "a line"
                && line["name"] == "web"
                && line["namespace"] == "openfaas-fn"
                && line["instance"].as_str().is_some_and(|id| id.starts_with("web-"))
                && line["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok()
        })
    });

    // An update says everything anew, and is there when it is answered.
    spec["envVars"] = json!({ "WHO": "you" });
    spec["labels"] = json!({ "com.openfaas.scale.min": "2" });
    spec.as_object_mut().unwrap().remove("limits");
    assert_eq!(send(&server, "PUT", "/system/secrets", &json!({ "name": "key", "rawValue": "di0y" })).0, 200);
    assert_eq!(send(&server, "PUT", "/system/functions", &spec).0, 200);
    assert!(inside(&server, "web", facts).starts_with("you cat\nv-2"));
    let status = told(&server, "/system/function/web");
    assert_eq!((&status["replicas"], status.get("limits")), (&json!(2), None));

    let scale = |replicas: i64| {
        send(
            &server,
            "POST",
            "/system/scale-function/web",
            &json!({ "serviceName": "web", "replicas": replicas }),
        )
        .0
    };
    assert_eq!(scale(0), 202);
    wait_until("no replica to be left", Duration::from_secs(20), || {
        told(&server, "/system/function/web")["replicas"] == 0
    });
    assert_eq!(server.get("/function/web/").1, "hello", "from zero");
    assert_eq!((scale(-1), scale(3)), (400, 202));
    assert_eq!(told(&server, "/system/function/web")["replicas"], 3);

    // As Go's client writes it. Who follows is told the end.
    let followed = format!("{}/system/logs?name=web&follow=1", server.url());
    let mut following =
        Command::new("curl").args(["-sfN", &followed]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("a line"));
    assert_eq!(send(&server, "DELETE", "/system/functions", &json!({ "functionName": "web" })).0, 200);
    assert!(following.wait().unwrap().success());
    assert_eq!(server.get("/function/web/").0, 404);
    assert_eq!(told(&server, "/system/functions"), json!([]));
    assert_eq!(send(&server, "DELETE", "/system/secrets", &json!({ "name": "key" })).0, 200);
    assert_eq!(told(&server, "/system/secrets"), json!([]));
}

/// Calls a function, one call after the other, until something has come true.
fn call_until(server: &FnbuildServer, name: &str, what: &str, condition: impl FnMut() -> bool) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(server.get(&format!("/function/{name}/")), (200, "hello".into()));
            }
        });
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, Duration::from_secs(120), condition);
        }));
        done.store(true, Ordering::Relaxed);
        caller.join().unwrap();
        waited.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn replicas_follow_the_rate_of_the_calls() {
    let server = FnbuildServer::start();
    push_foreign_image(&server.registry().host(), "functions/httpd");
    let deploy = |name: &str, labels: Value| {
        let labels: serde_json::Map<_, _> = labels.as_object().unwrap().clone();
        let named = labels.into_iter().map(|(key, value)| (format!("com.openfaas.scale.{key}"), value));
        let labels: serde_json::Map<_, _> = named.collect();
        let spec = json!({ "service": name, "image": "functions/httpd:latest", "labels": labels });
        send(&server, "POST", "/system/functions", &spec)
    };
    let counts = |name: &str| {
        let status = told(&server, &format!("/system/function/{name}"));
        (status["replicas"].as_u64().unwrap(), status["availableReplicas"].as_u64().unwrap())
    };
    let patience = Duration::from_secs(120);

    // One caller, one call at a time: by calls in flight one replica is enough.
    let labels = json!({ "type": "rps", "target": "1", "target-proportion": "1.0", "max": "2" });
    assert_eq!(deploy("busy", labels), (202, String::new()));
    wait_until("the one replica that OpenFaaS keeps", patience, || counts("busy") == (1, 1));
    call_until(&server, "busy", "a second replica", || counts("busy") == (2, 2));
    let metrics = server.get("/metrics").1;
    assert!(metrics.contains("gateway_service_count{function_name=\"busy.openfaas-fn\"} 2"), "{metrics}");
    wait_until("one replica, without calls", patience, || counts("busy") == (1, 1));

    // The same down to none, and from none.
    let labels = json!({ "target": "1", "factor": "100", "max": "2", "zero": "true", "zero-duration": "2s" });
    assert_eq!(deploy("quiet", labels).0, 202);
    assert_eq!(counts("quiet"), (0, 0));
    call_until(&server, "quiet", "a second replica", || counts("quiet") == (2, 2));
    wait_until("no replica, without calls", patience, || counts("quiet") == (0, 0));
    assert_eq!(server.get("/function/quiet/"), (200, "hello".into()));

    // By calls in flight, where that is what is said.
    assert_eq!(deploy("busy", json!({ "type": "capacity", "target": "1", "max": "2" })).0, 202);
    let (status, described) = server.get("/v1/functions/busy");
    let described: Value = serde_json::from_str(&described).unwrap();
    assert_eq!((status, &described["settings"]["concurrency"]), (200, &json!(1)), "{described}");
    assert_eq!(described["settings"].get("targetRps"), None, "{described}");
    let (status, problem) = deploy("busy", json!({ "type": "cpu" }));
    assert!(status == 400 && problem.contains("it must be rps or capacity"), "{status} {problem}");
}

#[test]
fn an_image_of_another_registry_is_brought_into_the_servers_own() {
    let server = FnbuildServer::start();
    let other = DockerRegistry::start();
    push_foreign_image(&other.host(), "team/httpd");
    let image = format!("{}/team/httpd", other.host());
    let spec = json!({ "service": "guest", "image": image });
    assert_eq!(send(&server, "POST", "/system/functions", &spec).0, 202);
    drop(other);
    assert_eq!(server.get("/function/guest/").1, "hello");
    let tags = format!("http://{}/v2/fn/guest/tags/list", server.registry().host());
    let tags: Value =
        serde_json::from_str(&run(std::process::Command::new("curl").args(["-s", &tags]))).unwrap();
    let tags = tags["tags"].as_array().unwrap();
    assert!(tags.contains(&json!("1")) && tags.contains(&json!("latest")), "{tags:?}");
    assert_eq!(told(&server, "/system/function/guest")["image"], image);

    // A name without a registry is the server's own, where that has it.
    push_foreign_image(&server.registry().host(), "functions/httpd");
    let spec = json!({ "service": "guest", "image": "functions/httpd:latest" });
    assert_eq!(send(&server, "PUT", "/system/functions", &spec).0, 200);
    assert_eq!(told(&server, "/system/function/guest")["image"], "functions/httpd:latest");
    assert_eq!(server.get("/function/guest/").1, "hello");
}

#[test]
fn what_openfaas_clients_get_wrong_is_told_by_its_status() {
    let server = FnbuildServer::start();
    let deploy = |spec: Value| send(&server, "POST", "/system/functions", &spec);
    let absent = format!("{}/no/such:image", server.registry().host());
    let (status, problem) = deploy(json!({ "service": "a", "image": absent }));
    assert!(status == 400 && problem.contains("there is no image"), "{status} {problem}");
    for spec in [
        json!({ "service": "Not_A_Name", "image": "a" }),
        json!({ "service": "a", "image": "UPPER" }),
        json!({ "service": "a", "image": "a", "namespace": "elsewhere" }),
        json!({ "service": "a", "image": "a", "limits": { "memory": "lots" } }),
        json!({ "service": "a" }),
        json!([]),
    ] {
        assert_eq!(deploy(spec.clone()).0, 400, "{spec}");
    }
    assert_eq!(server.get("/system/function/absent").0, 404);
    assert_eq!(server.get("/system/logs?name=absent").0, 404);
    assert_eq!(server.get("/system/logs").0, 400);
    assert_eq!(server.get("/system/logs?name=a&tail=x").0, 400);
    assert_eq!(send(&server, "DELETE", "/system/functions", &json!({ "functionName": "absent" })).0, 404);
    assert_eq!(send(&server, "DELETE", "/system/functions", &json!({})).0, 400);
    assert_eq!(send(&server, "POST", "/system/scale-function/absent", &json!({ "replicas": 1 })).0, 404);
    assert_eq!(send(&server, "DELETE", "/system/secrets", &json!({ "name": "absent" })).0, 404);
    assert_eq!(told(&server, "/system/namespaces"), json!(["openfaas-fn"]));
    let info = told(&server, "/system/info");
    assert_eq!((&info["provider"]["provider"], &info["arch"]), (&json!("fnbuild"), &json!("x86_64")));
    for version in [&info["version"], &info["provider"]["version"]] {
        assert!(version["release"].is_string() && version["sha"].is_string(), "{info}");
    }
}
