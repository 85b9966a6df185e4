//! `fnbuild run [DIR]`: a function on this machine while it is being written. Each save is built, pushed and switched to
//! as a push would be, by a server and a registry that are there for this alone and leave nothing behind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use http::{Method, header};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{LogLine, Pushed};
use crate::dependencies::Cancel;
use crate::function::{EntryPoint, FunctionName, SettingsPatch};
use crate::project::Changes;
use crate::publish::{self, Job, Meter};
use crate::registry::{Access, Registry};
use crate::serve::Local;
use crate::{base, image, source};

use super::image_flags::function_name;
use super::requirements::RequirementArguments;
use super::server::{Server, ServerArguments, whole};
use super::settings::variable;
use super::{Common, Outcome, Printer, hint, invoke, logs, report, tell};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  fnbuild run\n  fnbuild run hello -d '{\"name\": \"Ada\"}' -e GREETING=hello\n\n\
    FNBUILD_CONTAINERD, FNBUILD_NAMESPACE, FNBUILD_SUBNET, FNBUILD_CNI_PLUGINS, FNBUILD_DNS and FNBUILD_EGRESS say \
    what they say to `fnbuild serve`."
)]
pub struct Arguments {
    /// A folder, a .py file or a zip
    #[arg(default_value = ".")]
    source: PathBuf,
    /// The function's name [default: from the source's file name]
    #[arg(long)]
    name: Option<FunctionName>,
    /// Where to listen, on this machine alone; port 0 is a free one
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Call the function with this body, text (JSON), @FILE, or -, after every change, and print its answer
    #[arg(short, long)]
    data: Option<String>,
    /// Set a variable for the function
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// What answers a call [default: func:run, or the .py file's own name]
    #[arg(long, value_name = "MODULE:FUNCTION")]
    entry: Option<EntryPoint>,
    /// The image below the code, by its name in the data folder
    #[arg(long, env = "FNBUILD_BASE", default_value = base::DEFAULT)]
    base: String,
    #[command(flatten)]
    requirements: RequirementArguments,
}

/// Anybody may manage this server's one function: it is not for others.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected ADDRESS:PORT".to_string())?;
    let refused = "other machines are served by `fnbuild serve`: expected an address of this one's loopback";
    if address.ip().is_loopback() { Ok(address) } else { Err(refused.into()) }
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let name = function_name(arguments.name.as_ref(), &arguments.source)?;
    let settings = SettingsPatch {
        env: arguments.env.iter().cloned().collect(),
        // One is always there, so that a mistake in the module is seen when it is saved.
        min_scale: Some(1),
        ..SettingsPatch::default()
    };
    let body = arguments.data.as_deref().map(invoke::data).transpose()?;
    let data = common.data_dir()?;
    let program = std::env::current_exe().context("cannot find out what program this is")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let mut ending = Ending::new()?;
        let server = Local::start(&data, arguments.listen, program).await?;
        let worked = async {
            let bench = Bench::new(arguments, name, (data, settings, body), &server)?;
            bench.work(Changes::of(&arguments.source)?, &mut ending, printer).await;
            anyhow::Ok(())
        };
        let worked = worked.await;
        printer.status("removing containers, images and network");
        let removed = server.remove().await;
        worked.and(removed.map_err(Into::into))
    });
    runtime.shutdown_background();
    done.map(|()| Outcome::Success)
}

/// How whoever started this ends it.
struct Ending([Signal; 3]);

impl Ending {
    fn new() -> std::io::Result<Self> {
        let [terminate, interrupt, hang_up] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self([terminate?, interrupt?, hang_up?]))
    }

    async fn asked(&mut self) {
        let Self([terminate, interrupt, hang_up]) = self;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}

/// What turns a save into an answer.
struct Bench {
    name: FunctionName,
    job: Job,
    registry: Registry,
    server: ServerArguments,
    settings: SettingsPatch,
    body: Option<Vec<u8>>,
}

