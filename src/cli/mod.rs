//! The command line: one file per verb. A verb parses its arguments, calls a room, and prints; it decides nothing.
//!
//! Data goes to stdout, everything else to stderr, and only through [`output`]. Exit codes: 0; 1 it failed; 2 wrong
//! usage; 3 the function itself answered with an error.

mod author;
mod base;
mod build;
mod calls;
mod completions;
mod config;
mod delete;
mod describe;
mod doctor;
mod exec;
mod export;
mod hint;
mod image_flags;
mod invoke;
mod list;
mod lock;
mod log_writer;
mod logging;
mod login;
mod logout;
mod logs;
mod man;
mod new;
mod nodes;
mod output;
mod push;
mod registry;
mod registry_flags;
mod report;
mod requirements;
mod rollback;
mod route;
mod run;
mod scale;
mod schedule;
mod secret;
mod serve;
mod server;
mod settings;
mod status;
mod store;
mod table;
mod tell;
mod tls;
mod token;
mod up;
mod usage;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use output::Printer;
use table::table;
use usage::Usage;

/// From func.zip to an HTTP answer, without a build daemon.
#[derive(Parser)]
#[command(name = "fnbuild", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild new hello\n\
    \x20 fnbuild push hello\n\
    \x20 fnbuild invoke hello -d '{\"name\": \"Ada\"}'")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

// What every verb takes.
#[derive(Args)]
pub struct Common {
    /// Where bases, caches and records are kept [default: /var/lib/fnbuild as root, else the XDG data folder]
    #[arg(long, global = true, env = "FNBUILD_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print the result and errors only
    #[arg(short, long, global = true, env = "FNBUILD_QUIET")]
    quiet: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Common {
    /// The data folder: the one given, else the default of this user. Not created here.
    pub fn data_dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok("/var/lib/fnbuild".into());
        }
        let xdg = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
        xdg.or_else(home)
            .map(|dir| dir.join("fnbuild"))
            .ok_or_else(|| anyhow::anyhow!("no data folder: neither --data-dir nor HOME is set"))
    }
}

/// A verb's own arguments are made only when it is called: most of what a start would have to go through.
#[derive(Subcommand)]
#[command(defer = true)]
enum Verb {
    /// Build, list and find the images that functions stand on
    Base(base::Arguments),
    /// Make an image from a zip, a .py file or a folder
    Build(Box<build::Arguments>),
    /// Look after asynchronous calls that wait or failed
    Calls(calls::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Change what a function is run with
    Config(config::Arguments),
    /// Delete a function
    #[command(visible_alias = "rm")]
    Delete(delete::Arguments),
    /// Show a function, its settings and its replicas
    Describe(describe::Arguments),
    /// See whether the records, the registry and this node's containers agree
    Doctor(doctor::Arguments),
    /// Run a command in a function's container
    Exec(exec::Arguments),
    /// Write manifests for Kubernetes, Knative or compose
    Export(export::Arguments),
    /// Call a function
    Invoke(invoke::Arguments),
    /// List the functions
    #[command(visible_alias = "ls")]
    List(list::Arguments),
    /// Resolve a source's requirements and keep the result as requirements.lock
    Lock(lock::Arguments),
    #[command(hide = true)]
    LogWriter(log_writer::Arguments),
    /// The embedded OCI registry
    Registry(registry::Arguments),
    /// Log in to a registry
    Login(login::Arguments),
    /// Forget the credentials of a registry, and how it may be talked to
    Logout(logout::Arguments),
    /// Build a function's image, push it, and switch the server over to it
    Push(Box<push::Arguments>),
    /// Show what a function printed
    Logs(logs::Arguments),
    /// Write a man page for every verb
    Man(man::Arguments),
    /// Make a folder with a new function and its test
    New(new::Arguments),
    /// List the nodes, their load and their capacity
    Nodes(nodes::Arguments),
    /// Divide a function's calls among its versions
    Route(route::Arguments),
    /// Go back to an earlier version
    Rollback(rollback::Arguments),
    /// Run a function on this machine, and anew with every save
    Run(Box<run::Arguments>),
    /// Say how many replicas stay up without calls
    Scale(scale::Arguments),
    /// Have a function called by itself, at given times
    Schedule(schedule::Arguments),
    /// Keep keys and passwords for functions
    Secret(secret::Arguments),
    /// Run the server: records, replicas, the trigger and the management API
    Serve(Box<serve::Arguments>),
    /// Show whether the server is ready
    Status(status::Arguments),
    /// Move records between stores and files
    Store(store::Arguments),
    /// Make, list and revoke tokens
    Token(token::Arguments),
    /// Build and deploy the functions that a file names
    Up(Box<up::Arguments>),
    /// List a function's versions
    Versions(versions::Arguments),
}

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum OutputFormat {
    #[default]
    Text,
    Json,
}

/// What a verb that did not fail has to say to the shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Success,
    /// Something was done and something stays undone; a line said what.
    Partial,
    /// The function itself answered with an error.
    FunctionError,
    /// What a command in a container ended with.
    Code(u8),
}

