//! The registry that `fnbuild serve` brings along. It is on port 5000, so each server here has a network of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::server::{containerd, remove_namespace};
use crate::support::{Server, base, fnbuild, run, run_failing, wait_until};

/// Commands within a network of their own do not begin in this folder.
const ADD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/add");

/// A network in which nothing listens yet: a process that keeps it, with loopback up. Its `/sys` shows that network's
/// devices and not the machine's; all other mounts are shared with the machine, as containerd has to see them.
struct Network(Child);

const SET_UP: &str = "mount --make-rprivate /sys && mount -t sysfs sysfs /sys/kernel/debug && \
    for part in devices/virtual/net class/net; do mount --bind /sys/kernel/debug/$part /sys/$part || exit; done && \
    ip link set lo up && echo up && exec sleep infinity";

impl Network {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "unchanged", "sh", "-c", SET_UP]);
        let mut keeper = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self(keeper)
    }

    /// The command, within.
    fn command(&self, command: &Command) -> Command {
        let mut within = Command::new("nsenter");
        let target = format!("--target={}", self.0.id());
        within.args([&target, "--net", "--mount", "--"]).arg(command.get_program());
        within.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }

    fn curl(&self, arguments: &[&str]) -> String {
        run(&mut self.command(Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server's setting: its network, data folder, containerd namespace. Nothing of it stays.
struct Setting {
    network: Network,
    data: tempfile::TempDir,
    namespace: String,
}

impl Setting {
    fn new() -> Self {
        let namespace = format!("fnbuild-test-{:016x}", getrandom::u64().unwrap());
        Self { network: Network::new(), data: base::data_dir(), namespace }
    }

    fn fnbuild(&self, arguments: &[&str]) -> Command {
        let mut command = fnbuild();
        command.args(arguments).env("FNBUILD_DATA_DIR", self.data.path());
        command.env("FNBUILD_NAMESPACE", &self.namespace).env("FNBUILD_CONTAINERD", containerd());
        self.network.command(&command)
    }

    /// A server that is ready, and what it said of its registry.
    fn serve(&self, more: &[&str]) -> (Server, String) {
        let mut command = self.fnbuild(&[&["serve"], more].concat());
        let log = self.data.path().join("serve.log");
        let server = Server::start(command.stderr(std::fs::File::create(&log).unwrap()));
        let said = || std::fs::read_to_string(&log).unwrap();
        wait_until("the server", Duration::from_secs(60), || said().contains("listening on"));
        let lines: Vec<String> =
            said().lines().filter(|line| line.contains("registry")).map(str::to_string).collect();
        assert!(lines.len() <= 1, "{lines:?}");
        (server, lines.into_iter().next().unwrap_or_default())
    }

    /// Another registry, in the same network.
    fn docker_registry(&self, address: &str) -> Server {
        let config = self.data.path().join("registry.yml");
        let storage = self.data.path().join("docker-registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        let server = Server::start(&mut self.network.command(command.arg("serve").arg(&config)));
        self.wait_for(&format!("http://{address}/v2/"));
        server
    }

    fn wait_for(&self, url: &str) {
        wait_until(url, Duration::from_secs(30), || {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-o", "/dev/null", url]);
            self.network.command(&curl).status().unwrap().success()
        });
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let cleaned = self.fnbuild(&["serve", "--clean-up", "--registry", "localhost:1"]).output();
        let removed = remove_namespace(&containerd(), &self.namespace);
        assert!(std::thread::panicking() || removed.is_ok(), "{removed:?} {cleaned:?}");
    }
}

#[test]
fn the_server_brings_a_registry_and_builds_into_it_like_any_client() {
    let setting = Setting::new();
    let (server, line) = setting.serve(&[]);
    assert_eq!(line, "registry on http://localhost:5000");
    for address in ["127.0.0.1", "[::1]"] {
        assert_eq!(setting.network.curl(&[&format!("http://{address}:5000/v2/")]), "{}");
    }
    run(&mut setting.fnbuild(&["push", ADD]));
    let call = ["-d", r#"{"x":3,"y":5}"#, "http://127.0.0.1:8080/function/add"];
    assert_eq!(setting.network.curl(&call), "8");
    // Built by the server itself, from the source.
    let source = setting.data.path().join("twice.py");
    std::fs::write(&source, "def run(x):\n    return 2 * x\n").unwrap();
    run(&mut setting.fnbuild(&["push", "--remote", source.to_str().unwrap()]));
    assert_eq!(setting.network.curl(&["-d", r#"{"x":4}"#, "http://127.0.0.1:8080/function/twice"]), "8");
    let tags = |name: &str| setting.network.curl(&[&format!("http://localhost:5000/v2/fn/{name}/tags/list")]);
    assert_eq!(tags("add"), r#"{"name":"fn/add","tags":["1","latest"]}"#);
    assert_eq!(tags("twice"), r#"{"name":"fn/twice","tags":["1","latest"]}"#);
    drop(server);
    // It is on the disk, where the registry alone finds it.
    let gc = run(&mut setting.fnbuild(&["registry", "gc", "--dry-run", "--grace", "0s"]));
    assert!(gc.contains("would remove 0 blobs"), "{gc}");
}

#[test]
fn a_registry_that_answers_there_is_used_and_one_that_is_named_is_taken_instead() {
    let setting = Setting::new();
    let _other = setting.docker_registry("127.0.0.1:5000");
    let (server, line) = setting.serve(&[]);
    assert_eq!(line, "a registry answers on port 5000 already: it is used, and none is started");
    run(&mut setting.fnbuild(&["push", ADD]));
    assert!(setting.network.curl(&["http://localhost:5000/v2/fn/add/tags/list"]).contains("latest"));
    assert!(!setting.data.path().join("registry").exists());
    drop(server);
    let (_server, line) = setting.serve(&["--registry", "127.0.0.1:5000"]);
    assert_eq!(line, "");
}

#[test]
fn anything_else_on_the_port_is_an_error() {
    let setting = Setting::new();
    let script = "import http.server as h; h.HTTPServer(('127.0.0.1', 5000), h.SimpleHTTPRequestHandler).serve_forever()";
    let mut python = Command::new("python3");
    python.args(["-c", script]).stderr(Stdio::null()).current_dir(setting.data.path());
    let _page = Server::start(setting.network.command(&python).stderr(Stdio::null()));
    setting.wait_for("http://127.0.0.1:5000/");
    let told = run_failing(&mut setting.fnbuild(&["serve"]), 1);
    assert!(told.contains("cannot bring a registry to 127.0.0.1:5000, and none answers there"), "{told}");
    assert!(told.contains("hint: free that port, or name a registry with --registry"), "{told}");
}
