//! `fnbuild status`: whether the server is ready, and if not, why; and how much it has to do.

use serde::Serialize;

use crate::api::Status;
use crate::cluster::Node;

use super::server::{AskArguments, block_on};
use super::{Outcome, Printer, list};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild status --server http://127.0.0.1:8080")]
pub struct Arguments {
    #[command(flatten)]
    ask: AskArguments,
}

/// What the server says of itself, and of what it serves.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    status: Status,
    /// Absent where the server cannot say.
    functions: Option<usize>,
    nodes: Option<Vec<Node>>,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let whole = block_on(async {
        let status: Status = server.get("/v1/status").await?;
        // One that is not well may still say what is wrong with it.
        let functions = list::all(&server).await.ok().map(|functions| functions.len());
        Ok(Whole { status, functions, nodes: server.get("/v1/nodes").await.ok() })
    })?;
    printer.result(arguments.ask.output, &whole, || text(&whole, server.url()))?;
    Ok(if whole.status.ready { Outcome::Success } else { Outcome::Partial })
}

fn text(whole: &Whole, url: &str) -> String {
    let Status { version, registry, namespace, ready, problems, .. } = &whole.status;
    let state = if *ready { "ready" } else { "not ready" };
    let mut lines = vec![
        format!("fnbuild {version} at {url}: {state}"),
        format!("registry {registry}, containerd namespace {namespace}"),
    ];
    let functions = whole.functions.map(|count| format!("functions {count}"));
    let nodes = whole.nodes.as_ref().map(|nodes| {
        let sum = |count: fn(&Node) -> u32| nodes.iter().map(count).sum::<u32>();
        let (replicas, most) = (sum(|node| node.load.replicas), sum(|node| node.capacity.replicas));
        let calls = sum(|node| node.load.in_flight);
        format!("nodes {}, replicas {replicas} of at most {most}, calls in flight {calls}", nodes.len())
    });
    lines.push([functions, nodes].into_iter().flatten().collect::<Vec<_>>().join(", "));
    lines.retain(|line| !line.is_empty());
    lines.extend(problems.iter().cloned());
    lines.join("\n")
}
