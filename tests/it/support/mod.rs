//! What the tests share: running programs, waiting for conditions, servers that end with their test.

pub mod balancer;
pub mod base;
pub mod callers;
pub mod cluster;
pub mod containerd;
pub mod etcd;
pub mod faulty;
pub mod link;
pub mod receiver;
pub mod registry;
pub mod server;
pub mod snapshot;

use std::net::TcpListener;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

/// The program under test.
pub fn fnbuild() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fnbuild"));
    // What the machine's user has set up must not decide what a test sees.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FNBUILD_")) {
        command.env_remove(name);
    }
    command
}

/// A port on 127.0.0.1 that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Runs a command that must succeed, and gives its standard output without the last line's end.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_string()
}

/// Runs a command that must fail with `code`, and gives its standard error.
#[track_caller]
pub fn run_failing(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", told(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Waits for a condition, and panics with its name when it does not come true within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(comes_true(limit, &mut condition), "waited {limit:?} for {what}");
}

/// Whether a condition comes true within `limit`, for who has more to say if it does not.
pub fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// A server of the test's own: ended when it is dropped, by SIGTERM, then by SIGKILL.
pub struct Server(Child);

impl Server {
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// `kill -9`, and the process is gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, and at most `grace` until SIGKILL.
    pub fn terminate(&mut self, grace: Duration) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + grace;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.terminate(Duration::from_secs(10));
    }
}
