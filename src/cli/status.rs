//! `fnbuild status`: whether the server is ready, and if not, why.

use crate::api::Status;

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let status: Status = block_on(server.get("/v1/status"))?;
    match arguments.output {
        OutputFormat::Json => printer.json(&status)?,
        OutputFormat::Text => {
            let state = if status.ready { "ready" } else { "not ready" };
            let Status { version, registry, namespace, .. } = &status;
            printer.data(format!("fnbuild {version} at {}: {state}", server.url()));
            printer.data(format!("registry {registry}, containerd namespace {namespace}"));
            for problem in &status.problems {
                printer.data(problem);
            }
        }
    }
    Ok(if status.ready { Outcome::Success } else { Outcome::Partial })
}
