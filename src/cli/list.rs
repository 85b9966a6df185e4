//! `fnbuild list`: the functions that the server knows.

use crate::api::{Functions, Summary};

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild list -o json")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let functions = block_on(all(&Server::new(&arguments.server)?))?;
    match arguments.output {
        OutputFormat::Json => printer.json(&functions)?,
        OutputFormat::Text => printer.data(text(&functions)),
    }
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
