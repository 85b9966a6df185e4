//! What a person reads when something is wrong: each error's text, its causes, its hint and its exit code, as they were
//! agreed on. By what is wrong: usage, sources, zips, packages, bases, projects, what is away, what the server refuses.

use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::support::server::FnbuildServer;
use super::support::snapshot::Snapshots;
use super::support::{base, fnbuild, free_port};

const ADD: &str = "def run(x, y):\n    return x + y\n";

/// A folder to be wrong in, and what went wrong in it so far.
struct Trial {
    folder: tempfile::TempDir,
    /// What differs from run to run, and what stands for it.
    shown_as: Vec<(String, &'static str)>,
    told: String,
}

impl Trial {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shown_as = vec![
            (folder.path().display().to_string(), "[HERE]"),
            (base::base().display().to_string(), "[BASES]"),
            (env!("CARGO_BIN_EXE_fnbuild").trim_end_matches("/fnbuild").to_string(), "[PROGRAM]"),
        ];
        Self { folder, shown_as, told: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A port where nothing listens, under one name in all that is told.
    fn closed_port(&mut self) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        self.shown_as.push((address.clone(), "[CLOSED]"));
        address
    }

    /// Runs a command that fails, and keeps what it says.
    fn fails(&mut self, arguments: &[&str]) {
        let mut command = fnbuild();
        command.env("FNBUILD_DATA_DIR", self.path("data"));
        self.command_fails(command, arguments, "");
    }

