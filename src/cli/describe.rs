//! `fnbuild describe NAME`: what a function is, what it runs with, what is attached to its image, and what answers for it.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::api::{Attached, Attachments, Described, ReplicaState};
use crate::function::{FunctionName, Settings, show_duration, signature};
use crate::publish::TITLE;

use super::server::{AskArguments, block_on};
use super::{Outcome, OutputFormat, Printer, schedule, table};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild describe add -o json")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/functions/{}", arguments.name);
    let (described, attached) = block_on(async {
        let described: Described = server.get(&path).await?;
        let attached: anyhow::Result<Attachments> = server.get(&format!("{path}/attached")).await;
        anyhow::Ok((described, attached))
    })?;
    let attached = match attached {
        Ok(attachments) => Some(attachments.attached),
        // The registry may be away; what the server itself knows is worth showing all the same.
        Err(error) => {
            printer.warning(format!("what is attached to the image is not known: {error}"));
            None
        }
    };
    match arguments.ask.output {
        OutputFormat::Json => {
            printer.json(&Whole { described: &described, attached: attached.as_deref() })?
        }
        OutputFormat::Text => printer.data(text(&described, &attached.unwrap_or_default())?),
    }
    Ok(Outcome::Success)
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    described: &'a Described,
    /// Missing where the registry could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    attached: Option<&'a [Attached]>,
}

fn text(function: &Described, attached: &[Attached]) -> anyhow::Result<String> {
    let none = "-".to_string();
    let settings = &function.settings;
    let mut text = String::new();
    let rows = [
        ("name", function.name.to_string()),
        ("version", format!("{} ({})", function.version, function.created)),
        ("image", function.image.clone()),
        ("base", function.base.clone().unwrap_or_else(|| none.clone())),
        ("entry", entry(function).unwrap_or(none)),
        ("packages", packages(function)),
        ("url", function.url.clone()),
        ("memory", settings.memory.to_string()),
        ("cpu", (f64::from(settings.cpu_millis) / 1000.0).to_string()),
        ("timeout", show_duration(Duration::from_millis(settings.timeout_ms))),
        ("calls", if function.require_token { "with a token" } else { "open" }.into()),
        ("scale", scale(settings)),
    ];
    for (key, value) in rows {
        writeln!(text, "{key:9}{value}")?;
    }
    // Names only: what a variable holds may be nobody's business.
    writeln!(text, "{:9}{}", "env", settings.env.keys().cloned().collect::<Vec<_>>().join(" "))?;
    if let Some(death) = &function.last_death {
        let (replica, version) = (&death.replica, death.version);
        writeln!(text, "{:9}{} {replica} of version {version}: {}", "died", death.time, death.cause)?;
    }
    if let Some(failed) = &function.last_failed_start {
        let cause = failed.cause.replace('\n', &format!("\n{:9}", ""));
        writeln!(text, "{:9}{} version {} did not start: {cause}", "failed", failed.time, failed.version)?;
    }
    if !attached.is_empty() {
        let rows = attached.iter().map(|artifact| {
            let file = artifact.annotations.get(TITLE).cloned();
            let kind = artifact.artifact_type.clone();
            [
                kind.unwrap_or_else(|| "-".into()),
                file.unwrap_or_else(|| "-".into()),
                artifact.digest.to_string(),
            ]
        });
        writeln!(text, "\n{}", table(["ATTACHED", "FILE", "DIGEST"], rows))?;
    }
    if !function.schedules.is_empty() {
        writeln!(text, "\n{}", schedule::table_of(&function.schedules))?;
    }
    write!(text, "\n{}", replicas(&function.replicas))?;
    Ok(text)
}

fn scale(settings: &Settings) -> String {
    let Settings { min_scale, max_scale, concurrency, target_rps, .. } = settings;
    let rate = if *target_rps > 0 { format!(", {target_rps} in a second") } else { String::new() };
    format!("{min_scale} to {max_scale}, {concurrency} calls each{rate}")
}

/// The replicas of all nodes.
pub fn replicas(replicas: &[ReplicaState]) -> String {
    let rows = replicas.iter().map(|replica| {
        let address = format!("{}:{}", replica.address, replica.port);
        let refused = match (replica.out_of_memory, replica.out_of_pids) {
            (0, 0) => "-".to_string(),
            (memory, pids) => format!("memory {memory}, processes {pids}"),
        };
        let (id, node, state) = (replica.id.clone(), replica.node.clone(), replica.state.clone());
        [id, node, replica.version.to_string(), address, state, refused]
    });
    table(["REPLICA", "NODE", "VERSION", "ADDRESS", "STATE", "REFUSED"], rows)
}

/// `func:run(x, y=1)`; without the parentheses where nobody knows what is in them.
fn entry(function: &Described) -> Option<String> {
    let entry = function.entry.as_ref()?;
    Some(match &function.parameters {
        Some(parameters) => format!("{entry}({})", signature(parameters)),
        None => entry.clone(),
    })
}

/// Their hashes are for `-o json`.
fn packages(function: &Described) -> String {
    let words: Vec<_> =
        function.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    if words.is_empty() { "-".into() } else { words.join(", ") }
}
