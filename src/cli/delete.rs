//! `fnbuild delete NAME`: the record and the containers; with `--images` what the registry holds of it too.

use http::Method;

use crate::api::Deleted;
use crate::function::FunctionName;

use super::server::{AskArguments, block_on};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild delete add --images")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// Delete its images from the registry too, except what something else uses
    #[arg(long)]
    images: bool,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/functions/{}?images={}", arguments.name, arguments.images);
    let deleted: Deleted = block_on(server.call(Method::DELETE, &path, None::<&()>))?;
    printer.result(arguments.ask.output, &deleted, || format!("{} is deleted", deleted.name))?;
    for line in &deleted.kept {
        printer.warning(line);
    }
    Ok(if deleted.kept.is_empty() { Outcome::Success } else { Outcome::Partial })
}
