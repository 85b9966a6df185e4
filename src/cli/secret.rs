//! `fnbuild secret create | list | delete`. A value comes from stdin or a file, never from an argument, which every
//! process on the machine can read.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;
use http::Method;

use crate::api::{SecretNamed, SecretWritten};
use crate::secrets::{LARGEST_SECRET, SecretName};

use super::server::{AskArguments, Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer, Usage};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild secret create db --from-file password.txt\n\
    \x20 fnbuild secret list")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Add a secret; its value is read from stdin, byte for byte
    Create(Create),
    /// List the names of the secrets
    #[command(visible_alias = "ls")]
    List(List),
    /// Delete a secret; replicas that run keep what they were given
    #[command(visible_alias = "rm")]
    Delete(Delete),
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild secret create db --from-file password.txt")]
struct Create {
    /// The secret
    name: SecretName,
    /// Read the value from this file instead of stdin
    #[arg(long, value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Give a secret that is there another value; new replicas are given it
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    server: ServerArguments,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild secret list")]
struct List {
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild secret delete db")]
struct Delete {
    /// The secret
    name: SecretName,
    #[command(flatten)]
    server: ServerArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    match &arguments.verb {
        Verb::Create(create) => {
            let written = SecretWritten::new(create.name.clone(), &value(create)?);
            let method = if create.replace { Method::PUT } else { Method::POST };
            block_on(call(&create.server, method, &written))?;
            printer.status(format!("the secret {} is kept", create.name));
        }
        Verb::List(list) => {
            let server = list.ask.server()?;
            let names: Vec<SecretNamed> = block_on(server.get("/system/secrets"))?;
            match list.ask.output {
                OutputFormat::Json => printer.json(&names)?,
                OutputFormat::Text => names.iter().for_each(|secret| printer.data(secret.name.as_str())),
            }
        }
        Verb::Delete(delete) => {
            block_on(call(&delete.server, Method::DELETE, &SecretNamed { name: delete.name.clone() }))?;
            printer.status(format!("the secret {} is deleted", delete.name));
            // It is gone either way.
            match block_on(users(&delete.server, &delete.name)) {
                Ok(users) if users.is_empty() => {}
                Ok(users) => printer.warning(format!(
                    "named still by {}: where a call needs a new replica it is answered 503, until there is a secret {} \
                     again or a push names others",
                    users.join(", "),
                    delete.name
                )),
                Err(error) => printer.detail(format!("which functions name it cannot be said: {error}")),
            }
        }
    }
    Ok(Outcome::Success)
}

async fn call(server: &ServerArguments, method: Method, body: &impl serde::Serialize) -> anyhow::Result<()> {
    let server = Server::new(server)?;
    let request = server.request(method, "/system/secrets").header("content-type", "application/json");
    let body = super::server::whole(serde_json::to_vec(body)?);
    server.send_ok(request.body(body)?).await?;
    Ok(())
}

/// What is read of a function's state.
#[derive(serde::Deserialize)]
struct User {
    name: String,
    #[serde(default)]
    secrets: Vec<String>,
}

/// The functions whose current version is given the secret.
async fn users(server: &ServerArguments, secret: &SecretName) -> anyhow::Result<Vec<String>> {
    let functions: Vec<User> = Server::new(server)?.get("/system/functions").await?;
    let named = |user: &User| user.secrets.iter().any(|name| name == secret.as_str());
    Ok(functions.into_iter().filter(named).map(|user| user.name).collect())
}

fn value(create: &Create) -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    // One byte more than is allowed is enough for the server to say that it is too large.
    let most = LARGEST_SECRET as u64 + 1;
    match &create.from_file {
        Some(path) => {
            let file =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(most)
                .read_to_end(&mut value)
                .with_context(|| format!("cannot read {}", path.display()))?;
        }
        None if std::io::stdin().is_terminal() => {
            let message = "stdin is a terminal: pipe the value in, or name a file with --from-file";
            return Err(Usage::new(message).into());
        }
        None => {
            std::io::stdin().lock().take(most).read_to_end(&mut value).context("cannot read stdin")?;
            if value.is_empty() {
                // A pipe from what failed, most likely.
                let empty = Usage::new(format!("stdin is empty: the secret {} would be too", create.name));
                return Err(empty.with_hint("if that is meant, give it with --from-file /dev/null").into());
            }
        }
    }
    Ok(value)
}
