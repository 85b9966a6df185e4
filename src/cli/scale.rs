//! `fnbuild scale NAME [REPLICAS]`: how many replicas stay up without calls, and which there are on all nodes.

use http::Method;
use serde::Serialize;

use crate::api::{Described, Pushed, ReplicaState, Scale};
use crate::function::FunctionName;

use super::server::{AskArguments, block_on};
use super::settings::parse_number;
use super::{Outcome, OutputFormat, Printer, describe};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fnbuild scale add 2\n  fnbuild scale add")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// How many stay up without calls, over all nodes [default: leave it as it is, and show what runs]
    #[arg(value_parser = parse_number::<u32>)]
    replicas: Option<u32>,
    #[command(flatten)]
    ask: AskArguments,
}

/// What `-o json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Scaled {
    /// Missing where nothing was asked for.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pushed: Option<Pushed>,
    min_scale: u32,
    max_scale: u32,
    /// At this moment: those that were asked for may still be on their way.
    replicas: Vec<ReplicaState>,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/functions/{}", arguments.name);
    let (pushed, described) = block_on(async {
        let pushed: Option<Pushed> = match arguments.replicas {
            Some(replicas) => {
                Some(server.call(Method::POST, &format!("{path}/scale"), Some(&Scale { replicas })).await?)
            }
            None => None,
        };
        let described: Described = server.get(&path).await?;
        anyhow::Ok((pushed, described))
    })?;
    let Described { settings, replicas, .. } = described;
    match arguments.ask.output {
        OutputFormat::Json => {
            let warnings = pushed.iter().flat_map(|pushed| &pushed.warnings);
            warnings.for_each(|warning| printer.warning(warning));
            let (min_scale, max_scale) = (settings.min_scale, settings.max_scale);
            printer.json(&Scaled { pushed, min_scale, max_scale, replicas })?;
        }
        OutputFormat::Text => {
            if let Some(pushed) = &pushed {
                super::config::print(pushed, arguments.ask.output, printer)?;
            }
            printer.data(format!(
                "{} to {} replicas\n\n{}",
                settings.min_scale,
                settings.max_scale,
                describe::replicas(&replicas)
            ));
        }
    }
    Ok(Outcome::Success)
}
