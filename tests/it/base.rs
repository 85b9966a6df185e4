//! A base, really built: the same from the same lock, strict where it is told to, small, and able to run.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fnbuild::base::{DEFAULT, Lock, Locked};
use fnbuild::image::Layout;
use fnbuild::oci::{ImageConfig, ImageManifest};

use super::support::base::{base, base_build, recipe};
use super::support::registry::DockerRegistry;
use super::support::{Server, fnbuild, free_port, run, run_failing, wait_until};

fn opened(data: &Path) -> (Layout, ImageManifest, ImageConfig) {
    let layout = Layout::open(data.join("bases")).unwrap();
    let manifest: ImageManifest =
        layout.read_json("the manifest", &layout.resolve(DEFAULT).unwrap()).unwrap();
    let config = layout.read_json("the config", &manifest.config).unwrap();
    (layout, manifest, config)
}

/// A copy of the recipe whose lock can be spoiled.
fn recipe_with(change: impl FnOnce(&mut Lock)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(recipe().join("recipe.toml")).unwrap();
    let runtime = recipe().join("../../runtime").canonicalize().unwrap();
    let text = text.replace("../../runtime", &runtime.to_string_lossy());
    std::fs::write(folder.path().join("recipe.toml"), text).unwrap();
    let mut lock = Lock::open(&recipe().join("lock.toml")).unwrap().unwrap();
    change(&mut lock);
    lock.write(&folder.path().join("lock.toml")).unwrap();
    folder
}

/// A lock that names a bash which no archive has.
fn with_a_package_that_is_gone() -> tempfile::TempDir {
    recipe_with(|lock| {
        for locked in lock.architectures.values_mut() {
            let bash = locked.debian.iter_mut().find(|package| package.name == "bash").unwrap();
            (bash.version, bash.sha256) = ("1.0-gone".into(), "0".repeat(64));
        }
    })
}

