//! `fnbuild nodes`: the machines that share the records, with what each has and does.

use crate::cluster::{Node, NodeState};
use crate::function::Memory;

use super::server::{AskArguments, block_on};
use super::{Outcome, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild nodes")]
pub struct Arguments {
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let nodes: Vec<Node> = block_on(arguments.ask.server()?.get("/v1/nodes"))?;
    printer.result(arguments.ask.output, &nodes, || text(&nodes))?;
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
