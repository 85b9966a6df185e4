//! `fnbuild logs NAME`: what a function printed.

use std::time::Duration;

use anyhow::Context;
use http::Method;
use http_body_util::BodyExt;

use crate::api::LogLine;
use crate::function::FunctionName;

use super::server::{AskArguments, Server, block_on, whole};
use super::settings::{parse_duration, parse_number};
use super::{Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild logs add -f --since 5m")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// Go on with what is printed from here on
    #[arg(short, long)]
    follow: bool,
    /// Only what is younger (5m, 1h)
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    since: Option<Duration>,
    /// At most this many lines of those that are there
    #[arg(long, value_name = "N", value_parser = parse_number::<usize>)]
    tail: Option<usize>,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let mut path = format!("/v1/functions/{}/logs?follow={}", arguments.name, arguments.follow);
    if let Some(tail) = arguments.tail {
        path += &format!("&tail={tail}");
    }
    if let Some(since) = arguments.since {
        path += &format!("&since={}", since.as_secs_f64());
    }
    block_on(async {
        follow(&server, &path, |line| show(&line, arguments.ask.output, printer)).await?;
        if arguments.follow {
            printer.status(format!("the log ends: {} was deleted, or the server stops", arguments.name));
        }
        Ok(Outcome::Success)
    })
}

/// Gives each line that the server has at this path, as it comes.
pub async fn follow(
    server: &Server,
    path: &str,
    mut show: impl FnMut(LogLine) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let response = server.send_ok(server.request(Method::GET, path).body(whole(""))?).await?;
    let mut body = response.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.context("the logs broke off")?.into_data() else { continue };
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            show(serde_json::from_slice(&line).context("what the server sent is no log line")?)?;
        }
    }
    Ok(())
}

fn show(line: &LogLine, output: OutputFormat, printer: &Printer) -> anyhow::Result<()> {
    match output {
        OutputFormat::Json => printer.data(serde_json::to_string(line)?),
        OutputFormat::Text => {
            let LogLine { time, version, replica, stream, call, text } = line;
            let call = call.as_ref().map(|call| format!(" {call}")).unwrap_or_default();
            printer.data(format!("{time} v{version} {replica}{call} {stream}: {text}"));
        }
    }
    Ok(())
}
