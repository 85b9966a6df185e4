//! `fnbuild login HOST`: keep credentials where docker keeps them, after the registry has taken them.

use std::io::{IsTerminal, Read};

use anyhow::Context;

use crate::registry::{Login, Registry, Secret, credentials, host};

use super::registry_flags::AccessArguments;
use super::server::block_on;
use super::{Common, Outcome, Printer, Usage};

/// Longer input is no password.
const LONGEST: u64 = 64 << 10;

#[derive(clap::Args)]
#[command(after_help = "Example:\n\
    \x20 fnbuild login registry.example.com --username me --password-stdin < password.txt")]
pub struct Arguments {
    /// The registry
    #[arg(
        env = "FNBUILD_REGISTRY",
        default_value = "localhost:5000",
        value_parser = host,
        value_name = "HOST[:PORT]"
    )]
    registry: String,
    /// The user
    #[arg(short, long)]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    access: AccessArguments,
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let user = match &arguments.username {
        Some(user) => user.clone(),
        None if arguments.password_stdin => {
            return Err(Usage::new("--password-stdin needs --username").into());
        }
        None => ask_user()?,
    };
    let password = if arguments.password_stdin { from_stdin()? } else { ask_password()? };
    if user.is_empty() || user.contains(':') || password.is_empty() {
        return Err(Usage::new("a user name without a colon and a password are needed").into());
    }
    let login = Login::Password { user: user.clone(), password: password.clone() };
    let (host, data) = (&arguments.registry, common.data_dir()?);
    let registry = Registry::with_login(host, arguments.access.access(host, &data), login)?;
    block_on(async { Ok(registry.check().await?) })?;
    let file = credentials::config_file().context("neither DOCKER_CONFIG nor HOME is set")?;
    credentials::store(&file, &arguments.registry, &user, &password)?;
    arguments.access.remember(host, &data, printer);
    printer.status(format!("logged in to {} as {user}", arguments.registry));
    Ok(Outcome::Success)
}

fn ask_user() -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage::new("give --username and --password-stdin: there is no terminal to ask on").into());
    }
    eprint!("Username: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().into())
}

fn ask_password() -> anyhow::Result<Secret> {
    if !std::io::stdin().is_terminal() {
        return Err(Usage::new("give --password-stdin: there is no terminal to ask on").into());
    }
    Ok(Secret::new(rpassword::prompt_password("Password: ")?))
}

fn from_stdin() -> anyhow::Result<Secret> {
    let mut text = String::new();
    std::io::stdin().take(LONGEST).read_to_string(&mut text)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}
