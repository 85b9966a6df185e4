//! `fnbuild build`: the same digest from the same source, images that the field's own tools take, refusals that help.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fnbuild::image::Layout;
use fnbuild::oci::{ImageConfig, ImageManifest};
use serde_json::Value;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::push::Home;
use super::support::base::data_dir;
use super::support::registry::DockerRegistry;
use super::support::{run, run_failing, wait_until};

const ADD: &str = "def run(x, y):\n    return x + y\n";

/// A zip of these files, made anew each time.
fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in files {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn build(home: &Home, source: &str, more: &[&str]) -> Value {
    let text = run(home.fnbuild("localhost:1").args(["build", source, "-o", "json"]).args(more));
    serde_json::from_str(&text).unwrap()
}

/// The image that a layout has under a tag.
fn opened(folder: &Path, tag: &str) -> (ImageManifest, ImageConfig) {
    let layout = Layout::open(folder).unwrap();
    let manifest: ImageManifest = layout.read_json("the manifest", &layout.resolve(tag).unwrap()).unwrap();
    let config = layout.read_json("the config", &manifest.config).unwrap();
    (manifest, config)
}

#[test]
fn the_same_source_is_the_same_image_in_every_form_place_and_time() {
    let build_all = || {
        let home = Home::new();
        std::fs::write(home.path("a.zip"), zipped(&[("func.py", ADD), ("b/c.txt", "c")])).unwrap();
        std::fs::create_dir_all(home.path("a/b")).unwrap();
        home.write("a/func.py", ADD);
        home.write("a/b/c.txt", "c");
        ["func.py", "a.zip", "a"].map(|source| {
            let first = build(&home, source, &["-o", "oci:one"]);
            let again = build(&home, source, &["-o", "oci:two"]);
            assert_eq!(first["digest"], again["digest"], "{source}");
            first["digest"].as_str().unwrap().to_string()
        })
    };
    let first = build_all();
    // A zip's and a file's time stamps have two seconds' and one second's grain.
    let begun = std::time::Instant::now();
    wait_until("another second", Duration::from_secs(5), || begun.elapsed() > Duration::from_millis(2100));
    assert_eq!(first, build_all());
}

#[test]
fn one_build_fills_several_places_with_the_same_image() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let text =
        run(home.fnbuild(&server.host()).args(["build", "func.py", "-o", "json", "-o", "registry"]).args([
            "-o",
            "oci:out:v1",
            "-o",
            "docker-archive:func.tar",
            "--tag",
            "a",
            "--tag",
            "b",
            "--label",
            "team=core",
            "--annotation",
            "note=hello",
            "--image-env",
            "MODE=fast",
        ]));
    let report: Value = serde_json::from_str(&text).unwrap();
    let digest = report["digest"].as_str().unwrap();
    let outputs = report["outputs"].as_array().unwrap();
    let states = |output: &Value| {
        let layers = output["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["state"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(outputs.iter().map(states).collect::<Vec<_>>(), [["new"; 4]; 3]);
    assert!(outputs[1]["to"].as_str().unwrap().ends_with("out:v1"), "{report}");
    assert!(report["times"]["all"].as_f64().unwrap() >= report["times"]["build"].as_f64().unwrap());
    let mut again = home.fnbuild(&server.host());
    let again = again.args(["build", "func.py", "-v", "-o", "oci:out:v2"]).output().unwrap();
    let said = String::from_utf8(again.stderr).unwrap();
    assert_eq!(said.matches(" present ").count(), 4, "labels are no part of a layer: {said}");
    assert!(said.contains(" all ") && said.contains(" ms"), "{said}");
    for tag in ["a", "b"] {
        let found = run(Command::new("skopeo")
            .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
            .arg(format!("docker://{}/fn/func:{tag}", server.host())));
        assert_eq!(found, digest, "{tag}");
    }
    let inspected = run(Command::new("skopeo")
        .args(["inspect", "--raw"])
        .arg(format!("oci:{}:v1", home.path("out").display())));
    assert_eq!(fnbuild::oci::Digest::of(inspected).to_string(), digest);
    let (manifest, config) = opened(&home.path("out"), "v1");
    assert_eq!(manifest.annotations["note"], "hello");
    assert_eq!(config.config.labels["team"], "core");
    assert_eq!(config.config.labels["io.fnbuild.entry"], "func:run");
    assert!(config.config.env.contains(&"MODE=fast".to_string()));
    let listed = run(Command::new("tar").arg("-tf").arg(home.path("func.tar")));
    assert!(listed.lines().any(|line| line == "manifest.json"), "{listed}");
}

#[test]
fn the_time_of_the_image_is_that_of_source_date_epoch() {
    let home = Home::new();
    run(home
        .fnbuild("localhost:1")
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .args(["build", "func.py", "-o", "oci:out"]));
    let (_, config) = opened(&home.path("out"), "latest");
    assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    let stderr = run_failing(
        home.fnbuild("localhost:1").env("SOURCE_DATE_EPOCH", "noon").args(["build", "func.py"]),
        2,
    );
    assert!(stderr.contains("noon"), "{stderr}");
}

#[test]
fn what_fnbuild_says_of_an_image_cannot_be_overruled() {
    let home = Home::new();
    for verb in ["build", "push"] {
        for (flag, value) in [("--label", "io.fnbuild.entry=a:b"), ("--image-env", "FNBUILD_ENTRY=a:b")] {
            let stderr = run_failing(home.fnbuild("localhost:1").args([verb, "func.py", flag, value]), 2);
            assert!(stderr.contains("fnbuild's own") || stderr.contains("--entry"), "{stderr}");
        }
    }
}

/// Every refusal through the real program: exit code 1, what is wrong, what to do; and nothing is written or sent.
#[test]
fn a_bad_source_is_refused_with_its_reason_and_a_next_step() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    let write = |name: &str, bytes: &[u8]| std::fs::write(home.path(name), bytes).unwrap();
    write("no-func.zip", &zipped(&[("main.py", ADD)]));
    write("no-run.zip", &zipped(&[("func.py", "def main():\n    pass\n")]));
    write("outside.zip", &zipped(&[("func.py", ADD), ("../../etc/cron.d/x", "x")]));
    write("text.zip", b"this is not a zip");
    write("empty.zip", b"");
    write("dot.net.py", ADD.as_bytes());
    std::fs::create_dir(home.path("bare")).unwrap();
    for (source, name, reason, hint) in [
        ("no-func.zip", "f", "there is no func.py", "--entry"),
        ("no-run.zip", "f", "func.py defines no run", "--entry"),
        ("outside.zip", "f", "../../etc/cron.d/x", "zip"),
        ("text.zip", "f", "not a zip", "give a .zip"),
        ("empty.zip", "f", "not a zip", "give a .zip"),
        ("bare", "f", "there is no func.py", "--entry"),
        ("dot.net.py", "f", "no Python module", "rename the file"),
    ] {
        for verb in [&["build", "-o", "oci:out"][..], &["push", "--image-only"]] {
            let mut command = home.fnbuild(&server.host());
            let stderr = run_failing(command.args(verb).args(["--name", name]).arg(source), 1);
            assert!(stderr.starts_with("error: ") && stderr.contains(reason), "{source}: {stderr}");
            let told = stderr.lines().find(|line| line.starts_with("hint: "));
            assert!(told.is_some_and(|told| told.contains(hint)), "{source}: {stderr}");
        }
    }
    let stderr = run_failing(home.fnbuild(&server.host()).args(["build", "no such.zip"]), 1);
    assert!(stderr.contains("no such.zip"), "{stderr}");
    std::fs::rename(home.path("func.py"), home.path("Bad name.py")).unwrap();
    let stderr = run_failing(home.fnbuild(&server.host()).args(["build", "Bad name.py"]), 1);
    assert!(stderr.contains("--name"), "{stderr}");
    assert!(!home.path("out").exists());
    let manifests = server.dir.path().join("data/docker/registry/v2/repositories/fn");
    assert!(!manifests.exists(), "something was pushed");
}

/// A real base with a zip's entries spliced onto it, as the archive and the layout that other tools read: gzip members by the
/// dozen, of which a reader that stops at the first would lose all but one.
struct Built {
    data: tempfile::TempDir,
    digest: String,
}

impl Built {
    fn new() -> Self {
        let data = data_dir();
        let words = WORDS.repeat(10_000);
        let zip = zipped(&[("func.py", ADD), ("words/many.txt", &words), ("words/one.txt", WORDS)]);
        std::fs::write(data.path().join("add.zip"), zip).unwrap();
        let mut command = super::support::fnbuild();
        command.current_dir(data.path()).args(["build", "add.zip", "--data-dir", ".", "-o", "oci:out:add"]);
        let digest = run(command.args(["-o", "docker-archive:add.tar", "--tag", "it-build"]));
        Self { data, digest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }
}

/// What is in the image, run by its own Python without a server: the entry point answers.
const CALL: &str = "import sys; sys.path.insert(0, '/function'); import func; \
    print(func.run(3, 5), len(open('/function/words/many.txt').read()), open('/function/words/one.txt').read())";
const WORDS: &str = "one two three ";
const ANSWER: &str = "8 140000 one two three";

#[test]
fn docker_loads_the_archive_and_runs_it() {
    let built = Built::new();
    run(Command::new("docker").arg("load").arg("-i").arg(built.path("add.tar")));
    let said = run(Command::new("docker")
        .args(["run", "--rm", "--network", "none", "fn/add:it-build"])
        .args(["python3", "-c", CALL]));
    run(Command::new("docker").args(["rmi", "fn/add:it-build"]));
    assert_eq!(said, ANSWER);
}

#[test]
fn containerd_imports_the_archive() {
    let built = Built::new();
    let namespace = format!("fnbuild-it-build-{}", std::process::id());
    let ctr = |arguments: &[&str]| run(Command::new("ctr").args(["-n", &namespace]).args(arguments));
    let archive = built.path("add.tar");
    ctr(&["images", "import", archive.to_str().unwrap()]);
    let names = ctr(&["images", "list", "-q"]);
    for name in names.lines() {
        ctr(&["images", "rm", "--sync", name]);
    }
    run(Command::new("ctr").args(["namespaces", "rm", &namespace]));
    assert!(names.contains("fn/add:it-build"), "{names}");
}

#[test]
fn umoci_unpacks_the_layout_and_buildah_builds_on_it() {
    let built = Built::new();
    let (layout, bundle) = (built.path("out"), built.path("bundle"));
    run(Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:add", layout.display()))
        .arg(&bundle));
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/function/func.py")).unwrap(), ADD);
    let found = run(Command::new("skopeo")
        .args(["inspect", "--format", "{{.Digest}}"])
        .arg(format!("oci:{}:add", layout.display())));
    assert_eq!(found, built.digest);
    let storage = built.path("storage");
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        // It makes the layout's path part of a name, which a temporary folder's own path would not fit.
        command
            .current_dir(built.data.path())
            .arg("--root")
            .arg(storage.join("root"))
            .arg("--runroot")
            .arg(storage.join("run"));
        run(command.args(["--storage-driver", "vfs"]).args(arguments))
    };
    let container = buildah(&["from", "oci:out:add"]);
    let said = buildah(&["run", "--isolation", "chroot", &container, "--", "python3", "-c", CALL]);
    buildah(&["rm", &container]);
    assert_eq!(said, ANSWER);
}
