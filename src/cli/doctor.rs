//! `fnbuild doctor`: whether the store, the registry and containerd agree.

use http::Method;

use crate::api::Examined;

use super::server::{AskArguments, block_on};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild doctor --repair")]
pub struct Arguments {
    /// Put right what can be put right; records are never changed
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/doctor?repair={}", arguments.repair);
    let examined: Examined = block_on(server.call(Method::POST, &path, None::<&()>))?;
    printer.result(arguments.ask.output, &examined, || text(&examined))?;
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
