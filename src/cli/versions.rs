//! `fnbuild versions NAME`: every push of a function that can be gone back to.

use crate::api::Versions;
use crate::function::FunctionName;

use super::server::{AskArguments, block_on};
use super::{Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild versions add")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let versions: Versions = block_on(server.get(&format!("/v1/functions/{}/versions", arguments.name)))?;
    match arguments.ask.output {
        OutputFormat::Json => printer.json(&versions)?,
        OutputFormat::Text => {
            let rows = versions.versions.iter().rev().map(|version| {
                let current = if version.number == versions.current { "*" } else { "" };
                let digest = version.image.digest.short().to_string();
                let author = version.image.author.clone().unwrap_or_else(|| "-".into());
                [current.into(), version.number.to_string(), version.created.clone(), digest, author]
            });
            printer.data(table(["", "VERSION", "CREATED", "IMAGE", "BY"], rows));
        }
    }
    Ok(Outcome::Success)
}
