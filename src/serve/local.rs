//! A server for one person who writes one function: everything it has is in a folder of its own, and goes with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Ending, ServeError, Server, clean_up};
use crate::config::Config;

/// One that runs.
pub struct Local {
    folder: TempDir,
    config: Config,
    program: PathBuf,
    address: SocketAddr,
    registry: String,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Local {
    /// Starts it below the data folder's `run`. What was killed before it could go is removed first.
    pub async fn start(data: &Path, listen: SocketAddr, program: PathBuf) -> Result<Self, ServeError> {
        let failed = |source| ServeError::System { step: "make a folder for it", source };
        let all = data.join("run");
        std::fs::create_dir_all(&all).map_err(failed)?;
        sweep(&all, listen, &program).await?;
        let folder = tempfile::tempdir_in(&all).map_err(failed)?;
        let config = Config::local(folder.path().into(), listen)?;
        let server = match Server::start(config.clone(), program.clone()).await {
            Ok(server) => server,
            Err(error) => {
                let _ = clean_up(&config, program).await;
                return Err(error);
            }
        };
        let address = server.addresses().first().copied().unwrap_or(listen);
        let registry = server.registry_host().to_string();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let ending = async {
                let _ = stopped.await;
                Ending::Stop
            };
            server.run(ending).await;
        });
        Ok(Self { folder, config, program, address, registry, stop, running })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT` of its registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Ends it, and removes its containers, images, network and files.
    pub async fn remove(self) -> Result<(), ServeError> {
        let _ = self.stop.send(());
        let _ = self.running.await;
        clean_up(&self.config, self.program).await?;
        self.folder.close().map_err(|source| ServeError::System { step: "remove its folder", source })
    }
}

/// Removes what others left that are no more.
async fn sweep(all: &Path, listen: SocketAddr, program: &Path) -> Result<(), ServeError> {
    let entries = std::fs::read_dir(all).into_iter().flatten().filter_map(Result::ok);
    for left in entries.map(|entry| entry.path()) {
        // One that is at work holds its lock; one that has just begun has none yet.
        if left.join("serve.lock").exists()
            && clean_up(&Config::local(left.clone(), listen)?, program.into()).await.is_ok()
        {
            let _ = std::fs::remove_dir_all(&left);
        }
    }
    Ok(())
}