    fn command_fails(&mut self, mut command: Command, arguments: &[&str], stdin: &str) {
        command.args(arguments).current_dir(self.folder.path()).env("COLUMNS", "100");
        command.env_remove("SOURCE_DATE_EPOCH").env("DOCKER_CONFIG", self.path("docker"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that refuses its arguments reads nothing.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        assert_ne!(code, 0, "{arguments:?}: {stderr}");
        let mut told = format!("$ fnbuild {}\n{stderr}exit code {code}\n", arguments.join(" "));
        for (text, shown) in &self.shown_as {
            told = told.replace(text, shown);
        }
        let told = without_ports(&told);
        if !self.told.is_empty() {
            self.told.push('\n');
        }
        self.told += &told;
    }

    /// What was told since the last of these.
    fn told(&mut self) -> String {
        std::mem::take(&mut self.told)
    }
}

/// A port that the system chose is another each time.
fn without_ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut shown = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let port = if digits == 5 { "[PORT]" } else { &part[..digits] };
        shown += &format!("127.0.0.1:{port}{}", &part[digits..]);
    }
    shown
}

#[test]
fn what_goes_wrong_without_a_server_is_told_as_agreed() {
    let mut snapshots = Snapshots::new("errors");
    snapshots.check("usage", &usage());
    snapshots.check("sources", &sources());
    snapshots.check("zips", &zips());
    snapshots.check("packages", &packages());
    snapshots.check("bases", &bases());
    snapshots.check("projects", &projects());
    snapshots.check("away", &away());
    snapshots.check("serve", &serve());
    snapshots.check("files", &files());
    snapshots.end();
}

#[test]
fn what_the_server_refuses_is_told_as_agreed() {
    let mut snapshots = Snapshots::new("errors-of-the-server");
    snapshots.check("refusals", &refusals());
    snapshots.end();
}

fn usage() -> String {
    let mut trial = Trial::new();
    for arguments in [
        &["no-such-verb"][..],
        &["push"],
        &["invoke"],
        &["invoke", "Add"],
        &["invoke", "add@0"],
        &["new", "not_a_name"],
        &["push", "f.zip", "--remote", "--image-only"],
        &["push", "f.zip", "--attach", "a"],
        &["push", "f.zip", "--memory", "much"],
        &["push", "f.zip", "--cpu", "much"],
        &["push", "f.zip", "--timeout", "soon"],
        &["config", "add", "--memory", "1"],
        &["config", "add", "--memory", "99999Gi"],
        &["config", "add", "--cpu", "0"],
        &["config", "add", "--cpu", "2000"],
        &["config", "add", "--timeout", "99999999h"],
        &["config", "add", "--concurrency", "0"],
        &["config", "add", "--concurrency", "x"],
        &["config", "add", "--min-scale", "5", "--max-scale", "2"],
        &["config", "add", "-e", "FOO"],
        &["config", "add", "--secret", "../etc"],
        &["rollback", "add", "x"],
        &["scale", "add", "x"],
        &["logs", "add", "--tail", "x"],
        &["push", "f.zip", "--registry", "http://localhost:5000"],
        &["push", "f.zip", "--tag", "not:a:tag"],
        &["push", "f.zip", "--entry", "func"],
        &["push", "f.zip", "--platform", "plan9/mips"],
        &["push", "f.zip", "--label", "io.fnbuild.entry=x"],
        &["push", "f.zip", "--image-env", "FNBUILD_ENTRY=x:y"],
        &["push", "f.zip", "--plain-http", "--insecure"],
        &["build", "f.zip", "-o", "tar:out"],
        &["list", "-o", "yaml"],
        &["list", "--server", "https://[::1]:8080/x"],
        &["route", "add"],
        &["route", "add", "--to", "3"],
        &["secret", "create", "../db"],
        &["completions", "cmd"],
        &["man"],
    ] {
        // A variable that is set would be named among what a verb must be given.
        trial.command_fails(fnbuild(), arguments, "");
    }
    // What the environment says is not asked for in a usage, and no hidden verb is named.
    trial.fails(&["route", "add"]);
    trial.fails(&["secret"]);
    trial.fails(&[]);
    trial.told()
}

fn sources() -> String {
    let mut trial = Trial::new();
    let build = |trial: &mut Trial, more: &[&str]| {
        let mut command = fnbuild();
        command.env("FNBUILD_DATA_DIR", base::base());
        trial.command_fails(command, &[&["build", "-o", "oci:out"], more].concat(), "");
    };
    build(&mut trial, &["nothing.zip"]);
    build(&mut trial, &["/dev/null", "--name", "null"]);
    for (name, code) in [
        ("empty/other.py", ADD),
        ("none/func.py", "def other():\n    pass\n"),
        ("open/func.py", "def run(x)\n    return x\n"),
        ("newer/func.py", "type X = int\ndef run(): pass\n"),
        ("My Function/func.py", ADD),
        ("my-module.py", ADD),
        ("large.py", ADD),
        ("reserved/func.py", ADD),
        ("reserved/.fnbuild/x", ""),
        ("linked/func.py", ADD),
    ] {
        trial.write(name, code);
    }
    trial.write("latin.py", b"x = '\xe9'\n");
    symlink("/etc/passwd", trial.path("linked/passwd")).unwrap();
    build(&mut trial, &["empty"]);
    build(&mut trial, &["none"]);
    build(&mut trial, &["none", "--entry", "other:run"]);
    build(&mut trial, &["open"]);
    build(&mut trial, &["newer"]);
    build(&mut trial, &["latin.py"]);
    build(&mut trial, &["My Function"]);
    build(&mut trial, &["my-module.py"]);
    build(&mut trial, &["large.py", "--max-source", "10"]);
    build(&mut trial, &["none", "--max-unpacked", "10"]);
    build(&mut trial, &["reserved", "--max-entries", "1"]);
    build(&mut trial, &["reserved"]);
    build(&mut trial, &["linked"]);
    build(&mut trial, &["large.py", "-o", "docker-archive:nowhere/x.tar"]);
    build(&mut trial, &["large.py", "--platform", "linux/amd64,linux/arm64", "-o", "docker-archive:x.tar"]);
    trial.told()
}

/// A zip of these files, stored.
fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, text) in files {
        zip.start_file(*name, stored).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The same with these bytes in place of those, everywhere.
fn with(mut zip: Vec<u8>, old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    for at in 0..=zip.len() - old.len() {
        if &zip[at..at + old.len()] == old {
            zip[at..at + old.len()].copy_from_slice(new);
        }
    }
    zip
}

/// The same, every entry saying that it is encrypted, in both of its headers.
fn encrypted(mut zip: Vec<u8>) -> Vec<u8> {
    for (signature, flags) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
        for at in 0..zip.len() - 4 {
            if &zip[at..at + 4] == signature {
                zip[at + flags] |= 1;
            }
        }
    }
    zip
}

