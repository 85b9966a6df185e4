//! Images for another CPU than this machine's, and for several at once.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fnbuild::base::DEFAULT;
use fnbuild::image::{Base, Layout};
use fnbuild::oci::{ImageIndex, ImageManifest, Platform, media_type};
use serde_json::{Value, json};

use super::dependencies::uv;
use super::support::base::{base, bases_of_two_platforms};
use super::support::registry::DockerRegistry;
use super::support::server::FnbuildServer;
use super::support::{Server, fnbuild, free_port, run, run_failing, wait_until};

const BOTH: &str = "linux/amd64,linux/arm64";

fn arm64() -> Platform {
    Platform { architecture: "arm64".into(), os: "linux".into(), variant: None }
}

/// The program with bases for two platforms.
fn program(registry: &str) -> Command {
    let mut command = fnbuild();
    command.env("FNBUILD_DATA_DIR", bases_of_two_platforms()).env("FNBUILD_REGISTRY", registry);
    command.envs(uv().map(|uv| ("FNBUILD_UV", uv)));
    command
}

fn inspect(reference: &str) -> Value {
    let raw = run(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", reference]));
    serde_json::from_str(&raw).unwrap()
}

#[test]
fn a_base_is_kept_for_each_platform_under_one_name() {
    let data = bases_of_two_platforms();
    let listed = run(fnbuild().args(["base", "list", "-o", "json", "--data-dir"]).arg(&data));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let platforms: Vec<_> = listed.as_array().unwrap().iter().map(|row| &row["platform"]).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let open = |data: &Path| Base::open(&Layout::open(data.join("bases")).unwrap(), DEFAULT).unwrap();
    assert_eq!(open(&data).descriptor, open(&base()).descriptor, "this machine's is what it was");

    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("func.py"), "def run(): pass\n").unwrap();
    let mut command = fnbuild();
    command.args(["build", "--platform", "linux/arm64", "--name", "f", "--data-dir"]).arg(base());
    let said = run_failing(command.arg(source.path()), 1);
    assert!(said.contains("is for linux/amd64, not for linux/arm64"), "{said}");
    assert!(said.contains("--platform linux/arm64"), "{said}");
}

/// Unpacks an image of a layout, as a runtime would.
fn unpack(layout: &Layout, manifest: &ImageManifest, root: &Path) {
    for layer in &manifest.layers {
        let blob = layout.blob_path(&layer.digest);
        run(Command::new("tar").arg("-xzf").arg(blob).arg("-C").arg(root));
    }
}

/// Every file of machine code below a folder, and the CPU that it is for (gABI, "ELF Header").
fn machines(folder: &Path, found: &mut Vec<u16>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            machines(&path, found);
        } else {
            let mut header = [0; 20];
            if fs::File::open(&path).unwrap().read_exact(&mut header).is_ok()
                && header.starts_with(b"\x7fELF")
            {
                found.push(u16::from_le_bytes([header[18], header[19]]));
            }
        }
    }
}

#[test]
fn the_arm64_image_holds_aarch64_code_and_answers_under_qemu() {
    let folder = tempfile::tempdir_in(bases_of_two_platforms()).unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let out = folder.path().join("out");
    let to = format!("oci:{}:both", out.display());
    let digest = run(program("localhost:1").args(["build", "examples/stats", "--platform", BOTH, "-o", &to]));

    let layout = Layout::open(&out).unwrap();
    let descriptor = layout.resolve("both").unwrap();
    assert_eq!((descriptor.media_type.as_str(), descriptor.digest.to_string()), (media_type::INDEX, digest));
    let index: ImageIndex = layout.read_json("the index", &descriptor).unwrap();
    assert_eq!(index.manifests.len(), 2);
    let manifest: ImageManifest =
        layout.read_json("the manifest", index.for_platform(&arm64()).unwrap()).unwrap();

    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    unpack(&layout, &manifest, &root);
    let mut found = Vec::new();
    machines(&root.join("usr"), &mut found);
    let base = found.len();
    machines(&root.join("function/.fnbuild/packages/numpy"), &mut found);
    assert!(base > 50 && found.len() > base + 10, "{base} and {} files of machine code", found.len());
    assert!(found.iter().all(|machine| *machine == 183), "{found:?}");

    // By the emulator alone: what is registered with the kernel is the machine's affair.
    fs::copy("/usr/bin/qemu-aarch64-static", root.join("qemu")).unwrap();
    let port = free_port();
    let mut command = Command::new("chroot");
    command.arg(&root).args(["/qemu", "/usr/bin/python3.11", "-P", "-m", "fnbuild_runtime"]);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/usr/sbin")
        .env("PORT", port.to_string())
        .env("FNBUILD_ENTRY", "func:run");
    let _server = Server::start(&mut command);
    wait_until("the runtime", Duration::from_secs(240), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let body = json!({ "values": [1, 2, 3, 4] }).to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("2.5"), "{answer}");
}

