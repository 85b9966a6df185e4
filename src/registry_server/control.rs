//! Collections from another process: a socket in the data folder, for whoever may write there.
//!
//! One request is one line of JSON, a [`Policy`]; the answer is one line, a [`Report`] or an error. `fnbuild registry gc`
//! asks the running server through it, because only the process that pushes go through knows what it has promised.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::ServerError;
use super::store::{Policy, Report, Store};

const SOCKET: &str = "control.sock";

#[derive(Serialize, Deserialize)]
enum Reply {
    Done(Report),
    Failed(String),
}

/// A socket's path has at most 107 bytes, a folder's name may be longer: this names the same file in few.
fn short_path(root: &Path) -> io::Result<(File, PathBuf)> {
    let folder = File::open(root)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).into();
    Ok((folder, path))
}

/// Opens the socket. The lock on the store says that a socket found here is a dead one.
pub fn listen(root: &Path) -> Result<UnixListener, ServerError> {
    let bind = || {
        let (_folder, path) = short_path(root)?;
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(listener)
    };
    bind().map_err(|source| ServerError::Control { path: root.join(SOCKET), source })
}

pub async fn answer(listener: UnixListener, store: Arc<Store>) {
    while let Ok((stream, _)) = listener.accept().await {
        let store = store.clone();
        tokio::spawn(async move {
            let (reader, mut writer) = stream.into_split();
            let mut line = String::new();
            let read = tokio::io::BufReader::new(reader).read_line(&mut line).await;
            let Ok(policy) = read.and_then(|_| Ok(serde_json::from_str::<Policy>(&line)?)) else { return };
            let reply = match store.collect(policy).await {
                Ok(report) => Reply::Done(report),
                Err(error) => Reply::Failed(with_causes(&error)),
            };
            if let Ok(mut line) = serde_json::to_vec(&reply) {
                line.push(b'\n');
                let _ = writer.write_all(&line).await;
            }
        });
    }
}

/// An error with its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Asks the server that serves `root`. `None` if there is none.
pub fn ask(root: &Path, policy: Policy) -> Result<Option<Report>, ServerError> {
    let failed = |source| ServerError::Control { path: root.join(SOCKET), source };
    let stream = match short_path(root).and_then(|(_folder, path)| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut line = serde_json::to_vec(&policy).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    (&stream).write_all(&line).map_err(failed)?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).map_err(failed)?;
    match serde_json::from_str(&reply).map_err(|error| failed(error.into()))? {
        Reply::Done(report) => Ok(Some(report)),
        Reply::Failed(message) => Err(ServerError::Collect { message }),
    }
}