impl Bench {
    fn new(
        arguments: &Arguments,
        name: FunctionName,
        (data, settings, body): (PathBuf, SettingsPatch, Option<Vec<u8>>),
        server: &Local,
    ) -> anyhow::Result<Self> {
        let job = Job {
            source: arguments.source.clone(),
            from: source::Options { entry: arguments.entry.clone(), ..source::Options::default() },
            base: arguments.base.clone(),
            packages: arguments.requirements.packages(&data),
            data,
            repository: name.repository(),
            platforms: Vec::new(),
            options: image::Options { name: Some(name.to_string()), ..image::Options::default() },
            tags: Vec::new(),
        };
        let registry = Registry::new(server.registry(), Access::default())?;
        let server =
            ServerArguments { server: format!("http://{}", server.address()), token: None, server_ca: None };
        Ok(Self { name, job, registry, server, settings, body })
    }

    /// Follows the source until this process is asked to end.
    async fn work(&self, mut changes: Changes, ending: &mut Ending, printer: &Printer) {
        let follow = async {
            let mut current = None;
            printer.data(format!("{}/function/{}", self.server.server, self.name));
            loop {
                self.bring_up(&mut current, printer).await;
                if changes.next().await.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = follow => {}
            () = self.show_logs(printer) => {}
            () = ending.asked() => {}
        }
    }

    /// Makes the source as it is now what answers. Where that fails, what answered before goes on.
    async fn bring_up(&self, current: &mut Option<u64>, printer: &Printer) {
        let begun = Instant::now();
        match self.push(printer).await {
            Ok(pushed) => {
                for warning in &pushed.warnings {
                    printer.warning(warning);
                }
                if current.replace(pushed.version) != Some(pushed.version) {
                    let took = begun.elapsed().as_millis();
                    printer.status(format!("version {} answers, after {took} ms", pushed.version));
                    self.call(printer).await;
                }
            }
            Err(error) => {
                printer.error(&error, hint::of(&error).as_deref());
                if let Some(version) = current {
                    printer.status(format!("version {version} goes on answering"));
                }
            }
        }
    }

    async fn push(&self, printer: &Printer) -> anyhow::Result<Pushed> {
        let mut job = self.job.clone();
        // One that was used ends whatever is started with it.
        job.packages.options.cancel = Cancel::default();
        let pushed = publish::publish(&self.registry, &job, &Arc::new(Meter::default())).await?;
        pushed.packages.iter().for_each(|packages| report::explain_packages(packages, printer));
        let request = tell::version(&self.job, &pushed, self.settings.clone());
        tell::tell(&self.server, &self.name, self.registry.host(), &request).await
    }

    async fn call(&self, printer: &Printer) {
        let Some(body) = &self.body else { return };
        let called = async {
            let server = Server::new(&self.server)?;
            let request = server.request(Method::POST, &format!("/function/{}", self.name));
            let request = request.header(header::CONTENT_TYPE, "application/json");
            let response = server.send(request.body(whole(body.clone()))?).await?;
            if !response.status().is_success() {
                printer.status(format!("the function answered {}", response.status()));
            }
            let answer = server.read(response).await?;
            printer.bytes(&answer)?;
            printer.data("");
            anyhow::Ok(())
        };
        if let Err(error) = called.await {
            printer.error(&error, hint::of(&error).as_deref());
        }
    }

    /// What the function prints, as it does. Ends never, but with the server.
    async fn show_logs(&self, printer: &Printer) {
        let path = format!("/v1/functions/{}/logs?follow=true", self.name);
        loop {
            let followed = async {
                let server = Server::new(&self.server)?;
                let show = |line: LogLine| {
                    printer.status(format!("{}: {}", line.stream, line.text));
                    Ok(())
                };
                logs::follow(&server, &path, show).await
            };
            // There is nothing to follow before the first version.
            let _: anyhow::Result<()> = followed.await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
