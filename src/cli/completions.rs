//! `fnbuild completions SHELL`: a completion script on stdout.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild completions bash > /etc/bash_completion.d/fnbuild")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "fnbuild", &mut script);
    printer.data(String::from_utf8(script)?.trim_end());
    Ok(Outcome::Success)
}
