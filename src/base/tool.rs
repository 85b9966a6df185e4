//! Running the programs that a base is made with, so that each of them can be stopped and each failure tells why.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::BaseError;

/// Asked for by the caller, on Ctrl-C for instance: what runs is ended, and what it left is removed.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<(), BaseError> {
        if self.0.load(Ordering::Relaxed) { Err(BaseError::Interrupted) } else { Ok(()) }
    }
}

/// One run of a program.
pub(super) struct Tool<'a> {
    name: &'static str,
    step: &'static str,
    command: Command,
    stop: &'a Stop,
}

impl<'a> Tool<'a> {
    /// `step` says what it is for, as in "{step}: {name} failed". In English, in UTF-8, and never asking anything.
    pub fn new(name: &'static str, step: &'static str, stop: &'a Stop) -> Self {
        Self::at(name, name, step, stop)
    }

    /// As `new`, for a program at a given place.
    pub fn at(program: impl AsRef<OsStr>, name: &'static str, step: &'static str, stop: &'a Stop) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        Self { name, step, command, stop }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Nothing of the caller's environment but PATH, and these.
    pub fn only_env(mut self, env: &[(&str, &str)]) -> Self {
        self.command.env_clear().envs(env.iter().copied()).env("LC_ALL", "C.UTF-8");
        self.command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        self
    }

    /// Runs it to its end and gives its stdout. What it writes to stderr is shown only if it fails.
    pub fn run(mut self) -> Result<String, BaseError> {
        self.stop.check()?;
        let spawned = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(BaseError::NoTool { tool: self.name });
            }
            Err(e) => return Err(BaseError::io("start", self.name)(e)),
        };
        let stdout = child.stdout.take().map(read_in_background);
        let stderr = child.stderr.take().map(read_in_background);
        let status = loop {
            match child.try_wait().map_err(BaseError::io("wait for", self.name))? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
            if self.stop.check().is_err() {
                // SIGTERM, not SIGKILL: mmdebstrap undoes its mounts.
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(child.id().cast_signed()),
                    nix::sys::signal::Signal::SIGTERM,
                );
            }
        };
        let text = |handle: Option<std::thread::JoinHandle<String>>| {
            handle.and_then(|handle| handle.join().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        self.stop.check()?;
        if !status.success() {
            let output = if stderr.trim().is_empty() { stdout } else { stderr };
            return Err(BaseError::Tool {
                tool: self.name,
                step: self.step,
                status: status.to_string(),
                output,
            });
        }
        Ok(stdout)
    }
}

fn read_in_background(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A tool that closes its output early has said what it had to say.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
