//! The configuration of `fnbuild serve`: from arguments and environment ([`ConfigArguments`]) to a checked [`Config`].
//!
//! Everything that can be refused without touching a service is refused here; nothing is opened or made.

mod access;
mod calls;
mod data_folder;
mod etcd;
mod local;
mod traces;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::function::{parse_duration as duration, parse_number as number};
use crate::network::{Egress, Subnet};
use crate::registry;
use crate::telemetry::trace::TraceSettings;

pub use access::{AccessArguments, AccessConfig, AuthMode, TlsFiles};
pub use calls::{QueueArguments, QueueSettings};
pub use data_folder::{DataFolder, DataFolderError};
pub use etcd::EtcdArguments;
pub use traces::TraceArguments;

/// Where the registry is that comes with the server.
const EMBEDDED_REGISTRY: &str = "localhost:5000";
const EMBEDDED_PORT: u16 = 5000;

// What `fnbuild serve` can be told.
#[derive(clap::Args, Clone, Debug)]
pub struct ConfigArguments {
    /// Where to listen; may be given more than once
    #[arg(
        long,
        env = "FNBUILD_LISTEN",
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    access: AccessArguments,
    /// The registry that images are pushed to and pulled from [default: one of its own on localhost:5000]
    #[arg(long, env = "FNBUILD_REGISTRY", value_parser = registry::host, value_name = "HOST[:PORT]")]
    registry: Option<String>,
    /// Talk to the registry without TLS (for loopback this needs no saying)
    #[arg(long, env = "FNBUILD_PLAIN_HTTP")]
    plain_http: bool,
    /// Do not check the registry's certificate
    #[arg(long, env = "FNBUILD_INSECURE")]
    insecure: bool,
    /// A certificate authority to trust for the registry
    #[arg(long, env = "FNBUILD_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArguments,
    /// The key that seals secrets, the same on every node; made where there is none [default: secret.key in the data
    /// folder]
    #[arg(long, env = "FNBUILD_SECRET_KEY_FILE", value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// containerd's socket
    #[arg(
        long,
        env = "FNBUILD_CONTAINERD",
        default_value = "/run/containerd/containerd.sock",
        value_name = "SOCKET"
    )]
    containerd: PathBuf,
    /// containerd's namespace
    #[arg(long, env = "FNBUILD_NAMESPACE", default_value = "fnbuild", value_name = "NAME")]
    namespace: String,
    /// The containers' network [default: a free /22]
    #[arg(long, env = "FNBUILD_SUBNET", value_name = "CIDR")]
    subnet: Option<Subnet>,
    /// Where the CNI plugins are
    #[arg(long, env = "FNBUILD_CNI_PLUGINS", default_value = "/usr/lib/cni", value_name = "DIR")]
    cni_plugins: PathBuf,
    /// A name server for the containers; may be given more than once [default: the host's]
    #[arg(long, env = "FNBUILD_DNS", value_delimiter = ',', value_name = "ADDRESS")]
    dns: Vec<Ipv4Addr>,
    /// What functions may reach: none, public or all
    #[arg(long, env = "FNBUILD_EGRESS", default_value = "public")]
    egress: Egress,
    /// Let functions call functions: the trigger, and nothing else, listens on their network's gateway too, and
    /// FNBUILD_GATEWAY tells them where
    #[arg(long, env = "FNBUILD_FUNCTION_CALLS")]
    function_calls: bool,
    /// The first user ID that containers run as
    #[arg(long, env = "FNBUILD_UID_BASE", value_parser = number::<u32>, default_value_t = 200_000)]
    uid_base: u32,
    /// A replica without calls is stopped after this time
    #[arg(long, env = "FNBUILD_IDLE_TIME", default_value = "60s", value_parser = duration, value_name = "TIME")]
    idle_time: Duration,
    /// Containers of each base that wait for a function, so that a first call waits for no start; 0 for none
    #[arg(long, env = "FNBUILD_POOL", value_parser = number::<usize>, default_value_t = 2, value_name = "N")]
    pool: usize,
    /// Replicas at most, over all functions: when it is full, the idle ones make room [default: one for each 128 MiB of
    /// the machine's memory]
    #[arg(long, env = "FNBUILD_MAX_REPLICAS", value_parser = number::<usize>, value_name = "N")]
    max_replicas: Option<usize>,
    /// Versions of a function that are kept for a rollback
    #[arg(long, env = "FNBUILD_KEEP", value_parser = number::<usize>, default_value_t = 10, value_name = "N")]
    keep: usize,
    /// How many calls of a function may wait for a replica
    #[arg(long, env = "FNBUILD_QUEUE", value_parser = number::<usize>, default_value_t = 1000, value_name = "N")]
    queue: usize,
    /// How long a call waits for a replica
    #[arg(long, env = "FNBUILD_START_TIMEOUT", default_value = "120s", value_parser = duration, value_name = "TIME")]
    start_timeout: Duration,
    /// How long a streamed answer may be silent
    #[arg(long, env = "FNBUILD_IDLE_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "TIME")]
    idle_timeout: Duration,
    /// With --etcd: how long the server goes on answering after it was told to stop, so that balancers see /readyz
    #[arg(long, env = "FNBUILD_NOTICE", default_value = "5s", value_parser = duration, value_name = "TIME")]
    notice: Duration,
    /// How long calls in flight may take when the server stops
    #[arg(long, env = "FNBUILD_DRAIN", default_value = "30s", value_parser = duration, value_name = "TIME")]
    drain: Duration,
    /// The largest source (zip or file)
    #[arg(long, env = "FNBUILD_MAX_SOURCE", default_value = "50Mi", value_parser = size, value_name = "SIZE")]
    max_source: u64,
    /// The largest source once unpacked
    #[arg(long, env = "FNBUILD_MAX_UNPACKED", default_value = "250Mi", value_parser = size, value_name = "SIZE")]
    max_unpacked: u64,
    /// The most entries in a source
    #[arg(long, env = "FNBUILD_MAX_ENTRIES", value_parser = number::<usize>, default_value_t = 100_000, value_name = "N")]
    max_entries: usize,
    /// The largest body of a call
    #[arg(long, env = "FNBUILD_MAX_REQUEST_BODY", default_value = "6Mi", value_parser = size, value_name = "SIZE")]
    max_request_body: u64,
    /// The largest answer of a call; streams have no bound
    #[arg(long, env = "FNBUILD_MAX_RESPONSE_BODY", default_value = "64Mi", value_parser = size, value_name = "SIZE")]
    max_response_body: u64,
    #[command(flatten)]
    calls: QueueArguments,
    #[command(flatten)]
    traces: TraceArguments,
}

