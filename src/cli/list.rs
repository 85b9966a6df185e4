//! `fnbuild list`: the functions that the server knows.

use crate::api::{Functions, Summary};

use super::server::{AskArguments, Server, block_on};
use super::{Outcome, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild list -o json")]
pub struct Arguments {
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let functions = block_on(all(&arguments.ask.server()?))?;
    printer.result(arguments.ask.output, &functions, || text(&functions))?;
    Ok(Outcome::Success)
}

pub async fn all(server: &Server) -> anyhow::Result<Vec<Summary>> {
    let mut functions = Vec::new();
    let mut path = "/v1/functions".to_string();
    loop {
        let page: Functions = server.get(&path).await?;
        functions.extend(page.functions);
        match page.next {
            Some(next) => path = format!("/v1/functions?after={next}"),
            None => return Ok(functions),
        }
    }
}

fn text(functions: &[Summary]) -> String {
    let rows = functions.iter().map(|function| {
        [
            function.name.to_string(),
            function.version.to_string(),
            function.replicas.to_string(),
            function.created.clone(),
            function.image.clone(),
        ]
    });
    table(["NAME", "VERSION", "REPLICAS", "CREATED", "IMAGE"], rows)
}
