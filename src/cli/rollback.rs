//! `fnbuild rollback NAME [VERSION]`: makes an earlier version the current one. Nothing is built.

use http::Method;

use crate::api::{Pushed, Selected};
use crate::function::{FunctionName, VersionNumber};

use super::server::{AskArguments, block_on};
use super::settings::parse_number;
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fnbuild rollback add\n  fnbuild rollback add 3")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// The version to go back to [default: the one before the current]
    #[arg(value_name = "VERSION", value_parser = parse_number::<VersionNumber>)]
    to: Option<VersionNumber>,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/functions/{}/rollback", arguments.name);
    let body = Selected { version: arguments.to };
    let pushed: Pushed = block_on(server.call(Method::POST, &path, Some(&body)))?;
    super::config::print(&pushed, arguments.ask.output, printer)?;
    Ok(Outcome::Success)
}
