//! The arguments that say how a source's requirements are met, and the end of uv when this process is to end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::api::{LOCK_HEADER, LONGEST_LIST, REQUIREMENTS_HEADER};
use crate::dependencies::{Cancel, Machine, Options, lock_beside};
use crate::publish::Packages;

#[derive(clap::Args)]
pub struct RequirementArguments {
    /// This list of packages instead of the source's own requirements.txt
    #[arg(long, env = "FNBUILD_REQUIREMENTS", value_name = "FILE")]
    requirements: Option<PathBuf>,
    /// Only the packages that are listed, without what they depend on
    #[arg(long, env = "FNBUILD_NO_DEPS")]
    no_deps: bool,
    /// Use only packages that were fetched before
    #[arg(long, env = "FNBUILD_OFFLINE")]
    offline: bool,
    /// How long resolving and installing may take, each, in seconds
    #[arg(long, env = "FNBUILD_DEPENDENCIES_TIMEOUT", default_value_t = 300, value_name = "SECONDS")]
    dependencies_timeout: u64,
}

impl RequirementArguments {
    /// `data` is the data folder.
    pub fn packages(&self, data: &Path) -> Packages {
        let options = Options {
            offline: self.offline,
            timeout: Duration::from_secs(self.dependencies_timeout),
            ..Options::default()
        };
        let (requirements, no_deps) = (self.requirements.clone(), self.no_deps);
        Packages { requirements, no_deps, machine: Machine::of_this_process(data), options }
    }
}

/// What goes to a server that builds.
pub struct Lists {
    /// Names and base64 values.
    pub headers: Vec<(&'static str, String)>,
    pub no_deps: bool,
}

impl RequirementArguments {
    /// The list that is named, and the lock beside a source: a server sees neither otherwise.
    pub fn sent_with(&self, source: &Path) -> anyhow::Result<Lists> {
        let lock = Some(lock_beside(source)).filter(|lock| lock.is_file());
        let mut headers = Vec::new();
        for (name, path) in [(REQUIREMENTS_HEADER, &self.requirements), (LOCK_HEADER, &lock)] {
            let Some(path) = path else { continue };
            let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            if bytes.len() > LONGEST_LIST {
                anyhow::bail!("{} is larger than {LONGEST_LIST} bytes: put it into the zip", path.display());
            }
            headers.push((name, STANDARD.encode(bytes)));
        }
        Ok(Lists { headers, no_deps: self.no_deps })
    }
}

/// Ends uv when this process is asked to end: it runs in a process group of its own and would go on. Resolves once
/// that was asked for; whoever waits for it ends the process then.
pub async fn cancelled_by_signal(cancel: Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            cancel.cancel();
        }
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}
