//! `fnbuild calls list | show | retry | drop`: asynchronous calls that wait or failed, at the node that is asked.

use std::fmt::Write as _;

use http::Method;

use crate::api::Removed;
use crate::function::FunctionName;
use crate::queue::{CallBody, CallDetail, CallPage, CallSummary};

use super::server::{AskArguments, block_on};
use super::{Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fnbuild calls list mail --state dead\n  fnbuild calls retry 4f2a9c")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List the calls that are not answered: waiting, running, and dead letters
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a call: what was asked, and what came of it
    #[command(after_help = "Example:\n  fnbuild calls show 4f2a9c")]
    Show(One),
    /// Make a call again, from its first attempt on
    #[command(after_help = "Example:\n  fnbuild calls retry 4f2a9c")]
    Retry(One),
    /// Drop a call for good
    #[command(visible_alias = "rm", after_help = "Example:\n  fnbuild calls drop 4f2a9c")]
    Drop(One),
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild calls list mail --state dead")]
struct List {
    /// Only this function's
    name: Option<FunctionName>,
    /// Only those that are so: waiting, running, answered or dead
    #[arg(long, value_parser = ["waiting", "running", "answered", "dead"])]
    state: Option<String>,
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Args)]
struct One {
    /// The X-Call-Id that it was answered with
    id: String,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    match &arguments.verb {
        Verb::List(list) => {
            let calls = block_on(all(list))?;
            printer.result(list.ask.output, &calls, || rows(&calls))?;
        }
        Verb::Show(one) => {
            let call: CallDetail = ask(one, Method::GET, "")?;
            match one.ask.output {
                OutputFormat::Json => printer.json(&call)?,
                OutputFormat::Text => printer.data(text(&call)?),
            }
        }
        Verb::Retry(one) => {
            let call: CallSummary = ask(one, Method::POST, "/retry")?;
            printer.result(one.ask.output, &call, || format!("the call {} is {}", call.id, call.state))?;
        }
        Verb::Drop(one) => {
            let removed: Removed = ask(one, Method::DELETE, "")?;
            printer.result(one.ask.output, &removed, || format!("the call {} is dropped", one.id))?;
        }
    }
    Ok(Outcome::Success)
}

async fn all(list: &List) -> anyhow::Result<Vec<CallSummary>> {
    let server = list.ask.server()?;
    let mut which = "limit=1000".to_string();
    if let Some(name) = &list.name {
        which += &format!("&function={name}");
    }
    if let Some(state) = &list.state {
        which += &format!("&state={state}");
    }
    let (mut calls, mut after) = (Vec::new(), String::new());
    let calls = loop {
        let page: CallPage = server.get(&format!("/v1/calls?{which}{after}")).await?;
        calls.extend(page.calls);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => break calls,
        }
    };
    // Calls may outlive their function.
    if let (true, Some(name)) = (calls.is_empty(), &list.name) {
        server.must_have(name).await?;
    }
    Ok(calls)
}

fn ask<T: serde::de::DeserializeOwned>(one: &One, method: Method, what: &str) -> anyhow::Result<T> {
    let server = one.ask.server()?;
    let id = percent_encoding::utf8_percent_encode(&one.id, percent_encoding::NON_ALPHANUMERIC);
    block_on(server.call(method, &format!("/v1/calls/{id}{what}"), None::<&()>))
}

fn rows(calls: &[CallSummary]) -> String {
    let none = || "-".to_string();
    let rows = calls.iter().map(|call| {
        [
            call.id.clone(),
            call.function.clone(),
            call.state.clone(),
            call.attempts.to_string(),
            call.accepted.clone(),
            call.due.clone().unwrap_or_else(none),
            call.last_reason.clone().unwrap_or_else(none),
        ]
    });
    table(["CALL", "FUNCTION", "STATE", "ATTEMPTS", "ACCEPTED", "NEXT", "LAST"], rows)
}

fn text(call: &CallDetail) -> anyhow::Result<String> {
    let CallDetail { summary, .. } = call;
    let mut text = String::new();
    let mut row = |key: &str, value: &str| writeln!(text, "{key:10}{value}");
    row("call", &summary.id)?;
    row("function", &summary.function)?;
    row("state", &summary.state)?;
    row("accepted", &summary.accepted)?;
    row("attempts", &format!("{}, and {} that did not reach it", summary.attempts, summary.deferrals))?;
    for (key, value) in [
        ("next", &summary.due),
        ("last", &summary.last_reason),
        ("schedule", &summary.schedule),
        ("callback", &call.callback),
    ] {
        if let Some(value) = value {
            row(key, value)?;
        }
    }
    write!(text, "\n{} {}\n", call.method, call.path)?;
    for (name, value) in &call.headers {
        writeln!(text, "{name}: {value}")?;
    }
    match &call.body {
        CallBody::Text(body) => write!(text, "\n{body}")?,
        CallBody::Base64(_) => {
            write!(text, "\n({} bytes that are no text; -o json has them)", summary.bytes)?
        }
    }
    if !call.last_answer.is_empty() {
        write!(text, "\n\nanswered last:\n{}", call.last_answer)?;
    }
    Ok(text)
}
