//! `fnbuild log-writer BYTES:PATH`, hidden: what containerd's shim starts to write a replica's log.

use super::Outcome;
use crate::replica::logger;

#[derive(clap::Args)]
pub struct Arguments {
    target: String,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let (bytes, path) = logger::parse_target(&arguments.target)
        .ok_or_else(|| anyhow::anyhow!("{:?} is not BYTES:PATH", arguments.target))?;
    logger::run(bytes, &path)?;
    Ok(Outcome::Success)
}
