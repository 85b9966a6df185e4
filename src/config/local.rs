//! The configuration of a server for one person and one function: `fnbuild run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, FromArgMatches};

use super::{Config, ConfigArguments, ConfigError};

/// What the environment says of the machine counts here too; what it says of a server does not.
const OF_THE_MACHINE: [&str; 6] = ["containerd", "namespace", "subnet", "cni_plugins", "dns", "egress"];

/// Whoever presses Ctrl-C does not wait for calls.
const DRAIN: Duration = Duration::from_secs(1);

impl Config {
    /// Everything in this folder, a registry at a free port, and otherwise what `fnbuild serve` has by default.
    pub fn local(data_dir: PathBuf, listen: SocketAddr) -> Result<Self, ConfigError> {
        let command = ConfigArguments::augment_args(clap::Command::new("run")).mut_args(|argument| {
            let counts = OF_THE_MACHINE.contains(&argument.get_id().as_str());
            if counts { argument } else { argument.env(None::<&str>) }
        });
        let usual = command.try_get_matches_from(["run"]);
        let usual = usual.and_then(|matches| ConfigArguments::from_arg_matches(&matches));
        let usual = usual.map_err(|error| ConfigError::Environment { what: error.to_string() })?;
        let mut config = usual.check(data_dir)?;
        config.listen = vec![listen];
        config.registry.embedded = Some(0);
        config.drain = DRAIN;
        config.traces = None;
        Ok(config)
    }
}
