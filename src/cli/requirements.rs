//! The arguments that say how a source's requirements are met, and the end of uv when this process is to end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dependencies::{Cancel, Machine, Options};
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
