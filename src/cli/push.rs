//! `fnbuild push SOURCE`: build, push, and tell the server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::api;
use crate::function::FunctionName;
use crate::oci::{Digest, Reference, Repository, Tag};
use crate::publish::{self, ArtifactType, Attachment, Job, Meter, PublishError, PushedImage};
use crate::registry::Registry;

use super::image_flags::{ImageArguments, function_name};
use super::registry_flags::RegistryArguments;
use super::report::{self, LayerReport};
use super::requirements::{RequirementArguments, cancelled_by_signal};
use super::server::{Server, ServerArguments};
use super::settings::SettingArguments;
use super::{Common, Outcome, OutputFormat, Printer, Usage, tell};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild push func.zip\n\
    \x20 fnbuild push add/ -e GREETING=hello --memory 512Mi --min-scale 1\n\
    \x20 fnbuild push add.py --image-only --registry registry.example.com --tag v1")]
pub struct Arguments {
    /// A zip, a .py file or a folder
    source: PathBuf,
    /// The function's name [default: from the source's file name]
    #[arg(long)]
    name: Option<FunctionName>,
    #[command(flatten)]
    image: ImageArguments,
    #[command(flatten)]
    requirements: RequirementArguments,
    #[command(flatten)]
    registry: RegistryArguments,
    /// Push the image and tell no server
    #[arg(long)]
    image_only: bool,
    /// A tag of the image, beside those that the server writes; may be given several times [default with
    /// --image-only: latest]
    #[arg(long = "tag", value_name = "TAG", conflicts_with = "remote")]
    tags: Vec<Tag>,
    /// Keep this file beside the image, as an artifact that refers to it (an SBOM, a signature); may be given several times
    #[arg(long, value_name = "FILE", requires = "artifact_type")]
    attach: Vec<PathBuf>,
    /// What the attached files are: a media type, such as application/spdx+json
    #[arg(long, value_name = "TYPE", requires = "attach")]
    artifact_type: Option<ArtifactType>,
    /// Send the source to the server, which builds
    #[arg(long, conflicts_with = "image_only")]
    remote: bool,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    settings: SettingArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

/// What `-o json` prints.
#[derive(Serialize)]
struct Report {
    digest: String,
    reference: String,
    url: Option<String>,
    version: Option<u64>,
    unchanged: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerReport>,
    /// Milliseconds. Steps overlap.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    times: BTreeMap<&'static str, f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attached: Vec<AttachedReport>,
}

#[derive(Serialize)]
struct AttachedReport {
    file: PathBuf,
    digest: Digest,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let name = function_name(arguments.name.as_ref(), &arguments.source)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async {
        let report = if arguments.remote {
            push_source(arguments, common, &name, printer).await?
        } else {
            push_image(arguments, common, &name, printer).await?
        };
        print(&report, arguments.output, printer)
    };
    let done = runtime.block_on(work);
    // An unchanged source may still be being hashed for the push that it did not need.
    runtime.shutdown_background();
    done.map(|()| Outcome::Success)
}

async fn push_image(
    arguments: &Arguments,
    common: &Common,
    name: &FunctionName,
    printer: &Printer,
) -> anyhow::Result<Report> {
    let settings = arguments.settings.patch()?;
    let registry = arguments.registry.open(&common.data_dir()?)?;
    let tags = match (arguments.image_only, arguments.tags.as_slice()) {
        (true, []) => vec![Tag::latest()],
        (_, tags) => tags.to_vec(),
    };
    let data = common.data_dir()?;
    let job = Job {
        source: arguments.source.clone(),
        from: arguments.image.source_options(),
        base: arguments.image.base.clone(),
        packages: arguments.requirements.packages(&data),
        data,
        repository: name.repository(),
        platforms: arguments.image.platforms(),
        options: arguments.image.image_options(name),
        tags,
    };
    let meter = Arc::new(Meter::default());
    let pushed = {
        let pushing = or_interrupted(publish::publish(&registry, &job, &meter), &job);
        if printer.shows_progress() { watched(pushing, &meter).await? } else { pushing.await? }
    };
    arguments.registry.remember(&job.data, printer);
    let mut report = Report {
        digest: pushed.digest.to_string(),
        reference: reference(arguments, &job, &pushed).to_string(),
        url: None,
        version: None,
        unchanged: pushed.unchanged,
        layers: report::layers(&pushed.layers),
        times: report::times(&pushed.times),
        attached: attach(arguments, &registry, &job.repository, &pushed.digest).await?,
    };
    pushed.packages.iter().for_each(|packages| report::explain_packages(packages, printer));
    report::explain_layers(&report.layers, printer);
    report::explain_times(&pushed.times, printer);
    if !arguments.image_only {
        let request = tell::version(&job, &pushed, settings);
        let told = tell::tell(&arguments.server, name, registry.host(), &request).await?;
        for warning in &told.warnings {
            printer.warning(warning);
        }
        (report.reference, report.url) = (told.reference, Some(told.url));
        (report.version, report.unchanged) = (Some(told.version), told.unchanged);
    }
    Ok(report)
}

/// Pushes the files that are to stand beside the image.
async fn attach(
    arguments: &Arguments,
    registry: &Registry,
    repository: &Repository,
    image: &Digest,
) -> anyhow::Result<Vec<AttachedReport>> {
    let mut attached = Vec::new();
    let Some(artifact_type) = &arguments.artifact_type else { return Ok(attached) };
    for file in &arguments.attach {
        let attachment = Attachment { file: file.clone(), artifact_type: artifact_type.clone() };
        let digest = publish::attach(registry, repository, image, &attachment).await?.digest;
        attached.push(AttachedReport { file: attachment.file, digest });
    }
    Ok(attached)
}

/// A push that is interrupted first ends uv, which would go on alone.
pub async fn or_interrupted(
    pushing: impl Future<Output = Result<PushedImage, PublishError>>,
    job: &Job,
) -> anyhow::Result<PushedImage> {
    let mut pushing = std::pin::pin!(pushing);
    tokio::select! {
        done = &mut pushing => return Ok(done?),
        () = cancelled_by_signal(job.packages.options.cancel.clone()) => {}
    }
    match tokio::time::timeout(Duration::from_millis(100), pushing).await {
        Ok(done) => Ok(done?),
        Err(_) => anyhow::bail!("interrupted"),
    }
}

fn reference(arguments: &Arguments, job: &Job, pushed: &PushedImage) -> Reference {
    let host = &arguments.registry.registry;
    match job.tags.first().filter(|_| arguments.image_only) {
        Some(tag) => Reference::by_tag(host, &job.repository, tag),
        None => Reference::by_digest(host, &job.repository, &pushed.digest),
    }
}

/// Sends the source as it is; a folder has no form to be sent in.
async fn push_source(
    arguments: &Arguments,
    common: &Common,
    name: &FunctionName,
    printer: &Printer,
) -> anyhow::Result<Report> {
    let (path, settings) = (&arguments.source, arguments.settings.patch()?);
    if path.is_dir() {
        let message = format!("--remote sends a zip or a .py file, and {} is a folder", path.display());
        return Err(Usage::new(message).into());
    }
    if arguments.image.decorates() {
        let message = "--label, --annotation, --image-env and --platform need the image to be built here, without --remote";
        return Err(Usage::new(message).into());
    }
    let python = path.extension().is_some_and(|extension| extension == "py");
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let server = Server::new(&arguments.server)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(arguments.image.entry.iter().map(|entry| ("entry", entry.to_string())));
    if python && let Some(file) = path.file_name().and_then(|file| file.to_str()) {
        query.append_pair("filename", file);
    }
    if arguments.image.base != crate::base::DEFAULT {
        query.append_pair("base", &arguments.image.base);
    }
    let lists = arguments.requirements.sent_with(path)?;
    if lists.no_deps {
        query.append_pair("no_deps", "true");
    }
    let path = format!("/v1/functions/{name}?{}", query.finish());
    let kind = if python { "text/x-python" } else { "application/zip" };
    let settings = serde_json::to_vec(&settings)?;
    let mut request = server
        .request(Method::PUT, &path)
        .header(http::header::CONTENT_TYPE, kind)
        .header(api::SETTINGS_HEADER, settings);
    if let Ok(author) = http::HeaderValue::try_from(super::author::author()) {
        request = request.header(api::AUTHOR_HEADER, author);
    }
    for (name, list) in lists.headers {
        request = request.header(name, list);
    }
    let answer = server.send_ok(request.body(super::server::whole(bytes))?).await?;
    let told: api::Pushed = serde_json::from_slice(&server.read(answer).await?)?;
    for warning in &told.warnings {
        printer.warning(warning);
    }
    let (registry, image) = (arguments.registry.open(&common.data_dir()?)?, told.digest.parse()?);
    let attached = attach(arguments, &registry, &name.repository(), &image).await?;
    Ok(Report {
        digest: told.digest,
        reference: told.reference,
        url: Some(told.url),
        version: Some(told.version),
        unchanged: told.unchanged,
        layers: Vec::new(),
        attached,
        times: BTreeMap::new(),
    })
}

fn print(report: &Report, output: OutputFormat, printer: &Printer) -> anyhow::Result<()> {
    if output == OutputFormat::Json {
        return printer.json(report);
    }
    if report.unchanged {
        printer.status("nothing changed");
    }
    for AttachedReport { file, digest } in &report.attached {
        printer.status(format!("attached {} as {digest}", file.display()));
    }
    printer.data(format!("{}\n{}", report.reference, report.digest));
    if let Some(url) = &report.url {
        printer.data(url);
    }
    Ok(())
}

/// Draws a bar while `work` goes on, if it goes on long enough to be seen.
async fn watched<T>(work: impl Future<Output = T>, meter: &Meter) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(Duration::from_millis(300), &mut work).await {
        return done;
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}") {
        bar.set_style(style);
    }
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = tick.tick() => {
                let (sent, total) = meter.read();
                bar.set_length(total);
                bar.set_position(sent);
            }
        }
    };
    bar.finish_and_clear();
    done
}
