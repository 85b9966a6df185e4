//! Runs uv and Python: in a clean environment, in an empty folder, in a process group that ends with the step.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::error::DependencyError;

/// How often a running child is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Output beyond this is not read.
const MAX_OUTPUT: u64 = 16 << 20;

/// Says from another thread that a step is to end. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a step may take.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub timeout: Duration,
    pub cancel: Cancel,
}

pub(super) struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` in `folder`, which is ours and private, to its end. Its output goes to files there: a pipe that nobody
/// reads would stop it. On timeout and cancellation the whole group is killed before this returns.
pub(super) fn run(
    step: &'static str,
    command: &mut Command,
    folder: &Path,
    limits: &Limits,
) -> Result<Finished, DependencyError> {
    let output = |name: &str| {
        let path = folder.join(name);
        let file = File::options().create(true).truncate(true).write(true).read(true).open(&path);
        file.map_err(DependencyError::io("create", &path)).map(|file| (file, path))
    };
    let ((stdout, stdout_path), (stderr, stderr_path)) = (output(".stdout")?, output(".stderr")?);
    let mut child = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(DependencyError::io("start", command.get_program()))?;
    let status = wait(step, &mut child, limits)?;
    Ok(Finished { status, stdout: text(&stdout_path)?, stderr: text(&stderr_path)? })
}

fn wait(step: &'static str, child: &mut Child, limits: &Limits) -> Result<ExitStatus, DependencyError> {
    let start = Instant::now();
    let error = loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if limits.cancel.is_cancelled() => break DependencyError::Cancelled { step },
            Ok(None) if start.elapsed() > limits.timeout => {
                break DependencyError::TimedOut { step, limit: limits.timeout };
            }
            Ok(None) => std::thread::sleep(LOOK),
            Err(source) => break DependencyError::io("wait for", step)(source),
        }
    };
    // The group bears the child's ID, which stays taken until the child is waited for.
    if let Ok(id) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
    let _ = child.wait();
    Err(error)
}

fn text(path: &Path) -> Result<String, DependencyError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(DependencyError::io("open", path))?;
    file.take(MAX_OUTPUT).read_to_end(&mut bytes).map_err(DependencyError::io("read", path))?;
    std::fs::remove_file(path).map_err(DependencyError::io("remove", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(timeout: Duration) -> Limits {
        Limits { timeout, cancel: Cancel::default() }
    }

    /// A shell that starts a child which outlives it unless it is killed, and writes down its ID.
    fn with_child(folder: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & echo $! > id.new; mv id.new id; wait"]).current_dir(folder);
        command
    }

    fn ends(id: &str) -> bool {
        let gone = || {
            // A killed child that nobody has waited for yet is a zombie.
            std::fs::read_to_string(format!("/proc/{}/stat", id.trim()))
                .map_or(true, |stat| stat.contains(") Z "))
        };
        (0..1000).any(|_| gone() || (std::thread::sleep(LOOK), false).1)
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(300);
        let ended = run("sleep", &mut with_child(folder.path()), folder.path(), &limits(limit));
        assert!(matches!(ended, Err(DependencyError::TimedOut { .. })));
        assert!(ends(&std::fs::read_to_string(folder.path().join("id")).unwrap()));
    }

    #[test]
    fn what_is_cancelled_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let limits = limits(Duration::from_secs(600));
        let id = folder.path().join("id");
        std::thread::scope(|scope| {
            let running =
                scope.spawn(|| run("sleep", &mut with_child(folder.path()), folder.path(), &limits));
            while !id.exists() {
                std::thread::sleep(LOOK);
            }
            limits.cancel.cancel();
            assert!(matches!(running.join().unwrap(), Err(DependencyError::Cancelled { .. })));
        });
        assert!(ends(&std::fs::read_to_string(id).unwrap()));
    }

    #[test]
    fn output_and_status_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let done = run("echo", &mut command, folder.path(), &limits(Duration::from_secs(60))).unwrap();
        assert_eq!(
            (done.status.code(), done.stdout.as_str(), done.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
