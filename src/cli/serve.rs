//! `fnbuild serve`: the server.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, ConfigArguments};
use crate::serve::{self, Ending, Listeners, Server};

use super::logging::{self, LogFormat};
use super::{Common, Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild serve\n\
    \x20 fnbuild serve --listen 127.0.0.1:8080,0.0.0.0:80 --pool 4\n\
    \x20 fnbuild serve --etcd http://10.0.0.1:2379 --registry registry.example.com")]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// Serve nothing: remove the containers, images and network that this data folder has on this machine. Records stay
    #[arg(long)]
    clean_up: bool,
    /// How the server's log is written, on stderr
    #[arg(long, env = "FNBUILD_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
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
    // The embedded registry says each request only to who asks for more: most of them are this server's own.
    let access = ("fnbuild::registry::access", common.verbose > 0);
    logging::start(common, arguments.log_format, Some(access));
    match runtime.block_on(serve(config, &program, &Teller { printer, format: arguments.log_format }))? {
        Some(listeners) => Err(become_next(&program, &listeners)),
        None => Ok(Outcome::Success),
    }
}

async fn serve(config: Config, program: &Path, teller: &Teller<'_>) -> anyhow::Result<Option<Listeners>> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
    };
    let server = Server::start(config, program.to_path_buf()).await?;
    for problem in server.problems().await {
        teller.warning(problem);
    }
    if let Some(line) = server.registry() {
        teller.status(line);
    }
    for note in server.notes() {
        teller.status(note);
    }
    for url in server.urls() {
        teller.status(format!("listening on {url}"));
    }
    Ok(server.run(signals.ending(program, teller)).await)
}

/// Says what is going on in the form of the log, so that all of stderr can be read as one.
struct Teller<'a> {
    printer: &'a Printer,
    format: LogFormat,
}

impl Teller<'_> {
    fn status(&self, text: impl AsRef<str>) {
        match self.format {
            LogFormat::Text => self.printer.status(text),
            LogFormat::Json => tracing::info!("{}", text.as_ref()),
        }
    }

    fn warning(&self, text: impl AsRef<str>) {
        match self.format {
            LogFormat::Text => self.printer.warning(text),
            LogFormat::Json => tracing::warn!("{}", text.as_ref()),
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    async fn ending(&mut self, program: &Path, teller: &Teller<'_>) -> Ending {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hang_up.recv() => {
                    if runs(program) {
                        teller.status("handing over: calls in flight finish first");
                        return Ending::HandOver;
                    }
                    teller.warning(format!("{} does not run: going on as before", program.display()));
                }
            }
        }
        teller.status("stopping: calls in flight finish first");
        Ending::Stop
    }
}

/// Whether there is a program that could take over. One that cannot would take the server down with it.
fn runs(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Makes this process the program that is now in its place, with the same arguments and the listeners open.
fn become_next(program: &Path, listeners: &Listeners) -> anyhow::Error {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1));
    let failed = match listeners.hand_over(&mut command) {
        Ok(()) => command.exec(),
        Err(error) => error,
    };
    anyhow::Error::new(failed).context(format!("cannot become {}", program.display()))
}
