//! `fnbuild base`: build, list and find the images that functions stand on.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::base::{self, Recipe, Request, Stop, Strictness};
use crate::image::Layout;
use crate::oci::{
    Descriptor, Digest, ImageConfig, ImageIndex, ImageManifest, Platform, Reference, Tag, media_type,
};
use crate::publish;
use crate::registry::Registry;

use super::image_flags::platform;
use super::registry_flags::AccessArguments;
use super::{Common, Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild base build base-layers/python3.11-flask2.3\n\
    \x20 fnbuild base list")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a base from Debian packages and Python wheels
    Build(Build),
    /// Take an image from a registry as a base
    Import(Import),
    /// List the bases that are here
    #[command(visible_alias = "ls", after_help = "Example:\n  fnbuild base list")]
    List {
        /// How the result is printed
        #[arg(short, long, value_enum, default_value_t)]
        output: OutputFormat,
    },
    /// Print where the bases are kept, or where the manifest of one of them is
    #[command(after_help = "Example:\n  fnbuild base path python3.11-flask2.3")]
    Path {
        /// The base's name
        name: Option<String>,
    },
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild base build base-layers/python3.11-flask2.3")]
struct Build {
    /// A folder with recipe.toml and lock.toml
    recipe: PathBuf,
    /// The base's name [default: the recipe's]
    #[arg(long)]
    tag: Option<String>,
    /// Fail if the archive no longer has exactly what the lock names
    #[arg(long, conflicts_with = "update")]
    locked: bool,
    /// Take the newest of everything and write the lock anew
    #[arg(long)]
    update: bool,
    /// linux/amd64 or linux/arm64 [default: this machine's]
    #[arg(long)]
    platform: Option<String>,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild base import registry.example.com/python:3.11 --tag mine")]
struct Import {
    /// The image, for example registry:5000/python:3.11 or localhost:5000/fnbuild/base@sha256:…
    reference: Reference,
    /// The base's name [default: the last part of the repository, and the tag]
    #[arg(long)]
    tag: Option<Tag>,
    /// Of an image for several platforms this one [default: this machine's]
    #[arg(long, value_parser = platform, value_name = "OS/CPU")]
    platform: Option<Platform>,
    #[command(flatten)]
    access: AccessArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let folder = common.data_dir()?.join("bases");
    match arguments.verb {
        Verb::Build(arguments) => build(arguments, &folder, &common.data_dir()?.join("work"), printer),
        Verb::Import(arguments) => import(arguments, &common.data_dir()?, printer),
        Verb::List { output } => list(&folder, output, printer),
        Verb::Path { name } => path(&folder, name.as_deref(), printer),
    }
}

fn build(arguments: Build, folder: &Path, work: &Path, printer: &Printer) -> anyhow::Result<Outcome> {
    let strictness = match (arguments.locked, arguments.update) {
        (true, _) => Strictness::Locked,
        (_, true) => Strictness::Update,
        _ => Strictness::Follow,
    };
    let request = Request {
        recipe: Recipe::open(&arguments.recipe)?,
        platform: arguments.platform,
        tag: arguments.tag,
        strictness,
        work: work.into(),
    };
    let layout = Layout::create(folder)?;
    let built = stoppable(|stop| base::build(&request, &layout, stop, &|step| printer.status(step)))??;
    for line in &built.drift.lines {
        printer.warning(line);
    }
    if let Some(path) = &built.lock_written {
        printer.status(format!("wrote {}", path.display()));
    }
    let size: u64 = built.layers.iter().map(|(_, size)| size).sum();
    if arguments.output == OutputFormat::Json {
        let layers: Vec<_> =
            built.layers.iter().map(|(name, size)| serde_json::json!({"name": name, "size": size})).collect();
        printer.json(&serde_json::json!({
            "name": built.tag, "digest": built.descriptor.digest, "size": size, "layers": layers,
        }))?;
        return Ok(Outcome::Success);
    }
    for (name, size) in &built.layers {
        printer.status(format!("{:>9}  {name}", megabytes(*size)));
    }
    printer.status(format!("{:>9}  in all", megabytes(size)));
    printer.data(format!("{}@{}", built.tag, built.descriptor.digest));
    Ok(Outcome::Success)
}

fn import(arguments: Import, data: &Path, printer: &Printer) -> anyhow::Result<Outcome> {
    let reference = &arguments.reference;
    let tag = match &arguments.tag {
        Some(tag) => tag.clone(),
        None => name_of(reference)?,
    };
    let registry = Registry::new(&reference.registry, arguments.access.access(&reference.registry, data))?;
    let layout = Layout::create(data.join("bases"))?;
    let platform = arguments.platform.as_ref();
    let fetching = publish::fetch_base(&registry, reference, &layout, tag.as_str(), platform);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let descriptor = runtime.block_on(fetching)?;
    arguments.access.remember(&reference.registry, data, printer);
    if arguments.output == OutputFormat::Json {
        printer.json(&serde_json::json!({ "name": tag, "digest": descriptor.digest }))?;
    } else {
        printer.data(format!("{tag}@{}", descriptor.digest));
    }
    Ok(Outcome::Success)
}

/// `host/team/python:3.11` becomes `python-3.11`, `host/fnbuild/base:python3.11-flask2.3` keeps the tag alone.
fn name_of(reference: &Reference) -> anyhow::Result<Tag> {
    let repository = reference.repository.as_str();
    let last = repository.rsplit('/').next().unwrap_or(repository);
    let name = match &reference.tag {
        Some(tag) if repository == "fnbuild/base" => tag.to_string(),
        Some(tag) if *tag != Tag::latest() => format!("{last}-{tag}"),
        _ => last.to_string(),
    };
    name.parse().with_context(|| format!("{name} cannot be a base's name: choose one with --tag"))
}

/// Runs `work` so that Ctrl-C and SIGTERM end it in order, with nothing left behind.
fn stoppable<T: Send>(work: impl FnOnce(&Stop) -> T + Send) -> anyhow::Result<T> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Stop::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    std::thread::scope(|scope| {
        let (done, finished) = tokio::sync::oneshot::channel();
        let worker = scope.spawn(|| {
            let result = work(&stop);
            let _ = done.send(());
            result
        });
        runtime.block_on(async {
            tokio::select! {
                _ = finished => {}
                _ = interrupt.recv() => stop.stop(),
                _ = terminate.recv() => stop.stop(),
            }
        });
        worker.join().map_err(|_| anyhow::anyhow!("the build ended in a panic"))
    })
}

/// What `list` says of a base.
#[derive(serde::Serialize)]
struct Row {
    name: String,
    digest: Digest,
    platform: String,
    /// Compressed, in bytes.
    size: u64,
}

fn list(folder: &Path, output: OutputFormat, printer: &Printer) -> anyhow::Result<Outcome> {
    // Where no base was ever made the list is empty, not an error.
    let rows = if folder.exists() { rows(&Layout::open(folder)?)? } else { Vec::new() };
    match output {
        OutputFormat::Json => printer.json(&rows)?,
        OutputFormat::Text => {
            let cells = |row: &Row| {
                [row.name.clone(), row.platform.clone(), megabytes(row.size), row.digest.to_string()]
            };
            printer.data(table(["NAME", "PLATFORM", "SIZE", "DIGEST"], rows.iter().map(cells)));
        }
    }
    Ok(Outcome::Success)
}

fn rows(layout: &Layout) -> anyhow::Result<Vec<Row>> {
    let mut found = Vec::new();
    for (name, descriptor) in layout.tags()? {
        let manifests = match descriptor.media_type.as_str() {
            media_type::INDEX => layout.read_json::<ImageIndex>("the index", &descriptor)?.manifests,
            _ => vec![descriptor],
        };
        for descriptor in manifests {
            found.push(row(layout, name.clone(), descriptor)?);
        }
    }
    Ok(found)
}

fn row(layout: &Layout, name: String, descriptor: Descriptor) -> anyhow::Result<Row> {
    let manifest: ImageManifest = layout.read_json("the manifest", &descriptor)?;
    let config: ImageConfig = layout.read_json("the config", &manifest.config)?;
    let platform = format!("{}/{}", config.platform.os, config.platform.architecture);
    let size = manifest.layers.iter().map(|layer| layer.size).sum();
    Ok(Row { name, digest: descriptor.digest, platform, size })
}

fn path(folder: &Path, name: Option<&str>, printer: &Printer) -> anyhow::Result<Outcome> {
    let Some(name) = name else {
        printer.data(folder.display().to_string());
        return Ok(Outcome::Success);
    };
    let layout = Layout::open(folder)?;
    let descriptor = layout.resolve(name)?;
    printer.data(layout.blob_path(&descriptor.digest).display().to_string());
    Ok(Outcome::Success)
}

/// Decimal, as registries and disks count.
fn megabytes(bytes: u64) -> String {
    format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000)
}
