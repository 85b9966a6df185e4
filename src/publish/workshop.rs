//! Sources that are sent to a server: built and pushed as the command line would, to the same digest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::{Job, Meter, Packages, PublishError, PushedImage, publish};
use crate::function::{EntryPoint, FunctionName, SettingsPatch, VersionRequest};
use crate::image;
use crate::registry::Registry;
use crate::source::{self, Bounds};
use crate::telemetry::Figures;
use crate::telemetry::trace::{Clock, Context, Kind, Span, Tracer};

/// More builds at once would only make each slower.
const BUILDS: usize = 4;

/// The parts of a build that the registry takes.
const PUSH_STEPS: [&str; 2] = ["blobs", "manifest"];
/// What is no part of a build, but all of it.
const WHOLE: &str = "all";

/// Where a server builds.
pub struct Workshop {
    pub(super) registry: Arc<Registry>,
    pub(super) data: PathBuf,
    bounds: Bounds,
    /// The base where none is named.
    base: String,
    pub(super) builds: Semaphore,
    figures: Arc<Figures>,
    tracer: Option<Arc<Tracer>>,
}

/// What was sent, and what was said with it.
#[derive(Clone, Debug)]
pub struct Order {
    /// A zip, or a file whose name ends in `.py` and is its module's.
    pub source: PathBuf,
    pub entry: Option<EntryPoint>,
    pub base: Option<String>,
    /// Instead of the source's own list.
    pub requirements: Option<PathBuf>,
    pub no_deps: bool,
    pub settings: SettingsPatch,
    /// Who asks for it.
    pub author: Option<String>,
    /// The trace that it is a part of.
    pub context: Option<Context>,
}

impl Workshop {
    /// `data` is the data folder.
    pub fn new(
        registry: Arc<Registry>,
        data: PathBuf,
        bounds: Bounds,
        base: String,
        figures: Arc<Figures>,
    ) -> Self {
        Self { registry, data, bounds, base, builds: Semaphore::new(BUILDS), figures, tracer: None }
    }

    /// With somebody who takes traces of builds.
    pub fn with_tracer(self, tracer: Option<Arc<Tracer>>) -> Self {
        Self { tracer, ..self }
    }

    /// In bytes.
    pub fn largest_source(&self) -> u64 {
        self.bounds.source
    }

    /// Builds and pushes; gives what is to be recorded.
    pub async fn make(&self, name: &FunctionName, order: Order) -> Result<VersionRequest, PublishError> {
        let _turn = self.builds.acquire().await.map_err(|_| PublishError::Broken)?;
        let job = Job {
            source: order.source,
            from: source::Options { entry: order.entry, bounds: self.bounds.clone(), python: None },
            base: order.base.unwrap_or_else(|| self.base.clone()),
            packages: Packages {
                requirements: order.requirements,
                no_deps: order.no_deps,
                ..Packages::of_this_process(&self.data)
            },
            data: self.data.clone(),
            repository: name.repository(),
            platforms: Vec::new(),
            options: image::Options { name: Some(name.to_string()), ..image::Options::default() },
            tags: Vec::new(),
        };
        let (began, clock) = (Instant::now(), Clock::start());
        let pushed = publish(&self.registry, &job, &Arc::new(Meter::default())).await;
        self.count(&pushed, began.elapsed());
        self.trace(name, order.context, (clock, began), &pushed);
        // Where the upload was kept is nothing to whoever sent it.
        let pushed = pushed.map_err(|error| match error {
            PublishError::Source(error) => error.nameless().into(),
            other => other,
        })?;
        Ok(VersionRequest {
            repository: job.repository,
            digest: pushed.digest,
            source: Some(pushed.source),
            base: Some(pushed.base),
            entry: Some(pushed.entry),
            parameters: pushed.parameters,
            packages: pushed.packages.map(|report| report.packages).unwrap_or_default(),
            settings: order.settings,
            author: order.author,
        })
    }

    /// The steps of a build come one after the other.
    fn trace(
        &self,
        name: &FunctionName,
        parent: Option<Context>,
        (clock, began): (Clock, Instant),
        made: &Result<PushedImage, PublishError>,
    ) {
        let Some(tracer) = &self.tracer else { return };
        let context = tracer.begin(parent.as_ref());
        if !context.is_sampled() {
            return;
        }
        let mut span = Span {
            name: format!("build {name}").into(),
            kind: Kind::Internal,
            context,
            parent: parent.map(|parent| (parent.span, true)),
            state: String::new(),
            start: clock.at(began),
            end: clock.at(Instant::now()),
            attributes: Vec::new(),
            error: None,
        };
        span = span.with("fnbuild.function", name.to_string());
        match made {
            Ok(pushed) => {
                let steps = pushed.times.iter().copied().filter(|(step, _)| *step != WHOLE);
                span.steps(steps).into_iter().for_each(|step| tracer.record(step));
                span = span
                    .with("fnbuild.digest", pushed.digest.to_string())
                    .with("fnbuild.unchanged", pushed.unchanged);
            }
            Err(error) => span.error = Some(error.to_string()),
        }
        tracer.record(span);
    }

    fn count(&self, made: &Result<PushedImage, PublishError>, took: Duration) {
        match made {
            Ok(pushed) if pushed.unchanged => self.figures.builds_of_nothing.add_one(),
            Ok(pushed) => {
                self.figures.builds.add(took);
                let of_push = |(step, _): &&(&str, Duration)| PUSH_STEPS.contains(step);
                self.figures.pushes.add(pushed.times.iter().filter(of_push).map(|(_, time)| *time).sum());
            }
            Err(_) => self.figures.failed_builds.add_one(),
        }
    }
}