fn zips() -> String {
    let mut trial = Trial::new();
    let good = || zipped(&[("func.py", ADD), ("xx/y.txt", "text")]);
    let mut link = ZipWriter::new(Cursor::new(Vec::new()));
    link.start_file("func.py", SimpleFileOptions::default()).unwrap();
    link.write_all(ADD.as_bytes()).unwrap();
    link.add_symlink("out", "../../etc", SimpleFileOptions::default()).unwrap();
    for (name, bytes) in [
        ("text", b"this is not a zip".to_vec()),
        ("nothing", Vec::new()),
        ("cut-off", good()[..60].to_vec()),
        ("without-func", zipped(&[("main.py", ADD)])),
        ("climbs", with(good(), b"xx/y.txt", b"../y.txt")),
        ("absolute", with(good(), b"xx/y.txt", b"/tmp/y.t")),
        ("twice", with(zipped(&[("func.py", ADD), ("func.pz", "text")]), b"func.pz", b"func.py")),
        ("damaged", with(good(), b"return x + y", b"return x - y")),
        ("encrypted", encrypted(good())),
        ("link", link.finish().unwrap().into_inner()),
        ("reserved", zipped(&[("func.py", ADD), (".fnbuild/x", "")])),
    ] {
        let file = format!("{name}.zip");
        trial.write(&file, bytes);
        let mut command = fnbuild();
        command.env("FNBUILD_DATA_DIR", base::base());
        trial.command_fails(command, &["build", "-o", "oci:out", &file], "");
    }
    trial.told()
}

fn packages() -> String {
    let mut trial = Trial::new();
    for (folder, list) in [
        ("option", "--index-url http://example.com/\n"),
        ("url", "# a comment\nthing @ https://example.com/thing.whl\n"),
        ("path", "./here\n"),
        ("senseless", "numpy ==\n"),
    ] {
        trial.write(&format!("{folder}/func.py"), ADD);
        trial.write(&format!("{folder}/requirements.txt"), list);
    }
    trial.write("locked/func.py", ADD);
    trial.write("locked/requirements.txt", "numpy\n");
    trial.write("locked/requirements.lock", "numpy==1.0\n");
    trial.write("plain/func.py", ADD);
    trial.write("wanted/func.py", ADD);
    trial.write("wanted/requirements.txt", "numpy\n");
    let run = |trial: &mut Trial, arguments: &[&str]| {
        let mut command = fnbuild();
        command.env("FNBUILD_DATA_DIR", base::base()).env("FNBUILD_UV", "/nonexistent/uv");
        trial.command_fails(command, arguments, "");
    };
    for folder in ["option", "url", "path", "senseless", "locked"] {
        run(&mut trial, &["build", "-o", "oci:out", folder]);
    }
    run(&mut trial, &["build", "-o", "oci:out", "plain", "--requirements", "none.txt"]);
    run(&mut trial, &["lock", "plain"]);
    run(&mut trial, &["lock", "wanted"]);
    trial.told()
}

fn bases() -> String {
    let mut trial = Trial::new();
    trial.write("func.py", ADD);
    trial.write("recipe/recipe.toml", "nonsense = true\n");
    let closed = trial.closed_port();
    trial.fails(&["build", "func.py"]);
    trial.fails(&["build", "func.py", "--base", "other"]);
    trial.fails(&["push", "func.py", "--image-only", "--registry", &closed]);
    trial.fails(&["base", "build", "nowhere"]);
    trial.fails(&["base", "build", "recipe"]);
    trial.write("broken/recipe.toml", "name = \n");
    trial.fails(&["base", "build", "broken"]);
    trial.fails(&["base", "import", "Not/A/Reference:"]);
    trial.fails(&["base", "import", &format!("{closed}/python:3.11")]);
    trial.fails(&["base", "path", "other"]);
    trial.told()
}