/// A configuration that makes sense.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    /// At least one, none twice.
    pub listen: Vec<SocketAddr>,
    pub access: AccessConfig,
    pub registry: RegistryConfig,
    /// Not where the records are in the data folder.
    pub etcd: EtcdArguments,
    pub secret_key_file: PathBuf,
    pub containerd: PathBuf,
    pub namespace: String,
    pub network: NetworkConfig,
    /// Whether functions may call functions.
    pub function_calls: bool,
    pub uid_base: u32,
    pub idle_time: Duration,
    /// Containers that wait for a function, for each base.
    pub pool: usize,
    /// Over all functions; `None`: as many as the machine has room for.
    pub max_replicas: Option<usize>,
    /// Versions of a function.
    pub keep: usize,
    pub queue: usize,
    pub start_timeout: Duration,
    pub idle_timeout: Duration,
    /// From the word to stop until calls are refused; zero on a single machine.
    pub notice: Duration,
    pub drain: Duration,
    pub source: SourceBounds,
    pub max_request_body: u64,
    pub max_response_body: u64,
    /// Asynchronous ones.
    pub calls: QueueSettings,
    /// Nobody wants any unless it is said.
    pub traces: Option<TraceSettings>,
}

#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// `HOST[:PORT]`.
    pub host: String,
    /// None was named: the server brings its own to this port, unless one answers there already. 0: to a free one, which
    /// is the host's then.
    pub embedded: Option<u16>,
    pub plain_http: bool,
    pub insecure: bool,
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct NetworkConfig {
    pub subnet: Option<Subnet>,
    pub plugins: PathBuf,
    pub dns: Vec<Ipv4Addr>,
    pub egress: Egress,
}

/// What a source may be at most, in bytes and entries.
#[derive(Clone, Copy, Debug)]
pub struct SourceBounds {
    pub zipped: u64,
    pub unpacked: u64,
    pub entries: usize,
}

/// A configuration that makes no sense, with the flag that is to blame.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--listen {address} is given twice")]
    Twice { address: SocketAddr },
    #[error("--namespace {name:?} is no containerd namespace: letters, digits and single . _ - between them")]
    Namespace { name: String },
    #[error("--tls-cert and --tls-key go together")]
    HalfTls,
    #[error("{flag} must not be zero")]
    Zero { flag: &'static str },
    #[error(
        "--etcd is for several machines, which need one registry that all of them reach: name it with --registry"
    )]
    EtcdWithoutRegistry,
    #[error("the environment is no configuration: {what}")]
    Environment { what: String },
    #[error("--dns {address} is a loopback address, which means something else inside a container")]
    LoopbackDns { address: Ipv4Addr },
    #[error("{flag} {value:?}: expected {what}")]
    Traces { flag: &'static str, value: String, what: &'static str },
}

