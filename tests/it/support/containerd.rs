//! A containerd of the test's own, with everything below one folder: it can die, and its replicas with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Containerd {
    folder: tempfile::TempDir,
    process: Option<Server>,
}

impl Containerd {
    pub fn start() -> Self {
        let mut containerd = Self { folder: tempfile::tempdir().unwrap(), process: None };
        containerd.start_again();
        containerd
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn start_again(&mut self) {
        let config = self.folder.path().join("config.toml");
        std::fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n").unwrap();
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(&config).arg("--address").arg(self.socket());
        command.arg("--root").arg(self.folder.path().join("root")).arg("--state").arg(self.state());
        self.process = Some(Server::start(command.stdout(Stdio::null()).stderr(log)));
        wait_until("containerd to answer", PATIENCE, || self.ctr(&["version"]).is_some());
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// `kill -9` for it, its shims, and all that they started.
    pub fn kill_with_everything(&mut self) {
        self.kill();
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_until("the shims to be gone", PATIENCE, || self.processes().is_empty());
    }

    fn ctr(&self, arguments: &[&str]) -> Option<String> {
        let output =
            Command::new("ctr").arg("--address").arg(self.socket()).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// The shims that work for it, and all that they started.
    fn processes(&self) -> Vec<i32> {
        let socket = self.socket();
        let each = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mine =
                line.windows(socket.as_os_str().len()).any(|w| w == socket.as_os_str().as_encoded_bytes());
            let shim = line.starts_with(b"/usr/bin/containerd-shim") || line.starts_with(b"containerd-shim");
            (mine && shim).then_some(pid)
        });
        let mut all: Vec<i32> = each.collect();
        let mut at = 0;
        while let Some(parent) = all.get(at).copied() {
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            all.extend(
                children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()),
            );
            at += 1;
        }
        all
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        unmount_below(self.folder.path());
    }
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_string);
    points.filter(|point| Path::new(point).starts_with(folder)).collect()
}

pub fn unmount_below(folder: &Path) {
    for point in mounts_below(folder).iter().rev() {
        let _ = nix::mount::umount2(point.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}