#[test]
fn several_platforms_are_an_index_and_one_is_a_plain_manifest() {
    let server = DockerRegistry::start();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("func.py"), "def run(x, y):\n    return x + y\n").unwrap();
    let push = |platforms: &str| -> Value {
        let mut command = program(&server.host());
        command.args(["push", "--image-only", "--name", "f", "--platform", platforms, "-o", "json"]);
        command.args(["--tag", "latest", "--tag", "v1"]).arg(source.path());
        serde_json::from_str(&run(&mut command)).unwrap()
    };
    let first = push(BOTH);
    let reference = |tag: &str| format!("docker://{}/fn/f:{tag}", server.host());
    for tag in ["latest", "v1"] {
        let index: ImageIndex = serde_json::from_value(inspect(&reference(tag))).unwrap();
        let platforms: Vec<_> = index
            .manifests
            .iter()
            .map(|entry| entry.platform.as_ref().unwrap().architecture.as_str())
            .collect();
        assert_eq!((index.media_type.as_str(), platforms), (media_type::INDEX, vec!["amd64", "arm64"]));
    }
    let again = push("linux/arm64,linux/amd64");
    assert_eq!((&again["unchanged"], &again["digest"]), (&json!(true), &first["digest"]));
    let config = run(Command::new("skopeo").args([
        "--override-arch",
        "arm64",
        "inspect",
        "--config",
        "--tls-verify=false",
        &reference("v1"),
    ]));
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap()["architecture"], "arm64");

    // The code and what fnbuild says of it are the same for both: one layer, uploaded once.
    let states = first["layers"].as_array().unwrap();
    assert_eq!(states.len(), 3 + 3 + 1 - shared_layers(), "{first}");

    let one = push("linux/arm64");
    let manifest: ImageManifest = serde_json::from_value(inspect(&reference("latest"))).unwrap();
    assert_eq!(manifest.media_type, media_type::MANIFEST);
    assert_ne!(one["digest"], first["digest"]);

    // Nothing is taken for what it is not.
    let only_amd64 = DockerRegistry::start();
    let push_on = |data: &Path, platform: &str| {
        let mut command = program(&only_amd64.host());
        command.env("FNBUILD_DATA_DIR", data).args([
            "push",
            "--image-only",
            "--name",
            "f",
            "--platform",
            platform,
        ]);
        command.arg(source.path());
        command
    };
    run(&mut push_on(&base(), "linux/amd64"));
    let bare = tempfile::tempdir().unwrap();
    let said = run_failing(&mut push_on(bare.path(), "linux/arm64"), 1);
    assert!(said.contains(&format!("there is no base {DEFAULT} for linux/arm64")), "{said}");

    // The registry's own base is for both now, so that a machine of either kind finds its own.
    let base = format!("docker://{}/fnbuild/base:{DEFAULT}", server.host());
    let index: ImageIndex = serde_json::from_value(inspect(&base)).unwrap();
    assert_eq!(index.manifests.len(), 2);
    let bare = tempfile::tempdir().unwrap();
    let mut command = program(&server.host());
    command.env("FNBUILD_DATA_DIR", bare.path()).args(["push", "--image-only", "--name", "f", "-o", "json"]);
    let here: Value = serde_json::from_str(&run(command.arg(source.path()))).unwrap();
    let amd64 = program(&server.host())
        .args(["push", "--image-only", "--name", "f", "--platform", "linux/amd64", "-o", "json"])
        .arg(source.path())
        .output()
        .unwrap();
    let amd64: Value = serde_json::from_slice(&amd64.stdout).unwrap();
    assert_eq!(here["digest"], amd64["digest"]);
}

/// How many layers the bases of both platforms have in common: the runtime's is Python alone.
fn shared_layers() -> usize {
    let layout = Layout::open(bases_of_two_platforms().join("bases")).unwrap();
    let layers =
        |platform: Option<&Platform>| Base::open_for(&layout, DEFAULT, platform).unwrap().manifest.layers;
    let (one, two) = (layers(None), layers(Some(&arm64())));
    let shared = one.iter().filter(|layer| two.contains(layer)).count();
    assert_eq!(shared, 1, "bytecode is the same for every CPU");
    shared
}

#[test]
fn a_server_takes_its_own_platform_of_an_index() {
    let server = FnbuildServer::start();
    let mut command = server.command();
    command.env("FNBUILD_DATA_DIR", bases_of_two_platforms());
    let pushed = run(command.args(["push", "examples/add", "--platform", BOTH, "-o", "json"]));
    let pushed: Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!(server.call("add", &json!({ "x": 3, "y": 5 })), (200, "8".into()));
    let tagged = format!("docker://{}/fn/add:1", server.registry().host());
    assert_eq!(inspect(&tagged)["mediaType"], media_type::INDEX);
    let described = run(server.command().args(["describe", "add", "-o", "json"]));
    assert_eq!(serde_json::from_str::<Value>(&described).unwrap()["digest"], pushed["digest"]);
    run(server.command().args(["delete", "add", "--images"]));
}