/// Parses the process's arguments, runs the verb, prints its error, and gives the exit code.
pub fn main() -> ExitCode {
    let cli: Cli = usage::parse().unwrap_or_else(|error| error.exit());
    let printer = Printer::new(cli.common.quiet, cli.common.verbose);
    match run(cli.verb, &cli.common, &printer) {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::Partial) => ExitCode::FAILURE,
        Ok(Outcome::FunctionError) => ExitCode::from(3),
        Ok(Outcome::Code(code)) => ExitCode::from(code),
        Err(error) => {
            printer.error(&error, hint::of(&error).as_deref());
            ExitCode::from(if usage::is_to_blame(&error) { 2 } else { 1 })
        }
    }
}

fn run(verb: Verb, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Base(arguments) => base::run(arguments, common, printer),
        Verb::Build(arguments) => build::run(&arguments, common, printer),
        Verb::Calls(arguments) => calls::run(&arguments, printer),
        Verb::Completions(arguments) => completions::run(&arguments, printer),
        Verb::LogWriter(arguments) => log_writer::run(&arguments),
        Verb::Config(arguments) => config::run(&arguments, printer),
        Verb::Delete(arguments) => delete::run(&arguments, printer),
        Verb::Describe(arguments) => describe::run(&arguments, printer),
        Verb::Doctor(arguments) => doctor::run(&arguments, printer),
        Verb::Exec(arguments) => exec::run(&arguments, printer),
        Verb::Invoke(arguments) => invoke::run(&arguments, printer),
        Verb::List(arguments) => list::run(&arguments, printer),
        Verb::Registry(arguments) => registry::run(&arguments, common, printer),
        Verb::Login(arguments) => login::run(&arguments, common, printer),
        Verb::Logout(arguments) => logout::run(&arguments, common, printer),
        Verb::Push(arguments) => push::run(&arguments, common, printer),
        Verb::Lock(arguments) => lock::run(&arguments, common, printer),
        Verb::Logs(arguments) => logs::run(&arguments, printer),
        Verb::Man(arguments) => man::run(&arguments, printer),
        Verb::New(arguments) => new::run(&arguments, printer),
        Verb::Nodes(arguments) => nodes::run(&arguments, printer),
        Verb::Route(arguments) => route::run(&arguments, printer),
        Verb::Rollback(arguments) => rollback::run(&arguments, printer),
        Verb::Run(arguments) => run::run(&arguments, common, printer),
        Verb::Scale(arguments) => scale::run(&arguments, printer),
        Verb::Schedule(arguments) => schedule::run(&arguments, printer),
        Verb::Secret(arguments) => secret::run(&arguments, printer),
        Verb::Serve(arguments) => serve::run(*arguments, common, printer),
        Verb::Status(arguments) => status::run(&arguments, printer),
        Verb::Store(arguments) => store::run(&arguments, common, printer),
        Verb::Export(arguments) => export::run(&arguments, printer),
        Verb::Token(arguments) => token::run(&arguments, printer),
        Verb::Up(arguments) => up::run(&arguments, common, printer),
        Verb::Versions(arguments) => versions::run(&arguments, printer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_all_verbs_are_sound() {
        let command = <Cli as clap::CommandFactory>::command();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(verb.get_about().is_some(), "the list of verbs says nothing of {}", verb.get_name());
        }
        command.debug_assert();
    }

    #[test]
    fn the_examples_in_the_help_can_be_called() {
        let mut command = <Cli as clap::CommandFactory>::command();
        command.build();
        let mut verbs = vec![&command];
        while let Some(verb) = verbs.pop() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter(|line| line.starts_with("  fnbuild ")) {
                let parsed = Cli::try_parse_from(words(line));
                assert!(
                    parsed.is_ok(),
                    "{line}: {}",
                    parsed.err().map(|e| e.to_string()).unwrap_or_default()
                );
            }
            verbs.extend(verb.get_subcommands());
        }
    }

    /// As a shell divides a line, up to where it is redirected.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut is_quoted) = (vec![String::new()], false);
        for c in line.trim().split(['>', '<', '|']).next().unwrap().trim().chars() {
            match (c, words.last_mut()) {
                ('\'', _) => is_quoted = !is_quoted,
                (' ', _) if !is_quoted => words.push(String::new()),
                (c, Some(word)) => word.push(c),
                (_, None) => unreachable!("there is always a last word"),
            }
        }
        words
    }
}
