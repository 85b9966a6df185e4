//! Manifests for other engines, read by what those engines' users read them with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fnbuild::export::{Engine, Exported, manifests};
use fnbuild::function::{Memory, Settings};
use serde_json::Value;

use crate::support::server::FnbuildServer;
use crate::support::{free_port, run, wait_until};

fn exported() -> Vec<Exported> {
    let mut settings = Settings { cpu_millis: 1500, memory: Memory(128 << 20), ..Settings::default() };
    let strange = "a $HOME ${X} $(Y) \"quoted\" \\ größe: yes\n- next\u{85}\u{7f}";
    settings.env = [("STRANGE", strange), ("BOOL", "no"), ("NUMBER", "010")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    settings.secrets = ["api-key".into(), "db.password".into()].into();
    settings.target_rps = 25;
    let image = format!("registry.example:5000/fn/add@sha256:{:064}", 1);
    let add = Exported { name: "add".parse().unwrap(), image: image.clone(), settings };
    let plain = Exported { name: "1".parse().unwrap(), image, settings: Settings::default() };
    vec![add, plain]
}

/// A Python with kubernetes-validate and PyYAML.
fn python() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let python = tools.join("bin/python3");
    assert!(python.exists(), "run scripts/setup --tests: {} is not there", python.display());
    python
}

/// The documents as PyYAML reads them: as strictly, and by the older version of YAML.
fn read_back(yaml: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut child = Command::new(python())
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{yaml}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether all documents fit Kubernetes' schemas, unknown fields being refused.
fn validate(yaml: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manifests.yaml");
    std::fs::write(&file, yaml).unwrap();
    let validate = python().with_file_name("kubernetes-validate");
    let output = Command::new(validate).args(["--strict"]).arg(&file).output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(told) }
}

#[test]
fn kubernetes_manifests_fit_the_schemas_strictly() {
    let yaml = manifests(&exported(), Engine::Kubernetes);
    validate(&yaml).unwrap();
    assert!(validate(&yaml.replacen("ports:", "porst:", 1)).is_err());
    let objects = read_back(&yaml);
    assert_eq!(objects.len(), 6);
    let container = &objects[0]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], exported()[0].image);
    assert_eq!(container["resources"]["limits"]["cpu"], "1500m");
    assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert_eq!(container["env"][0]["value"], "no");
    assert_eq!(container["env"][1]["value"], "010");
    let strange = &exported()[0].settings.env["STRANGE"];
    assert_eq!(container["env"][2]["value"], strange.replace("$(", "$$("));
    assert_eq!(objects[3]["metadata"]["name"], "1");
    assert_eq!(objects[5]["spec"]["maxReplicas"], 4);
    assert!(yaml.contains("kubectl create secret generic api-key"));
}

#[test]
fn a_knative_service_holds_a_pod_that_fits_the_schemas_strictly() {
    let services = read_back(&manifests(&exported(), Engine::Knative));
    for (service, (metric, target)) in services.iter().zip([("rps", "25"), ("concurrency", "8")]) {
        let template = &service["spec"]["template"];
        let scaling =
            |key: &str| &template["metadata"]["annotations"][format!("autoscaling.knative.dev/{key}")];
        assert_eq!((scaling("metric"), scaling("target")), (&metric.into(), &target.into()));
        let mut pod = template["spec"].clone();
        // Knative's own, beside a pod's fields.
        assert_eq!(pod.as_object_mut().unwrap().remove("timeoutSeconds").unwrap(), 60);
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "function" }, "spec": pod,
        });
        // JSON may hold what YAML's readers refuse unescaped.
        let pod = pod.to_string().replace('\u{7f}', "\\u007f").replace('\u{85}', "\\u0085");
        validate(&pod).unwrap();
    }
}

/// A compose project of the test's own, taken away at the end.
struct Project {
    folder: tempfile::TempDir,
    name: String,
}

impl Project {
    fn command(&self) -> Command {
        let mut command = Command::new("docker-compose");
        command.args(["--project-name", &self.name, "--project-directory"]).arg(self.folder.path());
        command.arg("--file").arg(self.folder.path().join("compose.yaml"));
        command
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.command().args(["down", "--rmi", "all", "--volumes", "--timeout", "1"]).output();
    }
}

#[test]
fn compose_reads_its_file_and_every_value_comes_back() {
    let project = Project { folder: tempfile::tempdir().unwrap(), name: format!("fnbuild{}", free_port()) };
    std::fs::write(project.folder.path().join("compose.yaml"), manifests(&exported(), Engine::Compose))
        .unwrap();
    let shown = run(project.command().arg("config"));
    let file = &read_back(&shown)[0];
    let service = &file["services"]["add"];
    assert_eq!(service["image"], exported()[0].image);
    // `config` writes its own answer for another reading, so dollars stay doubled.
    let strange = &exported()[0].settings.env["STRANGE"];
    assert_eq!(service["environment"]["STRANGE"], strange.replace('$', "$$"));
    assert_eq!((&service["read_only"], &service["pids_limit"]), (&Value::Bool(true), &Value::from(256)));
}

#[test]
fn compose_brings_an_exported_function_up_and_it_answers_as_it_did_here() {
    let server = FnbuildServer::start_with(&["--pool", "0"]);
    let project = Project { folder: tempfile::tempdir().unwrap(), name: format!("fnbuild{}", free_port()) };
    let code = "import os\n\n\ndef run(x, y):\n    secret = open('/run/secrets/api-key').read()\n    \
                return f\"{x + y} {os.environ['GREETING']} {secret}\"\n";
    let source = project.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("func.py"), code).unwrap();
    let secrets = project.folder.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    std::fs::write(secrets.join("api-key"), "sealed").unwrap();
    let secret = secrets.join("api-key");
    run(server.command().args(["secret", "create", "api-key", "--from-file"]).arg(&secret));
    let push = ["--name", "greeter", "-e", "GREETING=hello, $USER", "--secret", "api-key"];
    run(server.command().arg("push").arg(&source).args(push));
    let sum = serde_json::json!({ "x": 1, "y": 2 });
    let answer = (200, "\"3 hello, $USER sealed\"".to_string());
    assert_eq!(server.call("greeter", &sum), answer);

    let yaml = run(server.command().args(["export", "greeter", "--as", "compose"]));
    // Its port on this machine is a wish; what else the test's machine has there is no part of it.
    let port = free_port();
    let moved = yaml.replace("127.0.0.1:8081:8081", &format!("127.0.0.1:{port}:8081"));
    assert_ne!(yaml, moved);
    std::fs::write(project.folder.path().join("compose.yaml"), moved).unwrap();
    run(project.command().args(["up", "--detach"]));
    let container = run(project.command().args(["ps", "-q", "greeter"]));
    let inspect = |what: &str| run(Command::new("docker").args(["inspect", "--format", what, &container]));
    wait_until("the function to be healthy", Duration::from_secs(90), || {
        inspect("{{.State.Health.Status}}") == "healthy"
    });
    let url = format!("http://127.0.0.1:{port}/");
    let json = ["-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d"];
    let told = run(Command::new("curl").args(json).arg(sum.to_string()).arg(&url));
    assert_eq!(told, format!("{}200", answer.1));
    assert_eq!(
        inspect("{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.Config.User}}"),
        "true [ALL] 65532:65532"
    );
}
