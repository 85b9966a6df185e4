//! `fnbuild man --dir DIR`: a man page for every verb.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild man --dir /usr/local/share/man/man1")]
pub struct Arguments {
    /// Where the pages go: fnbuild.1, fnbuild-push.1 and so on
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write the pages to {}", dir.display()))?;
    printer.status(format!("written: the pages in {}", dir.display()));
    Ok(Outcome::Success)
}
