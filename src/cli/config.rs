//! `fnbuild config NAME -e K=V …`: a new version of the same image with other settings.

use http::Method;

use crate::api::Pushed;
use crate::function::{FunctionName, SettingsPatch};

use super::server::{AskArguments, block_on};
use super::settings::SettingArguments;
use super::{Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n\
    \x20 fnbuild config add -e GREETING=hello -e OLD- --memory 512Mi --timeout 90s")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    #[command(flatten)]
    settings: SettingArguments,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let patch: SettingsPatch = arguments.settings.patch()?;
    let path = format!("/v1/functions/{}/config", arguments.name);
    let pushed: Pushed = block_on(server.call(Method::POST, &path, Some(&patch)))?;
    print(&pushed, arguments.ask.output, printer)?;
    Ok(Outcome::Success)
}

/// What became of a change that made another version the current one.
pub fn print(pushed: &Pushed, output: OutputFormat, printer: &Printer) -> anyhow::Result<()> {
    pushed.warnings.iter().for_each(|warning| printer.warning(warning));
    match output {
        OutputFormat::Json => printer.json(pushed)?,
        OutputFormat::Text if pushed.unchanged => {
            printer.data(format!("{} stays at version {}: nothing changed", pushed.name, pushed.version));
        }
        OutputFormat::Text => printer.data(format!("{} is at version {}", pushed.name, pushed.version)),
    }
    Ok(())
}
