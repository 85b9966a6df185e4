//! `fnbuild store export | import`: all records and values between sled, etcd and a file.
//!
//! It opens the store itself: with sled the server must not run, with etcd it may.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::config::{DataFolder, EtcdArguments};
use crate::store::{EtcdStore, FunctionStore, SledStore, StoreError, Transferred, export, import, verify};

use super::server::block_on;
use super::{Common, Outcome, OutputFormat, Printer};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild store export records.jsonl\n\
    \x20 fnbuild store import records.jsonl --etcd http://10.0.0.1:2379")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Write everything that the store holds as JSON lines; secrets stay sealed
    Export(Export),
    /// Read what was exported into the store
    Import(Import),
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild store export records.jsonl")]
struct Export {
    /// Where to write; it appears when it is whole
    file: PathBuf,
    #[command(flatten)]
    etcd: EtcdArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild store import records.jsonl --etcd http://10.0.0.1:2379")]
struct Import {
    /// What was exported
    file: PathBuf,
    /// Let the file win where the store has something else
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    etcd: EtcdArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    match &arguments.verb {
        Verb::Export(arguments) => {
            let done =
                with_store(&arguments.etcd, common, false, async |store| save(store, &arguments.file).await)?;
            report(printer, arguments.output, "exported", done)?;
        }
        Verb::Import(arguments) => {
            let open = || File::open(&arguments.file).map(BufReader::new);
            let opened = || open().with_context(|| format!("cannot open {}", arguments.file.display()));
            verify(&mut opened()?)?;
            let done = with_store(&arguments.etcd, common, true, async |store| {
                Ok(import(store, &mut opened()?, arguments.replace).await?)
            })?;
            report(printer, arguments.output, "imported", done)?;
        }
    }
    Ok(Outcome::Success)
}

/// In a file beside it, then under its name: a backup that was cut short never looks like one.
async fn save(store: &dyn FunctionStore, file: &Path) -> anyhow::Result<Transferred> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = tempfile::NamedTempFile::new_in(folder);
    let draft = draft.with_context(|| format!("cannot write to {}", folder.display()))?;
    let mut writer = BufWriter::new(draft);
    let done = export(store, &mut writer).await?;
    writer.flush().context("cannot write the export")?;
    let draft = writer.into_inner().context("cannot write the export")?;
    draft.as_file().sync_all().context("cannot write the export")?;
    draft.persist(file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(done)
}

/// Runs `work` on the store that the arguments name. `make`: where the data folder has none, make one.
fn with_store(
    etcd: &EtcdArguments,
    common: &Common,
    make: bool,
    work: impl AsyncFnOnce(&dyn FunctionStore) -> anyhow::Result<Transferred>,
) -> anyhow::Result<Transferred> {
    let options = etcd.options()?;
    let data = common.data_dir()?;
    block_on(async {
        if let Some(options) = options {
            // A mirror of its own: the server's is in use, or not yet there.
            let mirror = tempfile::tempdir().context("cannot make a temporary folder")?;
            let store = EtcdStore::open(&options, &mirror.path().join("mirror")).await?;
            let done = work(&store).await;
            store.close().await;
            return done;
        }
        let folder = data.join("records");
        if make && !folder.exists() {
            std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
            SledStore::create(&folder)?;
        }
        if !folder.exists() && !DataFolder::was_used(&data) {
            return Err(StoreError::NotMade { place: folder.display().to_string() }.into());
        }
        work(&SledStore::open(&folder)?).await
    })
}

fn report(printer: &Printer, output: OutputFormat, verb: &str, done: Transferred) -> anyhow::Result<()> {
    match output {
        OutputFormat::Json => printer.json(&done),
        OutputFormat::Text => {
            let Transferred { functions, values, unchanged } = done;
            let mut text = format!("{verb} {functions} functions and {values} values");
            if unchanged > 0 {
                text += &format!("; {unchanged} were there already");
            }
            printer.status(text);
            Ok(())
        }
    }
}
