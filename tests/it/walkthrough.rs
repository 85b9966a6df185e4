//! The walk-through that this system comes from: one function, called in every way that its users know.
//!
//! `func.py` prints the sum and returns nothing, so the answer is `null` and the print stands in the log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::server::FnbuildServer;
use super::support::{free_port, run, wait_until};

const BODY: &str = r#"{"x": 3, "y": 5}"#;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// The call of the walk-through, by the very command that it shows.
fn post(url: &str) -> String {
    run(Command::new("curl")
        .args(["-sS", "--max-time", "60", "-X", "POST", "-H", "Content-Type: application/json", "-d", BODY])
        .arg(url))
}

fn wait_for_answer(url: &str) {
    let health = format!("{url}/_/health");
    wait_until("the container to answer", Duration::from_secs(60), || {
        Command::new("curl").args(["-sf", "-o", "/dev/null", &health]).status().unwrap().success()
    });
}

/// A container of docker's, removed when the test ends, its image too.
struct Docker {
    id: String,
    image: String,
}

impl Docker {
    fn run(image: &str, port: u16) -> Self {
        let publish = format!("127.0.0.1:{port}:8081");
        let id = run(Command::new("docker").args(["run", "-d", "--pull=never", "-p", &publish, image]));
        Self { id, image: image.into() }
    }

    fn exec(&self, command: &str) -> String {
        run(Command::new("docker").args(["exec", &self.id, "/bin/bash", "-c", command]))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-f", &self.id]).output();
        let _ = Command::new("docker").args(["rmi", "-f", &self.image]).output();
    }
}

/// A containerd namespace for `ctr`, emptied when the test ends.
struct Ctr(String);