impl ConfigArguments {
    pub fn check(self, data_dir: PathBuf) -> Result<Config, ConfigError> {
        for (at, address) in self.listen.iter().enumerate() {
            // Port 0 means another port each time.
            if address.port() != 0 && self.listen.iter().take(at).any(|before| before == address) {
                return Err(ConfigError::Twice { address: *address });
            }
        }
        if !is_namespace(&self.namespace) {
            return Err(ConfigError::Namespace { name: self.namespace });
        }
        if let Some(address) = self.dns.iter().find(|address| address.is_loopback()) {
            return Err(ConfigError::LoopbackDns { address: *address });
        }
        if self.etcd.is_named() && self.registry.is_none() {
            return Err(ConfigError::EtcdWithoutRegistry);
        }
        for (flag, zero) in [
            ("--max-replicas", self.max_replicas == Some(0)),
            ("--keep", self.keep == 0),
            ("--start-timeout", self.start_timeout.is_zero()),
            ("--idle-timeout", self.idle_timeout.is_zero()),
            ("--max-source", self.max_source == 0),
            ("--max-unpacked", self.max_unpacked == 0),
            ("--max-entries", self.max_entries == 0),
            ("--async-bytes", self.calls.async_bytes == 0),
            ("--async-backoff", self.calls.async_backoff.is_zero()),
        ] {
            if zero {
                return Err(ConfigError::Zero { flag });
            }
        }
        let secret_key_file = self.secret_key_file.unwrap_or_else(|| data_dir.join("secret.key"));
        let Self { subnet, cni_plugins: plugins, dns, egress, .. } = self;
        let Self { registry, plain_http, insecure, registry_ca: ca, .. } = self;
        let notice = if self.etcd.is_named() { self.notice } else { Duration::ZERO };
        let embedded = registry.is_none().then_some(EMBEDDED_PORT);
        let host = registry.unwrap_or_else(|| EMBEDDED_REGISTRY.into());
        Ok(Config {
            data_dir,
            listen: self.listen,
            access: self.access.check()?,
            registry: RegistryConfig { host, embedded, plain_http, insecure, ca },
            etcd: self.etcd,
            secret_key_file,
            containerd: self.containerd,
            namespace: self.namespace,
            network: NetworkConfig { subnet, plugins, dns, egress },
            function_calls: self.function_calls,
            uid_base: self.uid_base,
            idle_time: self.idle_time,
            pool: self.pool,
            max_replicas: self.max_replicas,
            keep: self.keep,
            queue: self.queue,
            start_timeout: self.start_timeout,
            idle_timeout: self.idle_timeout,
            notice,
            drain: self.drain,
            source: SourceBounds {
                zipped: self.max_source,
                unpacked: self.max_unpacked,
                entries: self.max_entries,
            },
            max_request_body: self.max_request_body,
            max_response_body: self.max_response_body,
            calls: self.calls.into(),
            traces: self.traces.check()?,
        })
    }
}

/// containerd's own rule for identifiers.
fn is_namespace(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.len() <= 76 && name.split(['.', '_', '-']).all(part)
}

/// `50Mi`, `1048576`: bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let amount: crate::function::Memory =
        text.parse().map_err(|_| format!("{text:?} is no amount of bytes (for example 512Ki or 50Mi)"))?;
    Ok(amount.0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: ConfigArguments,
    }

    fn config(flags: &[&str]) -> Result<Config, String> {
        let command =
            Command::try_parse_from([&["serve"], flags].concat()).map_err(|error| error.to_string())?;
        command.arguments.check("/data".into()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_make_sense() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!((config.source.zipped, config.max_request_body), (50 << 20, 6 << 20));
        assert_eq!(config.start_timeout, Duration::from_secs(120));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_flag() {
        for (flags, named) in [
            (&["--listen", "a:b"][..], "--listen"),
            (&["--listen", "127.0.0.1:80,127.0.0.1:80"], "127.0.0.1:80"),
            (&["--namespace", "a/b"], "--namespace"),
            (&["--namespace", ""], "--namespace"),
            (&["--dns", "127.0.0.53"], "--dns"),
            (&["--start-timeout", "0s"], "--start-timeout"),
            (&["--drain", "soon"], "--drain"),
            (&["--max-source", "0"], "--max-source"),
            (&["--max-source", "many"], "--max-source"),
            (&["--keep", "0"], "--keep"),
            (&["--async-backoff", "0s"], "--async-backoff"),
            (&["--callback-hosts", "http://a"], "--callback-hosts"),
            (&["--etcd", "http://a:2379"], "--registry"),
        ] {
            let error = config(flags).unwrap_err();
            assert!(error.contains(named), "{flags:?}: {error}");
        }
        assert!(config(&["--listen", "127.0.0.1:0,127.0.0.1:0"]).is_ok(), "two free ports are two ports");
    }
}