#[test]
fn the_same_lock_gives_the_same_digests_and_a_successor_is_named() {
    let data = tempfile::tempdir().unwrap();
    let spoiled = with_a_package_that_is_gone();
    let output = base_build(data.path()).arg(spoiled.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("bash 1.0-gone is gone: "), "{said}");
    assert_eq!(opened(data.path()).1, opened(&base()).1);
    let left: Vec<_> = std::fs::read_dir(data.path().join("work")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_package_that_is_gone_is_refused_with_locked() {
    let data = tempfile::tempdir().unwrap();
    let spoiled = with_a_package_that_is_gone();
    let said = run_failing(base_build(data.path()).arg("--locked").arg(spoiled.path()), 1);
    assert!(said.contains("bash 1.0-gone is gone: "), "{said}");
    assert!(said.contains("hint: "), "{said}");
    assert!(Layout::open(data.path().join("bases")).unwrap().tags().unwrap().is_empty());
}

#[test]
fn an_updated_lock_is_one_that_locked_takes() {
    let data = tempfile::tempdir().unwrap();
    let spoiled = with_a_package_that_is_gone();
    run(base_build(data.path()).arg("--update").arg(spoiled.path()));
    let updated = opened(data.path()).1;
    let said = run(base_build(data.path()).args(["--locked", "--tag", "again"]).arg(spoiled.path()));
    assert!(said.starts_with("again@sha256:"), "{said}");
    let layout = Layout::open(data.path().join("bases")).unwrap();
    let again: ImageManifest = layout.read_json("the manifest", &layout.resolve("again").unwrap()).unwrap();
    assert_eq!(again.layers, updated.layers);
    // Of the platform that was asked for; the other one's part is left as it was.
    let lock = Lock::open(&spoiled.path().join("lock.toml")).unwrap().unwrap();
    let whole = |locked: &Locked| locked.debian.iter().all(|package| package.version != "1.0-gone");
    assert_eq!(lock.architectures.values().filter(|locked| whole(locked)).count(), 1);
}

#[test]
fn it_is_small_and_holds_neither_package_manager_nor_compiler() {
    let (layout, manifest, config) = opened(&base());
    assert_eq!(manifest.layers.len(), 3);
    let size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    assert!(size <= 32_000_000, "{size} bytes");
    let mut names = BTreeSet::new();
    for layer in &manifest.layers {
        let bytes = flate2::read::MultiGzDecoder::new(layout.open_blob(layer).unwrap());
        for entry in tar::Archive::new(bytes).entries().unwrap() {
            let entry = entry.unwrap();
            assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
            assert_eq!(entry.header().mode().unwrap() & 0o6000, 0, "{:?}", entry.path());
            names.insert(entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_string());
        }
    }
    for there in [
        "usr/bin/bash",
        "usr/bin/busybox",
        "usr/bin/ls",
        "usr/bin/ps",
        "usr/bin/sh",
        "usr/bin/python3",
        "function",
    ] {
        assert!(names.contains(there), "{there}");
    }
    for program in ["dpkg", "apt", "apt-get", "gcc", "cc", "perl", "pip", "pip3", "openssl"] {
        assert!(!names.contains(&format!("usr/bin/{program}")), "{program}");
    }
    assert!(!names.iter().any(|name| name.starts_with("usr/share/man/")));
    assert!(names.contains("usr/share/doc/libc6/copyright"));
    assert_eq!(config.rootfs.diff_ids.len(), 3);
    assert_eq!(config.history.len(), 3);
    assert_eq!(config.config.user.as_deref(), Some("65532:65532"));
    assert_eq!(config.config.working_dir.as_deref(), Some("/function"));
    assert!(config.config.exposed_ports.contains_key("8081/tcp"));
    assert!(config.config.labels.contains_key("io.fnbuild.runtime"));
}

/// Unpacks the base's layers.
fn unpacked() -> tempfile::TempDir {
    // Not in /tmp: that may be mounted noexec, and here programs are run.
    let folder = tempfile::tempdir_in(base()).unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (layout, manifest, _) = opened(&base());
    for layer in &manifest.layers {
        run(Command::new("tar")
            .arg("-xzf")
            .arg(layout.blob_path(&layer.digest))
            .arg("-C")
            .arg(folder.path()));
    }
    folder
}

fn inside(root: &Path) -> Command {
    let mut command = Command::new("chroot");
    command.args(["--userspec=65532:65532"]).arg(root).env_clear().env("PATH", "/usr/bin:/usr/sbin:/bin");
    command
}

#[test]
fn its_python_runs_and_answers() {
    let folder = unpacked();
    let root = folder.path();
    let imports = "import ssl, sqlite3, ctypes, zlib, lzma, bz2, readline, uuid, decimal, zoneinfo, flask, granian\n\
        assert ssl.create_default_context().cert_store_stats()['x509_ca'] > 100\n\
        zoneinfo.ZoneInfo('Europe/Berlin')\n\
        print(sqlite3.connect(':memory:').execute('select 40 + 2').fetchone()[0], flask.__cached__)";
    let said = run(inside(root).args(["python3", "-c", imports]));
    assert_eq!(said, "42 /usr/lib/python3/dist-packages/flask/__pycache__/__init__.cpython-311.pyc");
    assert_eq!(
        run(inside(root).args(["/bin/bash", "-c", "id -un; ls / | grep function; echo a | cat"])),
        "function\nfunction\na"
    );
    assert_eq!(run(inside(root).args(["/bin/sh", "-c", "echo $0"])), "/bin/sh");

    std::fs::write(root.join("function/func.py"), "def run(x, y):\n    return x + y\n").unwrap();
    let port = free_port();
    let (_, _, config) = opened(&base());
    let mut command = inside(root);
    command.args(config.config.cmd.unwrap()).env("PORT", port.to_string()).env("FNBUILD_ENTRY", "func:run");
    let _server = Server::start(&mut command);
    wait_until("the runtime", Duration::from_secs(30), || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let body = r#"{"x": 3, "y": 5}"#;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: f\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n8"), "{answer}");
}

#[test]
fn bases_are_listed_and_found() {
    let data = base();
    let listed = run(fnbuild().args(["base", "list", "-o", "json", "--data-dir"]).arg(&data));
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["name"], DEFAULT);
    let path = run(fnbuild().args(["base", "path", DEFAULT, "--data-dir"]).arg(&data));
    let manifest: ImageManifest = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(manifest, opened(&data).1);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(run(fnbuild().args(["base", "list", "-o", "json", "--data-dir"]).arg(empty.path())), "[]");
    let said = run_failing(fnbuild().args(["base", "path", "none", "--data-dir"]).arg(&data), 1);
    assert!(said.contains("none"), "{said}");
}

#[test]
fn a_recipe_that_is_not_there_and_a_platform_that_nobody_has_are_said_so() {
    let data = tempfile::tempdir().unwrap();
    let said = run_failing(base_build(data.path()).arg("/no/such/recipe"), 1);
    assert!(said.contains("/no/such/recipe/recipe.toml"), "{said}");
    let said = run_failing(base_build(data.path()).args(["--platform", "linux/vax"]).arg(recipe()), 1);
    assert!(said.contains("linux/vax"), "{said}");
}

#[test]
fn a_machine_without_a_base_takes_it_from_the_registry() {
    let registry = DockerRegistry::start();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("func.py"), "def run():\n    return 1\n").unwrap();
    let push = |data: &Path| {
        let mut command = fnbuild();
        command.args(["push", "--image-only", "--quiet", "--name", "f", "--registry", &registry.host()]);
        command.arg("--data-dir").arg(data).arg(source.path());
        command
    };

    let bare = tempfile::tempdir().unwrap();
    let stderr = run_failing(&mut push(bare.path()), 1);
    assert!(stderr.contains("there is no base") && stderr.contains("hint: build it with"), "{stderr}");

    let here = run(&mut push(&base()));
    assert_eq!(run(&mut push(bare.path())), here, "the same image upon the base that was fetched");
    assert_eq!(opened(bare.path()).1, opened(&base()).1);
}

#[test]
fn any_image_of_a_registry_can_be_imported_as_a_base() {
    let registry = DockerRegistry::start();
    // Docker's own manifest format is not ours: it has to come out right all the same.
    let name = format!("{}/team/plain:1.0", registry.host());
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY hello /\nCMD [\"/hello\"]\n")
        .unwrap();
    std::fs::write(context.path().join("hello"), "hello").unwrap();
    run(Command::new("docker").args(["build", "-q", "-t", &name]).arg(context.path()));
    run(Command::new("docker").args(["push", "-q", &name]));
    run(Command::new("docker").args(["rmi", "-f", &name]));

    let data = tempfile::tempdir().unwrap();
    let fnbuild = |arguments: &[&str]| run(fnbuild().args(arguments).arg("--data-dir").arg(data.path()));
    let imported = fnbuild(&["base", "import", &name]);
    assert!(imported.starts_with("plain-1.0@sha256:"), "{imported}");
    assert!(fnbuild(&["base", "list"]).contains("plain-1.0"));
    fnbuild(&[
        "base",
        "import",
        "--tag",
        "mine",
        &format!("{}/team/plain@{}", registry.host(), imported.split_once('@').unwrap().1),
    ]);
    assert!(fnbuild(&["base", "path", "mine"]).contains(&imported.rsplit(':').next().unwrap().to_string()));

    let source = data.path().join("func.py");
    std::fs::write(&source, "def run():\n    return 1\n").unwrap();
    fnbuild(&[
        "push",
        "--image-only",
        "--base",
        "mine",
        "--registry",
        &registry.host(),
        &source.to_string_lossy(),
    ]);
    let inspected = run(Command::new("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{}/fn/func", registry.host())));
    let manifest: ImageManifest = serde_json::from_str(&inspected).unwrap();
    assert!(
        manifest.layers.iter().all(|layer| layer.media_type.starts_with("application/vnd.oci.")),
        "{inspected}"
    );
    run(Command::new("docker").args(["pull", "-q"]).arg(format!("{}/fn/func", registry.host())));
    run(Command::new("docker").args(["rmi", "-f"]).arg(format!("{}/fn/func", registry.host())));
}
