//! `fnbuild new NAME`: a folder with a function that answers, its test, and what else a function has.

use std::path::Path;

use crate::function::FunctionName;
use crate::project;

use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild new hello\n  fnbuild run hello")]
pub struct Arguments {
    /// The function's name, and the folder's
    name: FunctionName,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let name = &arguments.name;
    for file in project::create(Path::new(""), name)? {
        printer.data(file.display().to_string());
    }
    printer.status(format!("next: `fnbuild run {name}` to try it, `fnbuild push {name}` to deploy it"));
    Ok(Outcome::Success)
}
