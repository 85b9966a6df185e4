//! `fnbuild token create | list | revoke`. A token is printed once, when it is made, on stdout and alone.

use http::Method;

use crate::api::{TokenMade, TokenRevoked, TokenWanted};
use crate::auth::{Role, TokenInfo, TokenName};

use super::server::{AskArguments, Server, ServerArguments, block_on};
use super::{Outcome, OutputFormat, Printer, table};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild token create ci --role deploy > token.txt\n\
    \x20 fnbuild token revoke ci")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// Make a token and print it; it is shown this once
    Create(Create),
    /// List the tokens: names and roles
    #[command(visible_alias = "ls")]
    List(List),
    /// Revoke a token: it opens nothing from then on
    #[command(visible_alias = "rm")]
    Revoke(Revoke),
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild token create ci --role deploy > token.txt")]
struct Create {
    /// Whose it is
    name: TokenName,
    /// admin (everything), deploy (functions and secrets), invoke (calls), read (lists, logs, metrics)
    #[arg(long)]
    role: Role,
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild token list")]
struct List {
    #[command(flatten)]
    ask: AskArguments,
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild token revoke ci")]
struct Revoke {
    /// Whose it is
    name: TokenName,
    #[command(flatten)]
    server: ServerArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    match &arguments.verb {
        Verb::Create(create) => {
            let wanted = TokenWanted { name: create.name.clone(), role: create.role };
            let server = create.ask.server()?;
            let made: TokenMade = block_on(server.call(Method::POST, "/v1/tokens", Some(&wanted)))?;
            match create.ask.output {
                OutputFormat::Json => printer.json(&made)?,
                OutputFormat::Text => {
                    printer.data(&made.token);
                    printer.status(format!("{} is for {}; it is not shown again", made.name, made.role));
                }
            }
        }
        Verb::List(list) => {
            let tokens: Vec<TokenInfo> = block_on(list.ask.server()?.get("/v1/tokens"))?;
            match list.ask.output {
                OutputFormat::Json => printer.json(&tokens)?,
                OutputFormat::Text => {
                    let rows =
                        tokens.into_iter().map(|t| [t.name.to_string(), t.role.to_string(), t.created]);
                    printer.data(table(["TOKEN", "ROLE", "CREATED"], rows));
                }
            }
        }
        Verb::Revoke(revoke) => {
            let (server, path) = (Server::new(&revoke.server)?, format!("/v1/tokens/{}", revoke.name));
            let revoked: TokenRevoked = block_on(server.call(Method::DELETE, &path, None::<&()>))?;
            printer.status(format!("the token {} is revoked", revoked.name));
        }
    }
    Ok(Outcome::Success)
}
