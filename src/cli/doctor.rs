//! `fnbuild doctor`: whether the store, the registry and containerd agree.

use http::Method;

use crate::api::Examined;

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild doctor --repair")]
pub struct Arguments {
    /// Put right what can be put right; records are never changed
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    server: ServerArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = Server::new(&arguments.server)?;
    let path = format!("/v1/doctor?repair={}", arguments.repair);
    let examined: Examined = block_on(server.call(Method::POST, &path, None::<&()>))?;
    match arguments.output {
        OutputFormat::Json => printer.json(&examined)?,
        OutputFormat::Text => printer.data(text(&examined)),
    }
    let is_well = examined.findings.iter().all(|finding| finding.repaired);
    Ok(if is_well { Outcome::Success } else { Outcome::Partial })
}

fn text(examined: &Examined) -> String {
    let line = |finding: &crate::api::Finding| {
        let end = if finding.repaired { " (repaired)" } else { "" };
        format!("{}{end}", finding.what)
    };
    let mut lines: Vec<String> = examined.findings.iter().map(line).collect();
    if lines.is_empty() {
        lines.push(format!("functions looked at: {}; everything agrees", examined.functions));
    }
    lines.join("\n")
}