fn projects() -> String {
    let mut trial = Trial::new();
    trial.fails(&["up"]);
    for (name, text) in [
        ("project.json", "{}"),
        ("empty.toml", ""),
        ("typo.toml", "[functions.add]\nmemroy = \"1Gi\"\n"),
        ("value.toml", "[functions.add]\ntimeout = \"soon\"\n"),
        ("scale.toml", "[functions.add]\nmin-scale = 3\nmax-scale = 2\n"),
        ("name.toml", "[functions.Add]\n"),
        ("syntax.toml", "[functions.add\n"),
        ("typo.yml", "functions:\n  add:\n    handler: ./add\n    enviroment: {}\n"),
        ("docker.yml", "functions:\n  add:\n    handler: ./add\n    build_args: {A: b}\n"),
        ("lang.yml", "functions:\n  add:\n    lang: node20\n    handler: ./add\n"),
        ("handler.yml", "functions:\n  add:\n    lang: python3\n"),
        ("replaced.yml", "functions:\n  add:\n    handler: ./a\n    environment: {HOME: \"${HOME}\"}\n"),
        ("syntax.yml", "functions: [\n"),
        ("good.toml", "[functions.add]\n"),
    ] {
        trial.write(name, text);
        if name != "good.toml" {
            trial.fails(&["up", "-f", name]);
        }
    }
    trial.fails(&["up", "-f", "none.toml"]);
    trial.fails(&["up", "-f", "good.toml", "mail"]);
    let closed = trial.closed_port();
    trial.fails(&["up", "-f", "good.toml", "--server", &format!("http://{closed}")]);
    trial.write("add/func.py", "mine");
    trial.fails(&["new", "add"]);
    trial.told()
}

fn away() -> String {
    let mut trial = Trial::new();
    trial.write("func.py", ADD);
    trial.write("password.txt", "secret");
    let closed = trial.closed_port();
    let server = format!("http://{closed}");
    trial.fails(&["list", "--server", &server]);
    trial.fails(&["invoke", "add", "--server", &server]);
    trial.fails(&["invoke", "add", "-d", "@none.json", "--server", &server]);
    trial.fails(&["logs", "add", "--server", "ftp://x"]);
    trial.fails(&["exec", "add", "--server", &server, "--", "ls"]);
    trial.fails(&["push", "func.py", "--remote", "--server", &server]);
    trial.fails(&["push", ".", "--name", "here", "--remote", "--server", &server]);
    trial.fails(&["push", "func.py", "--remote", "--label", "a=b", "--server", &server]);
    trial.fails(&["push", "func.py", "-e", "NOTHING", "--remote", "--server", &server]);
    trial.fails(&["secret", "create", "db", "--from-file", "none.txt", "--server", &server]);
    trial.command_fails(fnbuild(), &["secret", "create", "db", "--server", &server], "");
    trial.fails(&["login", &closed]);
    trial.fails(&["login", &closed, "--password-stdin"]);
    for registry in [&closed, "not a host"] {
        let login = ["login", registry, "--username", "me", "--password-stdin"];
        trial.command_fails(fnbuild(), &login, "secret\n");
    }
    let mut push = fnbuild();
    push.env("FNBUILD_DATA_DIR", base::base());
    trial.command_fails(push, &["push", "func.py", "--image-only", "--registry", &closed], "");
    let mut push = fnbuild();
    push.env("FNBUILD_DATA_DIR", base::base());
    let access = ["--registry", &closed, "--registry-ca", "none.pem"];
    trial.command_fails(push, &[&["push", "func.py", "--image-only"][..], &access].concat(), "");
    trial.told()
}

