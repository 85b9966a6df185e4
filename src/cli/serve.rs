//! `fnbuild serve`: the server.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::ConfigArguments;
use crate::serve::{self, Server};

use super::{Common, Outcome, Printer};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Serve nothing: remove the containers, images and network that this data folder has on this machine. Records stay
    #[arg(long)]
    clean_up: bool,
}

pub fn run(arguments: Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let config = arguments.config.check(common.data_dir()?)?;
    let program = std::env::current_exe().context("cannot find out what program this is")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if arguments.clean_up {
        runtime.block_on(serve::clean_up(&config, program))?;
        printer.status("removed: containers, images, network");
        return Ok(Outcome::Success);
    }
    runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::start(config, program).await?;
        for problem in server.problems().await {
            printer.warning(problem);
        }
        if let Some(line) = server.registry() {
            printer.status(line);
        }
        for address in server.addresses() {
            printer.status(format!("listening on http://{address}"));
        }
        server
            .run(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                printer.status("stopping: calls in flight finish first");
            })
            .await;
        Ok(Outcome::Success)
    })
}
