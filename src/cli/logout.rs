//! `fnbuild logout HOST`: forget a registry's credentials, and how it may be talked to.

use anyhow::Context;

use crate::registry::{Remembered, credentials};

use super::{Common, Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild logout registry.example.com")]
pub struct Arguments {
    /// The registry
    #[arg(env = "FNBUILD_REGISTRY", default_value = "localhost:5000", value_name = "HOST[:PORT]")]
    registry: String,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    if Remembered::new(&common.data_dir()?).forget(&arguments.registry)? {
        printer.status(format!("forgot how to talk to {}", arguments.registry));
    }
    let file = credentials::config_file().context("neither DOCKER_CONFIG nor HOME is set")?;
    let known = credentials::forget(&file, &arguments.registry)?;
    let text = if known { "logged out of" } else { "was not logged in to" };
    printer.status(format!("{text} {}", arguments.registry));
    Ok(Outcome::Success)
}
