//! `fnbuild scale NAME REPLICAS`: how many replicas stay up without calls.

use http::Method;

use crate::api::{Pushed, Scale};
use crate::function::FunctionName;

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
pub struct Arguments {
    name: FunctionName,
    replicas: u32,
    #[command(flatten)]
    server: ServerArguments,
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let path = format!("/v1/functions/{}/scale", arguments.name);
    let body = Scale { replicas: arguments.replicas };
    let pushed: Pushed = block_on(server.call(Method::POST, &path, Some(&body)))?;
    super::config::print(&pushed, arguments.output, printer)?;
    Ok(Outcome::Success)
}