fn serve() -> String {
    let mut trial = Trial::new();
    for arguments in [
        &["--listen", "nowhere"][..],
        &["--listen", "127.0.0.1:80,127.0.0.1:80"],
        &["--namespace", "a/b"],
        &["--dns", "127.0.0.53"],
        &["--keep", "0"],
        &["--egress", "some"],
        &["--subnet", "10.0.0.0/33"],
        &["--etcd", "http://127.0.0.1:1"],
        &["--drain", "soon"],
        &["--otlp-endpoint", "collector:4317"],
        &["--trace-sample", "2"],
    ] {
        trial.fails(&[&["serve"], arguments].concat());
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    trial.shown_as.push((address.clone(), "[TAKEN]"));
    trial.fails(&["serve", "--registry", "127.0.0.1:1", "--listen", &address]);
    trial.fails(&[
        "serve",
        "--registry",
        "127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--containerd",
        "none.sock",
    ]);
    trial.write("key", "not a key");
    std::fs::set_permissions(trial.path("key"), PermissionsExt::from_mode(0o600)).unwrap();
    let key = ["--registry", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--secret-key-file", "key"];
    trial.fails(&[&["serve"][..], &key].concat());
    std::fs::set_permissions(trial.path("key"), PermissionsExt::from_mode(0o644)).unwrap();
    trial.fails(&[&["serve"][..], &key].concat());
    trial.write("newer/format", "99\n");
    trial.fails(&["serve", "--registry", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--data-dir", "newer"]);
    trial.fails(&["serve", "--registry", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--cni-plugins", "none"]);
    trial.fails(&["registry", "gc", "--data-dir", "nowhere"]);
    assert!(!trial.path("nowhere").exists());
    trial.fails(&["registry", "serve", "--listen", &address]);
    trial.write("users", "me:plain\n");
    trial.fails(&["registry", "serve", "--listen", "127.0.0.1:0", "--htpasswd", "users"]);
    trial.fails(&["registry", "serve", "--listen", "0.0.0.0:0"]);
    trial.fails(&["registry", "serve", "--listen", "127.0.0.1:0", "--mirror-of", "nowhere"]);
    trial.fails(&[
        "registry",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        "a.pem",
        "--tls-key",
        "b.pem",
    ]);
    trial.told()
}

fn files() -> String {
    let mut trial = Trial::new();
    trial.write("text.jsonl", "this is no export\n");
    trial.write("newer.jsonl", "{\"fnbuildStore\":99}\n");
    trial.write("file", "");
    trial.fails(&["store", "import", "none.jsonl"]);
    trial.fails(&["store", "import", "text.jsonl"]);
    trial.fails(&["store", "import", "newer.jsonl"]);
    trial.fails(&["store", "export", "out.jsonl"]);
    let closed = trial.closed_port();
    trial.fails(&["store", "export", "out.jsonl", "--etcd", &format!("http://{closed}")]);
    trial.fails(&["man", "--dir", "file/pages"]);
    trial.told()
}

fn refusals() -> String {
    let server = FnbuildServer::start();
    let mut trial = Trial::new();
    trial.shown_as.extend([
        (server.url(), "[SERVER]"),
        (server.registry().host(), "[REGISTRY]"),
        (server.registry().host().replace("127.0.0.1", "localhost"), "[REGISTRY]"),
    ]);
    trial.write("add.py", ADD);
    trial.write("broken.zip", "this is not a zip");
    trial.write("raises.py", "def run(why):\n    raise ValueError(why)\n");
    let push = |name: &str| {
        let mut push = server.command();
        push.args(["push", "--quiet"]).arg(Path::new(name)).current_dir(trial.folder.path());
        super::support::run(&mut push);
    };
    push("add.py");
    push("raises.py");
    let told = |arguments: &[&str]| {
        let mut command = server.command();
        let output = command.args(arguments).current_dir(trial.folder.path()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        stderr
    };
    told(&["secret", "create", "db", "--from-file", "add.py"]);
    told(&["push", "add.py", "--name", "keeper", "--secret", "db"]);
    let deleted = told(&["secret", "delete", "db"]);
    assert!(deleted.contains("warning: named still by keeper: "), "{deleted}");
    let secret = ["push", "add.py", "--secret", "none"];
    for (arguments, stdin) in [
        (&["describe", "mail"][..], ""),
        (&["invoke", "mail"], ""),
        (&["invoke", "add@7"], ""),
        (&["logs", "mail"], ""),
        (&["exec", "mail", "--", "ls"], ""),
        (&["rollback", "add", "7"], ""),
        (&["route", "add", "--to", "1=90"], ""),
        (&["route", "add", "--to", "7=100"], ""),
        (&["scale", "mail", "1"], ""),
        (&["config", "mail", "-e", "A=b"], ""),
        (&["delete", "mail"], ""),
        (&["export", "mail", "--as", "compose"], ""),
        (&secret, ""),
        (&["secret", "delete", "none"], ""),
        (&["push", "broken.zip", "--remote"], ""),
        (&["calls", "list", "mail"], ""),
        (&["schedule", "list", "mail"], ""),
        (&["exec", "add", "--", "nosuchcmd"], ""),
        (&["exec", "add", "--", "/function"], ""),
        (&["config", "add", "--min-scale", "9"], ""),
        (&["list", "--server", &server.url().replace("http:", "https:")], ""),
        // The function's own errors.
        (&["invoke", "add", "-d", "{\"x\": 1}"], ""),
        (&["invoke", "add", "-d", "-"], "this is no JSON"),
    ] {
        trial.command_fails(server.command(), arguments, stdin);
    }
    trial.told()
}
