//! A command inside a running container, with its streams: what `fnbuild exec` needs.

use std::path::PathBuf;

use containerd_client::services::v1 as c8d;
use nix::sys::stat::Mode;
use tokio::net::unix::pipe;

use super::{Containerd, Error, Exit};

/// What to run. User, environment and limits are the container's own.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    pub args: Vec<String>,
    /// Columns and rows of a terminal; `None` for plain pipes.
    pub terminal: Option<(u32, u32)>,
}

/// A command that runs. Dropping it kills the command.
pub struct Exec {
    /// `None` once closed.
    pub stdin: Option<pipe::Sender>,
    pub stdout: pipe::Receiver,
    /// `None` with a terminal, whose only stream is `stdout`.
    pub stderr: Option<pipe::Receiver>,
    control: Control,
}

struct Control {
    containerd: Containerd,
    container: String,
    id: String,
    folder: PathBuf,
    ended: bool,
}

impl Containerd {
    /// Starts a command in the container's task, with the user, environment and limits of the container's own process.
    /// `folder` is where its pipes are made.
    pub async fn exec(&self, container: &str, request: &ExecRequest, folder: PathBuf) -> Result<Exec, Error> {
        let id = format!("exec-{:016x}", getrandom::u64().unwrap_or_default());
        let failed = |source| Error::Streams { container: container.into(), source };
        let folder = folder.join(&id);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut control =
            Control { containerd: self.clone(), container: container.into(), id, folder, ended: true };
        let (stdin, stdout, stderr) = control.pipes(request.terminal.is_some()).map_err(failed)?;
        let mut process = self.container_process(container).await?;
        process["args"] = serde_json::json!(request.args);
        process["terminal"] = serde_json::json!(request.terminal.is_some());
        let streams = (control.folder.as_path(), request.terminal.is_some());
        let started = self.exec_task((container, &control.id), streams, &process).await;
        started.map_err(|error| blamed(error, container, request))?;
        control.ended = false;
        if let Some((columns, rows)) = request.terminal {
            control.resize(columns, rows).await?;
        }
        Ok(Exec { stdin: Some(stdin), stdout, stderr, control })
    }
}

/// The program's own fault, where it is: runtimes say it in words only.
fn blamed(error: Error, container: &str, request: &ExecRequest) -> Error {
    let said = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let (container, program) = (container.to_string(), request.args.first().cloned().unwrap_or_default());
    match fault(&said, &program) {
        Some(Fault::Missing) => Error::NoProgram { container, program },
        Some(Fault::NotExecutable) => Error::NotExecutable { container, program },
        None => error,
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Fault {
    Missing,
    NotExecutable,
}

fn fault(said: &str, program: &str) -> Option<Fault> {
    // Other things than the program can be missing, or be forbidden.
    let (_, said) = said.split_once(program)?;
    let said = said.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["not found in $path", "no such file or directory"]) {
        Some(Fault::Missing)
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        Some(Fault::NotExecutable)
    } else {
        None
    }
}

impl Exec {
    /// Ends the command's standard input.
    pub async fn close_stdin(&mut self) -> Result<(), Error> {
        self.stdin = None;
        let control = &self.control;
        let request = c8d::CloseIoRequest {
            container_id: control.container.clone(),
            exec_id: control.id.clone(),
            stdin: true,
        };
        let closed = control.containerd.tasks().close_io(request).await;
        closed.map(drop).map_err(|s| control.containerd.failed("close a command's input", s))
    }

    /// Columns and rows.
    pub async fn resize(&self, columns: u32, rows: u32) -> Result<(), Error> {
        self.control.resize(columns, rows).await
    }

    /// Ends when the command does. What it wrote may still be in the pipes.
    pub async fn wait(&mut self) -> Result<Exit, Error> {
        let control = &mut self.control;
        let exit = control.containerd.wait(&control.container, &control.id).await?;
        control.ended = true;
        control.remove().await;
        Ok(exit)
    }
}

impl Control {
    fn pipes(
        &self,
        terminal: bool,
    ) -> std::io::Result<(pipe::Sender, pipe::Receiver, Option<pipe::Receiver>)> {
        for name in ["in", "out", "err"] {
            nix::unistd::mkfifo(&self.folder.join(name), Mode::S_IRUSR | Mode::S_IWUSR)?;
        }
        // Read-write, because a pipe that nobody reads yet cannot be opened for writing alone.
        let stdin = pipe::OpenOptions::new().read_write(true).open_sender(self.folder.join("in"))?;
        let stdout = pipe::OpenOptions::new().open_receiver(self.folder.join("out"))?;
        let stderr = pipe::OpenOptions::new().open_receiver(self.folder.join("err"))?;
        Ok((stdin, stdout, (!terminal).then_some(stderr)))
    }

    async fn resize(&self, columns: u32, rows: u32) -> Result<(), Error> {
        let request = c8d::ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            width: columns,
            height: rows,
        };
        let resized = self.containerd.tasks().resize_pty(request).await;
        resized.map(drop).map_err(|status| self.containerd.failed("resize a terminal", status))
    }

    async fn remove(&self) {
        let request =
            c8d::DeleteProcessRequest { container_id: self.container.clone(), exec_id: self.id.clone() };
        let _ = self.containerd.tasks().delete_process(request).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        if self.ended {
            return;
        }
        // Whoever asked has gone away: the command must not stay.
        let (containerd, container, id) = (self.containerd.clone(), self.container.clone(), self.id.clone());
        tokio::spawn(async move {
            let request = c8d::KillRequest {
                container_id: container.clone(),
                exec_id: id.clone(),
                signal: 9,
                all: false,
            };
            let _ = containerd.tasks().kill(request).await;
            let _ = containerd.wait(&container, &id).await;
            let request = c8d::DeleteProcessRequest { container_id: container, exec_id: id };
            let _ = containerd.tasks().delete_process(request).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_say_of_a_program_is_understood() {
        let of = |program: &str, said: &str| {
            fault(&format!("OCI runtime exec failed: exec failed: {said}: unknown"), program)
        };
        for said in [
            "unable to start container process: exec: \"ls\": executable file not found in $PATH",
            "executable file `ls` not found in $PATH: No such file or directory",
        ] {
            assert_eq!(of("ls", said), Some(Fault::Missing), "{said}");
        }
        let missing = "unable to start container process: exec: \"/x\": stat /x: no such file or directory";
        assert_eq!(of("/x", missing), Some(Fault::Missing));
        let denied = "unable to start container process: exec: \"/tmp\": permission denied";
        assert_eq!(of("/tmp", denied), Some(Fault::NotExecutable));
        assert_eq!(of("ls", "no such file or directory: /sys/fs/cgroup/x"), None);
        assert_eq!(of("ls", "the container is not running"), None);
    }
}
