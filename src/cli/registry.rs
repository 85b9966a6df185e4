//! `fnbuild registry serve` and `fnbuild registry gc`: the embedded registry on its own.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::registry_server::{self, Config, Opened, Policy, Report, ServerError};

use super::logging::{self, LogFormat};
use super::settings::parse_duration;
use super::{Common, Outcome, OutputFormat, Printer, Usage};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n\
    \x20 fnbuild registry serve --listen 127.0.0.1:5000\n\
    \x20 fnbuild registry gc --dry-run")]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Serve(Box<ServeArguments>),
    Gc(GcArguments),
}

/// Serve a registry
#[derive(clap::Args)]
#[command(after_help = "Example:\n\
    \x20 fnbuild registry serve --listen 0.0.0.0:5000 --htpasswd users --tls-cert cert.pem --tls-key key.pem")]
struct ServeArguments {
    /// Where to listen; may be given several times
    #[arg(
        long,
        env = "FNBUILD_REGISTRY_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:5000",
        value_delimiter = ','
    )]
    listen: Vec<SocketAddr>,
    /// Certificate chain, PEM
    #[arg(long, env = "FNBUILD_REGISTRY_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key, PEM
    #[arg(long, env = "FNBUILD_REGISTRY_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Ask for a user of this file (htpasswd -B)
    #[arg(long, env = "FNBUILD_REGISTRY_HTPASSWD", value_name = "FILE", conflicts_with = "no_auth")]
    htpasswd: Option<PathBuf>,
    /// Let everybody in, beyond this machine too
    #[arg(long, env = "FNBUILD_REGISTRY_NO_AUTH")]
    no_auth: bool,
    /// Refuse whatever would change something
    #[arg(long, env = "FNBUILD_REGISTRY_READ_ONLY")]
    read_only: bool,
    /// Fetch what is missing from this registry, and keep it
    #[arg(long, env = "FNBUILD_REGISTRY_MIRROR_OF", value_name = "URL")]
    mirror_of: Option<String>,
    /// No line for each request
    #[arg(long, env = "FNBUILD_REGISTRY_NO_ACCESS_LOG")]
    no_access_log: bool,
    /// How the log is written, on stderr
    #[arg(long, env = "FNBUILD_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    #[command(flatten)]
    policy: PolicyArguments,
}

// What a collection may remove
#[derive(clap::Args)]
struct PolicyArguments {
    /// Remove manifests that have had no tag for so long (7d); without this they are kept
    #[arg(long, env = "FNBUILD_REGISTRY_KEEP_UNTAGGED", value_name = "AGE", value_parser = parse_age)]
    keep_untagged: Option<Duration>,
    /// How long a blob stays for a client that was told it need not upload it
    #[arg(long, env = "FNBUILD_REGISTRY_GRACE", value_name = "AGE", value_parser = parse_age, default_value = "1h")]
    grace: Duration,
}

/// Remove what no manifest keeps, beside pushes or without a server
#[derive(clap::Args)]
#[command(after_help = "Example:\n  fnbuild registry gc --dry-run")]
struct GcArguments {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    policy: PolicyArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

impl PolicyArguments {
    fn policy(&self, dry_run: bool) -> Policy {
        Policy { grace: self.grace, untagged: self.keep_untagged, dry_run, ..Policy::default() }
    }
}

/// `7d`, and what [`parse_duration`] takes.
fn parse_age(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) {
        Some(days) => Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
        None => parse_duration(text).map_err(|error| error.to_string()),
    }
}

pub fn run(arguments: &Arguments, common: &Common, printer: &Printer) -> anyhow::Result<Outcome> {
    let root = common.data_dir()?.join("registry");
    // Requests are answered on threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.verb {
        Verb::Serve(arguments) => runtime.block_on(serve(arguments, root, common, printer)),
        Verb::Gc(arguments) => {
            let policy = arguments.policy.policy(arguments.dry_run);
            let report = runtime.block_on(registry_server::collect(&root, policy))?;
            print(&report, arguments.output, printer)
        }
    }
}

async fn serve(
    arguments: &ServeArguments,
    root: PathBuf,
    common: &Common,
    printer: &Printer,
) -> anyhow::Result<Outcome> {
    let open = arguments.htpasswd.is_none() && !arguments.no_auth;
    if let Some(beyond) = arguments.listen.iter().find(|address| open && !address.ip().is_loopback()) {
        let message = format!(
            "{beyond} can be reached from other machines: add --htpasswd FILE, or --no-auth to let everybody in"
        );
        return Err(Usage::new(message).into());
    }
    let access = ("fnbuild::registry::access", !arguments.no_access_log);
    logging::start(common, arguments.log_format, Some(access));
    let mut listeners = Vec::new();
    for address in &arguments.listen {
        let failed = |source| ServerError::Listen { address: *address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true)?;
        listeners.push(tokio::net::TcpListener::from_std(listener)?);
    }
    let config = Config {
        root,
        tls: arguments.tls_cert.clone().zip(arguments.tls_key.clone()),
        htpasswd: arguments.htpasswd.clone(),
        read_only: arguments.read_only,
        mirror: arguments.mirror_of.clone(),
        policy: arguments.policy.policy(false),
    };
    let (scheme, folder) = (if config.tls.is_some() { "https" } else { "http" }, config.root.clone());
    let opened = Opened::open(config).await?;
    for listener in &listeners {
        printer.status(format!("registry on {scheme}://{}, in {}", listener.local_addr()?, folder.display()));
    }
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone()));
    opened.serve(listeners, shutdown).await?;
    Ok(Outcome::Success)
}

async fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    Ok(())
}

fn print(report: &Report, output: OutputFormat, printer: &Printer) -> anyhow::Result<Outcome> {
    if output == OutputFormat::Json {
        printer.json(report)?;
        return Ok(Outcome::Success);
    }
    let verb = if report.dry_run { "would remove" } else { "removed" };
    for manifest in &report.manifests {
        printer.data(format!("{verb} {manifest} (untagged)"));
    }
    printer.data(format!("{verb} {} blobs ({} bytes)", report.blobs, report.bytes));
    if report.uploads > 0 {
        printer.data(format!("{verb} {} abandoned uploads ({} bytes)", report.uploads, report.upload_bytes));
    }
    if report.kept_blobs > 0 {
        printer.status(format!(
            "kept {} unreferenced blobs ({} bytes) that a client may still count on; --grace shortens that time",
            report.kept_blobs, report.kept_bytes
        ));
    }
    Ok(Outcome::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_may_be_days() {
        assert_eq!(parse_age("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(parse_age("0s").unwrap(), Duration::ZERO);
        assert!(parse_age("d").is_err() && parse_age("-1d").is_err());
    }
}
