//! `fnbuild nodes`: the machines that share the records, with what each has and does.

use crate::cluster::{Node, NodeState};
use crate::function::Memory;

use super::server::{Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild nodes")]
pub struct Arguments {
    #[command(flatten)]
    server: ServerArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let nodes: Vec<Node> = block_on(Server::new(&arguments.server)?.get("/v1/nodes"))?;
    match arguments.output {
        OutputFormat::Json => printer.json(&nodes)?,
        OutputFormat::Text => printer.data(text(&nodes)),
    }
    Ok(Outcome::Success)
}

fn text(nodes: &[Node]) -> String {
    let rows = nodes.iter().map(|node| {
        let state = match node.state {
            NodeState::Ready => "ready",
            NodeState::Draining => "draining",
        };
        let mebibytes = |bytes: u64| Memory(bytes >> 20 << 20).to_string();
        [
            node.id.clone(),
            node.host.clone(),
            node.url.clone(),
            state.into(),
            format!("{}/{}", node.load.replicas, node.capacity.replicas),
            node.load.in_flight.to_string(),
            format!("{}/{}", mebibytes(node.load.memory), mebibytes(node.capacity.memory)),
            node.capacity.cpus.to_string(),
        ]
    });
    table(["NODE", "HOST", "URL", "STATE", "REPLICAS", "CALLS", "MEMORY", "CPUS"], rows)
}
