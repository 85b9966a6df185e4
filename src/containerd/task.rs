//! Tasks: the processes of a container.

use std::path::Path;

use containerd_client::services::v1 as c8d;
use containerd_client::tonic::Code;
use containerd_client::types::v1::Status as WireStatus;

use super::container::RootFs;
use super::{Containerd, Error, RuntimeSpec, tolerate};

/// How a process ended: its exit status, 128 + N after signal N.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    pub status: u32,
}

/// What a container's task is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    Created,
    Running,
    Stopped,
}

/// A task as containerd sees it.
#[derive(Clone, Copy, Debug)]
pub struct TaskStatus {
    pub state: TaskState,
    /// On the host; 0 once it has stopped.
    pub pid: u32,
}

impl Containerd {
    /// Creates the task, its process not yet started, with `binary://…` as the logger of both streams. Gives its PID.
    pub async fn create_task(&self, id: &str, rootfs: RootFs, logger: &str) -> Result<u32, Error> {
        let request = c8d::CreateTaskRequest {
            container_id: id.into(),
            rootfs: rootfs.0,
            stdout: logger.into(),
            stderr: logger.into(),
            ..Default::default()
        };
        let created = self.tasks().create(request).await;
        Ok(created.map_err(|status| self.failed(format!("create task {id}"), status))?.into_inner().pid)
    }

    pub async fn start_task(&self, id: &str) -> Result<(), Error> {
        let request = c8d::StartRequest { container_id: id.into(), ..Default::default() };
        let started = self.tasks().start(request).await;
        started.map(drop).map_err(|status| self.failed(format!("start task {id}"), status))
    }

    /// Ends when the task does. Must be polled to be sent: spawn it before the start.
    pub async fn wait_task(&self, id: &str) -> Result<Exit, Error> {
        self.wait(id, "").await
    }

    pub(super) async fn wait(&self, id: &str, exec: &str) -> Result<Exit, Error> {
        let request = c8d::WaitRequest { container_id: id.into(), exec_id: exec.into() };
        let exit = self.tasks().wait(request).await;
        let exit = exit.map_err(|status| self.failed(format!("wait for task {id}"), status))?.into_inner();
        Ok(Exit { status: exit.exit_status })
    }

    /// `None`: there is no task.
    pub async fn task(&self, id: &str) -> Result<Option<TaskStatus>, Error> {
        let request = c8d::GetRequest { container_id: id.into(), ..Default::default() };
        let process = match self.tasks().get(request).await {
            Ok(answer) => answer.into_inner().process,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(self.failed(format!("look at task {id}"), status)),
        };
        Ok(process.map(|process| TaskStatus {
            state: match WireStatus::try_from(process.status) {
                Ok(WireStatus::Created) => TaskState::Created,
                Ok(WireStatus::Running | WireStatus::Paused | WireStatus::Pausing) => TaskState::Running,
                _ => TaskState::Stopped,
            },
            pid: process.pid,
        }))
    }

    /// Sends a signal to the task's first process, or to all of them. One that has ended is success.
    pub async fn kill_task(&self, id: &str, signal: u32, all: bool) -> Result<(), Error> {
        let request = c8d::KillRequest { container_id: id.into(), signal, all, ..Default::default() };
        let killed = self.tasks().kill(request).await;
        killed
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|status| self.failed(format!("signal task {id}"), status))
    }

    /// Deletes a task that has ended. One that is gone is success.
    pub async fn remove_task(&self, id: &str) -> Result<(), Error> {
        let deleted = self.tasks().delete(c8d::DeleteTaskRequest { container_id: id.into() }).await;
        deleted
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|status| self.failed(format!("delete task {id}"), status))
    }

    /// Runs another process in the container's task; see [`super::Exec`].
    pub(super) async fn exec_task(
        &self,
        (id, exec): (&str, &str),
        (folder, terminal): (&Path, bool),
        process: &serde_json::Value,
    ) -> Result<(), Error> {
        let path = |name: &str| folder.join(name).display().to_string();
        let request = c8d::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            stdin: path("in"),
            stdout: path("out"),
            // A terminal has one stream.
            stderr: if terminal { String::new() } else { path("err") },
            terminal,
            spec: Some(RuntimeSpec::wire_process(process)),
        };
        let failed = |status| self.failed(format!("run a command in {id}"), status);
        self.tasks().exec(request).await.map_err(failed)?;
        let request = c8d::StartRequest { container_id: id.into(), exec_id: exec.into() };
        self.tasks().start(request).await.map(drop).map_err(failed)
    }
}
