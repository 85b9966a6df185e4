//! Requirements to layers: the real uv, the real index.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use fnbuild::dependencies::{
    Cause, Dependencies, DependencyError, Installed, Lock, Machine, Options, Requirements, Target, platform,
};
use tempfile::TempDir;

use crate::support::{fnbuild, run, run_failing};

/// uv as `scripts/setup` installs it, else the one on `PATH`.
pub fn uv() -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/uv")).filter(|path| path.exists())
}

fn open(data: &Path, options: Options) -> Dependencies {
    let machine = Machine::of_this_process(data);
    let machine = match uv() {
        Some(uv) => machine.with_uv(uv),
        None => machine,
    };
    Dependencies::open(data, machine, options).unwrap()
}

fn on(text: &str) -> Target {
    Target { python: (3, 11, 2), glibc: (2, 36), platform: platform(text).unwrap() }
}

fn list(text: &str) -> Requirements {
    Requirements::parse("requirements.txt", text.as_bytes()).unwrap()
}

fn resolve(dependencies: &Dependencies, text: &str) -> Result<Lock, DependencyError> {
    dependencies.resolve(&list(text), &[on("linux/amd64")])
}

/// The files of a layer, and their modes.
fn files(installed: &Installed) -> BTreeMap<String, (u32, Vec<u8>)> {
    let layer = flate2::read::MultiGzDecoder::new(installed.layer.open().unwrap());
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        found.insert(path, (entry.header().mode().unwrap(), bytes));
    }
    found
}

const PACKAGES: &str = "function/.fnbuild/packages/";

#[test]
fn each_platform_gets_its_own_wheels_and_the_same_lock_the_same_layer() {
    let (data, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let dependencies = open(data.path(), Options::default());
    let targets = [on("linux/amd64"), on("linux/arm64")];
    let requirements = list("numpy==2.4.6\nsix==1.17.0");
    let lock = dependencies.resolve(&requirements, &targets).unwrap();
    let read = Lock::parse("requirements.lock", lock.render().as_bytes()).unwrap();
    read.check(&requirements, &targets).unwrap();

    for (target, machine) in targets.iter().zip([62u16, 183]) {
        let installed = dependencies.layer(&lock, target).unwrap();
        assert!(installed.is_new);
        let files = files(&installed);
        let code: Vec<_> = files.iter().filter(|(_, (_, bytes))| bytes.starts_with(b"\x7fELF")).collect();
        assert!(code.len() > 10, "{} files of machine code", code.len());
        for (path, (_, bytes)) in code {
            assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), machine, "{path}");
        }
        let (mode, compiled) = &files[&format!("{PACKAGES}__pycache__/six.cpython-311.pyc")];
        // PEP 552: CPython 3.11's number, then the flags of a hash that is not checked.
        assert_eq!((*mode, &compiled[..8]), (0o644, &[0xa7, 0x0d, 0x0d, 0x0a, 1, 0, 0, 0][..]));
        assert!(!files.keys().any(|path| path.starts_with(&format!("{PACKAGES}bin"))), "programs were kept");
        assert!(files.keys().all(|path| path.starts_with("function/.fnbuild")), "a file outside");
        if machine == 62 {
            let elsewhere = open(other.path(), Options::default()).layer(&read, target).unwrap();
            assert_eq!(elsewhere.descriptor, installed.descriptor);
        }
    }
}

#[test]
fn a_second_function_with_the_same_list_installs_nothing() {
    let data = TempDir::new().unwrap();
    let targets = [on("linux/amd64")];
    let first = open(data.path(), Options::default());
    let resolution = first.resolve_once(&list("six # mine"), &targets).unwrap();
    assert!(resolution.is_new);
    let installed = first.layer(&resolution.lock, &targets[0]).unwrap();

    // There is no uv any more: whatever would resolve or install fails.
    let machine = Machine::of_this_process(data.path()).with_uv("/nonexistent/uv".into());
    let second = Dependencies::open(data.path(), machine, Options::default()).unwrap();
    let resolution = second.resolve_once(&list("Six"), &targets).unwrap();
    let again = second.layer(&resolution.lock, &targets[0]).unwrap();
    assert!(!resolution.is_new && !again.is_new);
    assert_eq!((again.descriptor, again.diff_id), (installed.descriptor, installed.diff_id));
    assert!(matches!(resolve(&second, "idna"), Err(DependencyError::NoUv { .. })));
}

