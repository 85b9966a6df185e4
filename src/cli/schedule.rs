//! `fnbuild schedule NAME PATTERN`, `fnbuild schedule list | remove`: when functions are called by themselves.

use http::Method;

use crate::api::{Removed, ScheduleList};
use crate::function::FunctionName;
use crate::queue::{NewSchedule, ScheduleState};

use super::server::{AskArguments, block_on};
use super::{Outcome, OutputFormat, Printer, invoke, table};

#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  fnbuild schedule mail '*/5 * * * *' -d '{\"to\": \"me\"}'\n  fnbuild schedule mail @daily --time-zone Europe/Berlin"
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    add: Add,
}

#[derive(clap::Args)]
struct Add {
    /// The function that is called
    #[arg(required = true)]
    name: Option<FunctionName>,
    /// When: minute hour day month weekday, as cron has it, or @hourly, @daily, @weekly, @monthly
    #[arg(required = true, value_name = "PATTERN")]
    pattern: Option<String>,
    /// The body of each call: JSON, @FILE, or - for stdin
    #[arg(short, long, default_value = "{}", hide_default_value = true)]
    data: String,
    /// The time zone of the pattern, by its IANA name (Europe/Berlin)
    #[arg(long, default_value = "UTC", value_name = "TZ")]
    time_zone: String,
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List the schedules
    #[command(visible_alias = "ls")]
    List(List),
    /// Remove a schedule, or all of a function
    #[command(visible_alias = "rm")]
    Remove(Remove),
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild schedule list")]
struct List {
    /// Only this function's
    name: Option<FunctionName>,
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild schedule remove mail")]
struct Remove {
    /// A function, for all of its schedules, or the ID of one
    #[arg(value_name = "NAME|ID")]
    which: String,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    match &arguments.verb {
        None => add(&arguments.add, printer)?,
        Some(Verb::List(list)) => {
            let function = list.name.as_ref().map(|name| format!("?function={name}")).unwrap_or_default();
            let server = list.ask.server()?;
            let found = block_on(async {
                let found: ScheduleList = server.get(&format!("/v1/schedules{function}")).await?;
                if let (true, Some(name)) = (found.schedules.is_empty(), &list.name) {
                    server.must_have(name).await?;
                }
                Ok(found)
            })?;
            printer.result(list.ask.output, &found.schedules, || table_of(&found.schedules))?;
        }
        Some(Verb::Remove(remove)) => {
            let server = remove.ask.server()?;
            // No function's name has a dot, and every ID has one.
            let path = match remove.which.contains('.') {
                true => format!("/v1/schedules/{}", encoded(&remove.which)),
                false => format!("/v1/functions/{}/schedules", encoded(&remove.which)),
            };
            let removed: Removed = block_on(server.call(Method::DELETE, &path, None::<&()>))?;
            match remove.ask.output {
                OutputFormat::Json => printer.json(&removed)?,
                OutputFormat::Text if removed.removed.is_empty() => {
                    printer.status(format!("{} has no schedule", remove.which));
                }
                OutputFormat::Text => {
                    removed
                        .removed
                        .iter()
                        .for_each(|id| printer.data(format!("the schedule {id} is removed")));
                }
            }
        }
    }
    Ok(Outcome::Success)
}

fn add(add: &Add, printer: &Printer) -> anyhow::Result<()> {
    let (Some(name), Some(cron)) = (&add.name, add.pattern.clone()) else {
        anyhow::bail!("a schedule needs a function and a pattern");
    };
    let data = String::from_utf8(invoke::data(&add.data)?)?;
    let new = NewSchedule { cron, time_zone: add.time_zone.clone(), data };
    let server = add.ask.server()?;
    let path = format!("/v1/functions/{name}/schedules");
    let schedule: ScheduleState = block_on(server.call(Method::POST, &path, Some(&new)))?;
    match add.ask.output {
        OutputFormat::Json => printer.json(&schedule)?,
        OutputFormat::Text => {
            let next = schedule.next.unwrap_or_else(|| "-".into());
            printer.data(format!("the schedule {} of {name} is kept; it is due next at {next}", schedule.id));
        }
    }
    Ok(())
}

/// For `describe` too.
pub fn table_of(schedules: &[ScheduleState]) -> String {
    let none = || "-".to_string();
    let rows = schedules.iter().map(|schedule| {
        [
            schedule.id.clone(),
            schedule.cron.clone(),
            schedule.time_zone.clone(),
            schedule.last.clone().unwrap_or_else(none),
            schedule.next.clone().unwrap_or_else(none),
        ]
    });
    table(["SCHEDULE", "PATTERN", "ZONE", "LAST", "NEXT"], rows)
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