impl Ctr {
    fn new(name: &str) -> Self {
        Self(format!("fnbuild-walk-{name}-{}", std::process::id()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--namespace", &self.0]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments))
    }

    /// Starts the image on the host's network and makes the walk-through's call.
    fn call(&self, image: &str) -> String {
        let port = free_port();
        self.run(&["run", "-d", "--net-host", "--env", &format!("PORT={port}"), image, "func"]);
        let url = format!("http://127.0.0.1:{port}");
        wait_for_answer(&url);
        let answer = post(&url);
        let _ = self.command(&["task", "rm", "-f", "func"]).output();
        self.run(&["container", "rm", "func"]);
        answer
    }
}

impl Drop for Ctr {
    fn drop(&mut self) {
        let _ = self.command(&["task", "rm", "-f", "func"]).output();
        let _ = self.command(&["container", "rm", "func"]).output();
        let images = self.command(&["images", "ls", "-q"]).output().unwrap().stdout;
        for image in String::from_utf8_lossy(&images).lines() {
            let _ = self.command(&["images", "rm", "--sync", image]).output();
        }
        let _ = Command::new("ctr").args(["namespace", "rm", &self.0]).output();
    }
}

fn zipped(source: &Path, into: &Path) -> PathBuf {
    let zip = into.join("func.zip");
    run(Command::new("zip").arg("-q").arg(&zip).arg("func.py").current_dir(source));
    zip
}

#[test]
fn the_original_walk_through_works() {
    let server = FnbuildServer::start();
    let folder = tempfile::tempdir().unwrap();
    let zip = zipped(&example("walkthrough"), folder.path());
    run(server.command().arg("push").arg(&zip));

    // (a) at the trigger
    assert_eq!(post(&format!("{}/function/func", server.url())), "null");
    let log = || run(server.command().args(["logs", "func"]));
    wait_until("the print to reach the log", Duration::from_secs(10), || log().contains("3 + 5 = 8"));

    // (b) at the container's own address
    let described: Value =
        serde_json::from_str(&run(server.command().args(["describe", "func", "-o", "json"]))).unwrap();
    let replica = &described["replicas"][0];
    assert_eq!(replica["port"], 8081, "{described}");
    assert_eq!(post(&format!("http://{}:8081", replica["address"].as_str().unwrap())), "null");

    let image = format!("{}/fn/func:latest", server.registry().host());
    let image = image.replace("127.0.0.1", "localhost");

    // (c) and (f) docker pull, run, exec, and the address that docker gives it
    run(Command::new("docker").args(["pull", "-q", &image]));
    let port = free_port();
    let docker = Docker::run(&image, port);
    wait_for_answer(&format!("http://127.0.0.1:{port}"));
    assert_eq!(post(&format!("http://127.0.0.1:{port}")), "null");
    let template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = run(Command::new("docker").args(["inspect", "-f", template, &docker.id]));
    assert_eq!(post(&format!("http://{address}:8081/")), "null");
    assert!(docker.exec("ls").contains("func.py"));
    assert!(docker.exec("cat func.py").contains("def run(x, y):"));
    assert!(docker.exec("ps").contains("fnbuild_runtime"));

    // (g) docker save, ctr import, ctr run
    let saved = folder.path().join("f.tar");
    run(Command::new("docker").args(["save", &image, "-o"]).arg(&saved));
    let ctr = Ctr::new("saved");
    ctr.run(&["images", "import", &saved.to_string_lossy()]);
    assert_eq!(ctr.call(&image), "null");

    // (d) ctr pull and run
    let ctr = Ctr::new("pulled");
    ctr.run(&["images", "pull", "--plain-http", &image]);
    assert_eq!(ctr.call(&image), "null");
}

#[test]
fn the_walk_throughs_image_loads_from_a_docker_archive() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("func.tar");
    // A name of this test's own, as docker's images are everybody's.
    let name = format!("walk-{}", std::process::id());
    let output = format!("docker-archive:{}", archive.display());
    run(super::support::fnbuild()
        .args(["build", "--name", &name, "-o", &output, "--data-dir"])
        .arg(super::support::base::base())
        .arg(example("walkthrough")));

    run(Command::new("docker").arg("load").arg("-i").arg(&archive));
    let port = free_port();
    let _docker = Docker::run(&format!("fn/{name}:latest"), port);
    wait_for_answer(&format!("http://127.0.0.1:{port}"));
    assert_eq!(post(&format!("http://127.0.0.1:{port}")), "null");

    let ctr = Ctr::new("archive");
    ctr.run(&["images", "import", &archive.to_string_lossy()]);
    assert_eq!(ctr.call(&format!("docker.io/fn/{name}:latest")), "null");
}

#[test]
fn every_example_is_pushed_and_answers() {
    let server = FnbuildServer::start();
    let zips = tempfile::tempdir().unwrap();
    run(Command::new(example("zip")).arg(zips.path()));
    let push = |source: &Path| run(server.command().args(["push", "--quiet"]).arg(source));

    push(&example("add"));
    assert_eq!(server.call("add", &json!({"x": 3, "y": 5})), (200, "8".into()));

    push(&zips.path().join("wordcount.zip"));
    let (status, answer) = server.call("wordcount", &json!({"text": "The cat and the other cat", "top": 1}));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, answer), (200, json!({"words": 3, "top": [["cat", 2]]})));

    push(&zips.path().join("markdown.zip"));
    let (status, answer) = server.call("markdown", &json!({"text": "# hello"}));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, answer), (200, json!({"html": "<h1>hello</h1>"})));

    push(&example("broken"));
    let (status, answer) = server.call("broken", &json!({"reason": "on purpose"}));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(
        (status, &answer["errorType"], &answer["errorMessage"]),
        (500, &json!("RuntimeError"), &json!("on purpose"))
    );
}

#[test]
fn packages_from_requirements_are_there_when_the_function_runs() {
    let server = FnbuildServer::start();
    let uv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/uv");
    let push = |name: &str| {
        let mut command = server.command();
        if uv.exists() {
            command.env("FNBUILD_UV", &uv);
        }
        run(command.args(["push", "--quiet"]).arg(example(name)))
    };

    push("stats");
    let (status, answer) = server.call("stats", &json!({"values": [1, 2, 3, 4]}));
    let answer: Value = serde_json::from_str(&answer).unwrap_or(Value::String(answer));
    assert_eq!((status, &answer["mean"]), (200, &json!(2.5)), "{answer}");

    push("thumbnail");
    let pixel =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let (status, answer) = server.call("thumbnail", &json!({"image": pixel}));
    assert_eq!(status, 200, "{answer}");
}
