//! Where a server's own log goes: lines on stderr, as text or as JSON. `RUST_LOG` decides what is said where it is set.

use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::Common;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, clap::ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// One object for each line, what else is told at the start and the end included
    Json,
}

/// From here on. `access`: the target of lines for each request, and whether they are wanted.
pub fn start(common: &Common, format: LogFormat, access: Option<(&'static str, bool)>) {
    let level = match (common.quiet, common.verbose) {
        (true, _) => LevelFilter::WARN,
        (false, 0) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let asked = std::env::var_os(EnvFilter::DEFAULT_ENV).and_then(|_| EnvFilter::try_from_default_env().ok());
    let filter = match asked {
        Some(filter) => filter.boxed(),
        // Much less to carry along than an EnvFilter that nobody asked for.
        None => {
            let access =
                access.map(|(target, wanted)| (target, if wanted { level } else { LevelFilter::OFF }));
            let targets = [("fnbuild", level)].into_iter().chain(access);
            Targets::new().with_default(LevelFilter::WARN).with_targets(targets).boxed()
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
    };
    // A second server in one process keeps the first one's log.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
}
