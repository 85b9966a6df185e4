//! `fnbuild serve` as a process, with a docker-registry, a data folder (the base in it) and a containerd namespace of
//! its own. When it is dropped, nothing of it is left on the machine.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::registry::DockerRegistry;
use super::{Server, base, fnbuild, free_port, run, wait_until};
use crate::dependencies::uv;

/// For a start on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct FnbuildServer {
    process: Option<Server>,
    registry: Arc<DockerRegistry>,
    data: tempfile::TempDir,
    namespace: String,
    port: u16,
    /// Beside loopback.
    listens_too: Option<IpAddr>,
    containerd: PathBuf,
    flags: Vec<String>,
}

impl FnbuildServer {
    /// A server that is ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with more flags for `fnbuild serve`.
    pub fn start_with(flags: &[&str]) -> Self {
        let mut server = Self::prepare(DockerRegistry::start(), flags);
        server.start_again();
        server
    }

    /// Everything but the process.
    pub fn prepare(registry: impl Into<Arc<DockerRegistry>>, flags: &[&str]) -> Self {
        let random = getrandom::u64().unwrap();
        Self {
            process: None,
            registry: registry.into(),
            data: base::data_dir(),
            namespace: format!("fnbuild-test-{random:016x}"),
            port: free_port(),
            listens_too: None,
            containerd: containerd(),
            flags: flags.iter().map(ToString::to_string).collect(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Listens at this address too, on the same port, from the next start on.
    pub fn listen_too(&mut self, address: IpAddr) {
        self.listens_too = Some(address);
    }

    /// Of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").pid()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn registry(&self) -> &DockerRegistry {
        &self.registry
    }

    /// Uses this containerd from the next start on.
    pub fn set_containerd(&mut self, socket: &Path) {
        self.containerd = socket.into();
    }

    /// What the server said since its last start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("serve.log")).unwrap_or_default()
    }

    /// `fnbuild`, set up for this server, its registry and its data folder; the verb is still to be named.
    pub fn command(&self) -> Command {
        let mut command = fnbuild();
        command
            .env("FNBUILD_SERVER", self.url())
            .env("FNBUILD_REGISTRY", self.registry.host())
            .env("FNBUILD_DATA_DIR", self.data.path())
            .envs(uv().map(|uv| ("FNBUILD_UV", uv)))
            .stdin(Stdio::null());
        command
    }

    /// `fnbuild serve` as this server is started. Another can be made of it by flags that come later.
    pub fn serve(&self) -> Command {
        let mut command = self.command();
        let too = self.listens_too.map(|address| format!(",{}", SocketAddr::new(address, self.port)));
        let listen = format!("127.0.0.1:{}{}", self.port, too.unwrap_or_default());
        command
            .arg("serve")
            .env("FNBUILD_LISTEN", listen)
            .env("FNBUILD_NAMESPACE", &self.namespace)
            .env("FNBUILD_CONTAINERD", &self.containerd)
            .args(&self.flags);
        command
    }

    /// `curl` with these arguments, the last one being a path of this server; gives status and body.
    #[track_caller]
    pub fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let (path, options) = arguments.split_last().unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "120", "-w", "\n%{http_code}"]).args(options);
        split(&run(curl.arg(format!("{}{path}", self.url()))))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        self.curl(&[path])
    }

    /// The same from a server that may not listen yet: then the status is 0.
    pub fn get_or_nothing(&self, path: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}"]).arg(format!("{}{path}", self.url()));
        split(&String::from_utf8_lossy(&curl.output().unwrap().stdout))
    }

    /// Calls a function as most do: JSON by POST to its root.
    #[track_caller]
    pub fn call(&self, function: &str, json: &Value) -> (u16, String) {
        let path = format!("/function/{function}");
        self.curl(&["-H", "Content-Type: application/json", "-d", &json.to_string(), &path])
    }

    /// Starts the process, again on the same port; whether it becomes ready is to be seen.
    pub fn start_process(&mut self) {
        let log = File::create(self.data.path().join("serve.log")).unwrap();
        self.process = Some(Server::start(self.serve().stdout(log.try_clone().unwrap()).stderr(log)));
    }

    /// Starts the process, again on the same port, and waits until it is ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.start_process();
        let url = format!("{}/readyz", self.url());
        let ready = || {
            let runs = self.process.as_mut().is_some_and(Server::runs);
            assert!(runs, "the server ended: {}", self.log());
            Command::new("curl").args(["-sf", "-o", "/dev/null", &url]).status().unwrap().success()
        };
        wait_until("the server to be ready", PATIENCE, ready);
    }

    /// `kill -9`; its containers stay.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and it is gone when this returns; its containers stay.
    pub fn stop(&mut self) {
        self.process = None;
    }

    fn clean_up(&mut self) -> Result<(), String> {
        self.stop();
        let cleaned = self.serve().arg("--clean-up").output().map_err(|error| error.to_string())?;
        if !cleaned.status.success() {
            return Err(String::from_utf8_lossy(&cleaned.stderr).into_owned());
        }
        remove_namespace(&self.containerd, &self.namespace)
    }
}

impl Drop for FnbuildServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
        if let Err(error) = self.clean_up() {
            let problem = format!("{} is not cleaned up: {error}", self.namespace);
            // A second panic would hide the first.
            assert!(std::thread::panicking(), "{problem}");
            eprintln!("{problem}");
        }
    }
}

/// Removes a namespace of containerd's that holds nothing any more but what containerd has yet to collect.
pub fn remove_namespace(containerd: &Path, namespace: &str) -> Result<(), String> {
    let ctr = |arguments: &[&str]| {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(containerd).args(["--namespace", namespace]).args(arguments);
        ctr.output().map_err(|error| error.to_string())
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let removed = ctr(&["namespaces", "remove", namespace])?;
        let told = String::from_utf8_lossy(&removed.stderr).into_owned();
        if removed.status.success() || told.contains("not found") {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{namespace} does not become empty: {told}"));
        }
        // containerd takes its time to collect, the more the more it has; a lease that is deleted like this makes it
        // collect at once.
        ctr(&["leases", "create", "--id", "collect"])?;
        ctr(&["leases", "delete", "--sync", "collect"])?;
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The containerd that the tests are to use: the machine's, or the one that whoever runs them has started.
pub fn containerd() -> PathBuf {
    let named = ["FNBUILD_CONTAINERD", "CONTAINERD_ADDRESS"].into_iter().find_map(std::env::var_os);
    named.unwrap_or_else(|| "/run/containerd/containerd.sock".into()).into()
}

/// What `curl -w '\n%{http_code}'` printed.
#[track_caller]
fn split(printed: &str) -> (u16, String) {
    let (body, status) = printed.rsplit_once('\n').unwrap_or(("", printed));
    (status.parse().unwrap(), body.to_string())
}