#[test]
fn what_cannot_be_had_is_the_resolvers_own_message() {
    let data = TempDir::new().unwrap();
    let dependencies = open(data.path(), Options::default());
    for (text, cause, says) in [
        ("sgmllib3k", Cause::NoWheel, "sgmllib3k==1.0.0 has no usable wheels"),
        ("fnbuild-there-is-no-such-package", Cause::NotFound, "was not found in the package registry"),
        ("flask==2.3.2\nwerkzeug==1.0", Cause::Conflict, "flask==2.3.2 depends on werkzeug>=2.3.3"),
    ] {
        match resolve(&dependencies, text).unwrap_err() {
            DependencyError::Unresolvable { message, cause: found } => {
                assert_eq!(found, cause, "{message}");
                assert!(message.contains(says) && message.len() < 500, "{message}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn hashes_in_the_list_are_held_against_what_is_found() {
    let data = TempDir::new().unwrap();
    let dependencies = open(data.path(), Options::default());
    let six = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274";
    let lock = resolve(&dependencies, &format!("six==1.17.0 --hash=sha256:{six}")).unwrap();
    assert!(lock.render().contains(six));
    let wrong = format!("six==1.17.0 \\\n  --hash=sha256:{}", "0".repeat(64));
    assert!(matches!(resolve(&dependencies, &wrong), Err(DependencyError::HashMissing { .. })));
}

#[test]
fn without_the_network_the_cache_is_enough() {
    let data = TempDir::new().unwrap();
    let target = on("linux/amd64");
    let online = open(data.path(), Options::default());
    let lock = resolve(&online, "six==1.17.0").unwrap();
    let installed = online.layer(&lock, &target).unwrap();
    // Only uv's own cache is left.
    std::fs::remove_dir_all(data.path().join("cache/dependencies")).unwrap();

    let offline = open(data.path(), Options { offline: true, ..Options::default() });
    let lock = resolve(&offline, "six==1.17.0").unwrap();
    let again = offline.layer(&lock, &target).unwrap();
    assert!(again.is_new);
    assert_eq!(again.descriptor, installed.descriptor);
    let unknown = resolve(&offline, "idna").unwrap_err();
    assert!(matches!(unknown, DependencyError::Unresolvable { cause: Cause::Offline, .. }), "{unknown}");
}

#[test]
fn bounds_and_options_are_held() {
    let data = TempDir::new().unwrap();
    let small = open(data.path(), Options { max_unpacked: 1000, ..Options::default() });
    let lock = resolve(&small, "six").unwrap();
    let error = small.layer(&lock, &on("linux/amd64")).unwrap_err();
    assert!(matches!(error, DependencyError::TooLarge { limit: 1000 }), "{error}");

    let mut alone = list("flask==2.3.2");
    alone.no_deps = true;
    let lock = small.resolve(&alone, &[on("linux/amd64")]).unwrap();
    assert_eq!(lock.pins(&on("linux/amd64")).len(), 1);
    assert!(resolve(&small, "flask==2.3.2").unwrap().pins(&on("linux/amd64")).len() > 3);
}

#[test]
fn pillow_is_imported_from_the_layer() {
    let data = TempDir::new().unwrap();
    let dependencies = open(data.path(), Options::default());
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let target = on(&format!("linux/{architecture}"));
    let lock = dependencies.resolve(&list("Pillow"), std::slice::from_ref(&target)).unwrap();
    let installed = dependencies.layer(&lock, &target).unwrap();
    let layer = flate2::read::MultiGzDecoder::new(installed.layer.open().unwrap());
    tar::Archive::new(layer).unpack(data.path()).unwrap();
    let code = "from PIL import Image; print(Image.new('RGB', (8, 4)).resize((2, 1)).size)";
    let mut python = Command::new("python3.11");
    python.args(["-S", "-c", code]).env("PYTHONPATH", data.path().join(PACKAGES));
    assert_eq!(run(&mut python), "(2, 1)");
}

fn lock(source: &Path, data: &Path) -> Command {
    let mut command = fnbuild();
    command.args(["lock"]).arg(source).arg("--data-dir").arg(data);
    if let Some(uv) = uv() {
        command.env("FNBUILD_UV", uv);
    }
    command
}

fn function(requirements: &str) -> (TempDir, TempDir) {
    let (source, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(source.path().join("func.py"), "def run():\n    pass\n").unwrap();
    std::fs::write(source.path().join("requirements.txt"), requirements).unwrap();
    (source, data)
}

#[test]
fn a_lock_is_written_into_the_folder_and_found_there() {
    use fnbuild::dependencies::{Places, Wanted};
    use fnbuild::source::{Options, Source};

    let (folder, data) = function("six==1.17.0\n");
    let path = folder.path().join("requirements.lock");
    let said = run(lock(folder.path(), data.path()).args(["--platform", "linux/amd64,linux/arm64"]));
    assert_eq!(said, path.display().to_string());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("# platforms: linux/amd64 linux/arm64\n") && text.contains("six==1.17.0 \\\n"),
        "{text}"
    );

    let wanted = || {
        let source = Source::open(folder.path(), &Options::default()).unwrap();
        Wanted::of(&source, Places { source: Some(folder.path()), ..Places::default() }).unwrap().unwrap()
    };
    assert!(wanted().checked_lock(&[on("linux/arm64")]).unwrap().is_some());
    std::fs::write(folder.path().join("requirements.txt"), "six==1.16.0\n").unwrap();
    let stale = wanted().checked_lock(&[on("linux/arm64")]).unwrap_err();
    assert!(
        stale.to_string().contains("no longer fits") && stale.hint().unwrap().contains("fnbuild lock"),
        "{stale}"
    );
}

#[test]
fn what_a_stranger_may_not_write_is_refused_with_its_line() {
    let (folder, data) = function("six\n--extra-index-url https://example.org/simple\n");
    let said = run_failing(&mut lock(folder.path(), data.path()), 1);
    assert!(said.contains("requirements.txt, line 2: options are not taken"), "{said}");
    assert!(said.contains("hint: ") && !folder.path().join("requirements.lock").exists(), "{said}");
}

#[test]
fn configuration_that_lies_in_the_source_decides_nothing() {
    let (folder, data) = function("six==1.17.0\n");
    let elsewhere = "index-url = \"http://127.0.0.1:9/simple\"\n";
    std::fs::write(folder.path().join("uv.toml"), elsewhere).unwrap();
    std::fs::write(folder.path().join("pyproject.toml"), format!("[tool.uv]\n{elsewhere}")).unwrap();
    std::fs::write(folder.path().join(".env"), "UV_INDEX_URL=http://127.0.0.1:9/simple\n").unwrap();
    run(lock(folder.path(), data.path()).current_dir(folder.path()));
    // What this machine says does decide.
    let said = run_failing(
        lock(folder.path(), data.path()).env("UV_INDEX_URL", "http://me:secret@127.0.0.1:9/s"),
        1,
    );
    assert!(said.contains("127.0.0.1:9") && !said.contains("secret"), "{said}");
}
