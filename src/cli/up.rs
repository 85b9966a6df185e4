//! `fnbuild up`: the functions that a file names, built and deployed at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use http::Method;
use serde::Serialize;

use crate::api::{Pushed, Removed, ScheduleList, Status};
use crate::dependencies::Cancel;
use crate::function::FunctionName;
use crate::project::{Planned, PlannedSchedule, Project};
use crate::publish::{self, Blame, Job, Meter, Packages, PublishError, PushedImage};
use crate::queue::{NewSchedule, ScheduleState};
use crate::registry::Registry;
use crate::{base, image, source};

use super::push::or_interrupted;
use super::registry_flags::RegistryArguments;
use super::server::{AskArguments, Server, ServerArguments, block_on};
use super::{Common, Outcome, OutputFormat, Printer, hint, report, tell};

/// More at once would only make each slower.
const AT_ONCE: usize = 4;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fnbuild up\n  fnbuild up -f stack.yml add mail")]
pub struct Arguments {
    /// Only these of the functions that the file names
    names: Vec<FunctionName>,
    /// The file that names the functions [default: fnbuild.toml, stack.yml or stack.yaml here]
    #[arg(short, long, env = "FNBUILD_FILE", value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArguments,
    #[command(flatten)]
    ask: AskArguments,
}

/// What became of one function, for `-o json`.
#[derive(Serialize)]
struct Report {
    name: FunctionName,
    #[serde(flatten)]
    pushed: Option<PushedReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Serialize)]
struct PushedReport {
    version: u64,
    digest: String,
    reference: String,
    url: String,
    unchanged: bool,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let file = arguments.file.clone().map_or_else(|| Project::find(Path::new("")), Ok)?;
    let project = Project::open(&file)?.only(&arguments.names)?;
    project.warnings.iter().for_each(|warning| printer.warning(warning));
    // What the server would refuse is refused before anything is built.
    for planned in &project.functions {
        let checked = schedules(planned).iter().flatten().try_for_each(NewSchedule::check);
        checked.with_context(|| planned.name.to_string())?;
    }
    let data = common.data_dir()?;
    let registry = arguments.registry.open(&data)?;
    let mut reports = block_on(async {
        // One word that there is no server, before anything is built, instead of one for each function.
        let _: Status = arguments.ask.server()?.get("/v1/status").await?;
        let up = |planned: Planned| {
            let (data, registry) = (&data, &registry);
            async move {
                let name = planned.name.clone();
                let pushed = deploy(planned, (data, registry), &arguments.ask.at, printer).await;
                told(name, pushed, arguments.ask.output, printer)
            }
        };
        let ups = futures_util::stream::iter(project.functions).map(up).buffer_unordered(AT_ONCE);
        Ok(ups.collect::<Vec<_>>().await)
    })?;
    let failed = reports.iter().filter(|report| report.error.is_some()).count();
    if arguments.ask.output == OutputFormat::Json {
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        printer.json(&reports)?;
    }
    if failed > 0 {
        printer.status(format!("not deployed: {failed} of {}", reports.len()));
        return Ok(Outcome::Partial);
    }
    arguments.registry.remember(&data, printer);
    Ok(Outcome::Success)
}

async fn deploy(
    planned: Planned,
    (data, registry): (&Path, &Registry),
    server: &ServerArguments,
    printer: &Printer,
) -> anyhow::Result<Pushed> {
    let (schedules, name) = (schedules(&planned), planned.name);
    let job = Job {
        source: planned.source,
        from: source::Options { entry: planned.entry, ..source::Options::default() },
        base: planned.base.unwrap_or_else(|| base::DEFAULT.into()),
        packages: Packages { requirements: planned.requirements, ..Packages::of_this_process(data) },
        data: data.into(),
        repository: name.repository(),
        platforms: Vec::new(),
        options: image::Options { name: Some(name.to_string()), ..image::Options::default() },
        tags: Vec::new(),
    };
    let pushed = push(registry, &job).await?;
    pushed.packages.iter().for_each(|packages| report::explain_packages(packages, printer));
    let request = tell::version(&job, &pushed, planned.settings);
    let pushed = tell::tell(server, &name, registry.host(), &request).await?;
    if let Some(schedules) = schedules {
        keep_schedules(&Server::new(server)?, &name, schedules).await.context("the schedules")?;
    }
    Ok(pushed)
}

fn schedules(planned: &Planned) -> Option<Vec<NewSchedule>> {
    let all = planned.schedules.clone()?.into_iter();
    let new = |PlannedSchedule { pattern: cron, time_zone, data }| NewSchedule { cron, time_zone, data };
    Some(all.map(new).collect())
}

/// Makes these the function's schedules, and no others. Those that are there already stay, with the tick they are at.
async fn keep_schedules(
    server: &Server,
    name: &FunctionName,
    schedules: Vec<NewSchedule>,
) -> anyhow::Result<()> {
    let mut kept = Vec::new();
    for schedule in schedules {
        let path = format!("/v1/functions/{name}/schedules");
        let state: ScheduleState = server.call(Method::POST, &path, Some(&schedule)).await?;
        kept.push(state.id);
    }
    let there: ScheduleList = server.get(&format!("/v1/schedules?function={name}")).await?;
    for other in there.schedules.iter().filter(|other| !kept.contains(&other.id)) {
        let path = format!("/v1/schedules/{}", other.id);
        let _: Removed = server.call(Method::DELETE, &path, None::<&()>).await?;
    }
    Ok(())
}

/// Several first pushes at once bring the same base, and some registries lose sight of a blob that two have brought for a
/// moment: what fails at the registry is tried once more.
async fn push(registry: &Registry, job: &Job) -> anyhow::Result<PushedImage> {
    let meter = Arc::new(Meter::default());
    let pushed = or_interrupted(publish::publish(registry, job, &meter), job).await;
    let at_the_registry = |error: &anyhow::Error| {
        error.downcast_ref::<PublishError>().is_some_and(|error| error.blame() == Blame::Registry)
    };
    match pushed {
        Err(error) if at_the_registry(&error) => {
            let mut again = job.clone();
            again.packages.options.cancel = Cancel::default();
            or_interrupted(publish::publish(registry, &again, &meter), &again).await
        }
        pushed => pushed,
    }
}

/// Says what became of a function, as soon as it is known.
fn told(
    name: FunctionName,
    pushed: anyhow::Result<Pushed>,
    output: OutputFormat,
    printer: &Printer,
) -> Report {
    let pushed = match pushed {
        Ok(pushed) => pushed,
        Err(error) => {
            let hint = hint::of(&error);
            printer.error_of(Some(name.as_str()), &error, hint.as_deref());
            return Report { name, pushed: None, error: Some(format!("{error:#}")), hint };
        }
    };
    for warning in &pushed.warnings {
        printer.warning(format!("{name}: {warning}"));
    }
    let Pushed { version, digest, reference, url, unchanged, .. } = pushed;
    if output == OutputFormat::Text {
        let unchanged = if unchanged { " (unchanged)" } else { "" };
        printer.data(format!("{name}: version {version}{unchanged} {url}"));
    }
    let pushed = Some(PushedReport { version, digest, reference, url, unchanged });
    Report { name, pushed, error: None, hint: None }
}
