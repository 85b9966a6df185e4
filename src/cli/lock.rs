//! `fnbuild lock SOURCE`: resolves a source's requirements and writes `requirements.lock` beside it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::image_flags::platform;
use super::requirements::{RequirementArguments, cancelled_by_signal};
use super::{Common, Outcome, Printer};
use crate::dependencies::{self, Cancel, Dependencies, DependencyError, Places, Target, Wanted};
use crate::function::EntryPoint;
use crate::oci::Platform;
use crate::publish;
use crate::source::{self, Source};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild lock stats/")]
pub struct Arguments {
    /// A folder (the lock is written into it), a zip or a .py file (beside it)
    source: PathBuf,
    #[command(flatten)]
    requirements: RequirementArguments,
    /// The base that the packages are to fit
    #[arg(long, env = "FNBUILD_BASE", default_value = "python3.11-flask2.3", value_name = "NAME")]
    base: String,
    /// The platforms that the lock is for [default: the base's]
    #[arg(long, env = "FNBUILD_PLATFORM", value_delimiter = ',', value_parser = platform, value_name = "OS/CPU,…")]
    platform: Vec<Platform>,
    /// Where the source's function is, when it is not func:run
    #[arg(long, env = "FNBUILD_ENTRY", value_name = "MODULE:FUNCTION")]
    entry: Option<EntryPoint>,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let data = common.data_dir()?;
    let options = source::Options { entry: arguments.entry.clone(), ..source::Options::default() };
    let source = Source::open(&arguments.source, &options)?;
    let packages = arguments.requirements.packages(&data);
    // An old lock that cannot be read any more is no reason not to write a new one.
    let (list, no_deps) = (packages.requirements.as_deref(), packages.no_deps);
    let requirements =
        Wanted::requirements_of(&source, Places { source: None, requirements: list, no_deps })?;
    if requirements.is_empty() {
        return Err(
            DependencyError::NoRequirements { source_name: arguments.source.display().to_string() }.into()
        );
    }
    let targets = targets(arguments, &data)?;
    cancel_on_signal(packages.options.cancel.clone())?;
    let lock =
        Dependencies::open(&data, packages.machine, packages.options)?.resolve(&requirements, &targets)?;
    for target in &targets {
        let pins: Vec<_> =
            lock.pins(target).iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
        printer.status(format!("for {target}: {}", pins.join(", ")));
    }
    let path = dependencies::lock_path(&source, &arguments.source);
    write(&path, lock.render().as_bytes()).with_context(|| format!("write {}", path.display()))?;
    printer.data(path.display().to_string());
    Ok(Outcome::Success)
}

/// The base's Python and libc, on each of the platforms.
fn targets(arguments: &Arguments, data: &Path) -> anyhow::Result<Vec<Target>> {
    let base = match Target::of_default_base(&arguments.base) {
        Some(target) => target,
        None => Target::of(&arguments.base, &publish::base_here(data, &arguments.base, None)?.config)?,
    };
    if arguments.platform.is_empty() {
        return Ok(vec![base]);
    }
    let on = |platform: &Platform| Target { platform: platform.clone(), ..base.clone() };
    Ok(arguments.platform.iter().map(on).collect())
}

/// On a thread of its own, beside the resolver, which blocks.
fn cancel_on_signal(cancel: Cancel) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wait = move || runtime.block_on(cancelled_by_signal(cancel));
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// In one step, so that a lock is never seen half written.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o644)).tempfile_in(folder)?;
    std::io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}
