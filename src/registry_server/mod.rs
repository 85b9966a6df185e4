//! The embedded OCI registry: distribution-spec 1.1, whole, on one folder.
//!
//! ```text
//! server   one request from path to answer
//! route    path → what it names      answer   error codes, headers      body, range   bytes out
//! pull, push, manifest, discovery    the four workflows of the specification
//! mirror, arriving                   what is missing, from another registry
//! auth, metrics, control             who may, how much, and collections from another process
//! store/   the disk: blobs once, a journal of who may serve them, uploads, the collector
//! ```
//!
//! Writing our own was weighed against the crates that exist: they hold an upload in memory or their metadata in one JSON
//! file, and sync neither. Here an upload streams with constant memory, and every answer is on the disk before it is
//! given, at the price of one `fdatasync` that all waiting clients share.

mod answer;
mod arriving;
mod auth;
mod body;
mod control;
mod discovery;
mod manifest;
mod metrics;
mod mirror;
mod pull;
mod push;
mod range;
mod route;
mod server;
mod store;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listen::{Plain, Tls, TlsError, Workers};

pub use store::{Policy, Report, StoreError};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Between two collections of a running registry.
const COLLECT_EVERY: Duration = Duration::from_secs(60 * 60);

/// How a registry is served.
#[derive(Clone, Default, Debug)]
pub struct Config {
    /// The folder; created if need be.
    pub root: PathBuf,
    /// Certificate chain and key, both PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Users with bcrypt passwords; everybody may do everything without it.
    pub htpasswd: Option<PathBuf>,
    pub read_only: bool,
    /// `https://HOST` of the registry that is asked for what is missing.
    pub mirror: Option<String>,
    /// What the hourly collection may remove.
    pub policy: Policy,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("open the registry's folder {}", path.display())]
    Store { path: PathBuf, source: StoreError },
    #[error("there is no registry at {}", path.display())]
    NoRegistry { path: PathBuf },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("collect garbage: {message}")]
    Collect { message: String },
    #[error("read the users of {}", path.display())]
    Htpasswd { path: PathBuf, source: io::Error },
    #[error("{}, line {line}: expected USER:BCRYPT-HASH", path.display())]
    HtpasswdLine { path: PathBuf, line: usize },
    #[error("get random bytes")]
    Random { source: getrandom::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{url:?} is no registry to mirror (expected https://HOST[:PORT])")]
    MirrorUrl { url: String },
    #[error("prepare requests to the mirrored registry")]
    MirrorClient { source: reqwest::Error },
    #[error("use the control socket {}", path.display())]
    Control { path: PathBuf, source: io::Error },
    #[error("a connection listener failed")]
    Listener { source: io::Error },
}

impl ServerError {
    /// The next step for who sees it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store { source: StoreError::Locked { .. }, .. } => {
                Some("another registry serves this folder; stop it, or name another --data-dir".into())
            }
            Self::NoRegistry { .. } => Some(
                "name the folder that has one with --data-dir; `fnbuild registry serve` makes one".into(),
            ),
            Self::Listen { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "something listens there already: stop it, or name another address with --listen".into(),
                ),
                io::ErrorKind::PermissionDenied => Some("ports below 1024 need root".into()),
                _ => None,
            },
            Self::HtpasswdLine { .. } => Some("write entries with: htpasswd -B FILE USER".into()),
            _ => None,
        }
    }
}

/// A registry that is open and not served yet.
pub struct Opened {
    registry: Arc<server::Registry>,
    tls: Option<Arc<Tls>>,
    config: Config,
}

impl Opened {
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let tls = config.tls.clone().map(|(certificate, key)| Tls::load(certificate, key, Plain::Nobody));
        let tls = tls.transpose()?.map(Arc::new);
        let auth = config.htpasswd.as_deref().map(auth::Auth::open).transpose()?;
        let mirror = config.mirror.as_deref().map(mirror::Mirror::new).transpose()?;
        let store = open(&config.root).await?;
        let registry = Arc::new(server::Registry::new(store, auth, config.read_only, mirror));
        Ok(Self { registry, tls, config })
    }

    /// What it says of itself at `/metrics`, whenever that is asked for.
    pub fn figures(&self) -> impl Fn() -> String + Send + Sync + use<> {
        let registry = Arc::clone(&self.registry);
        move || registry.figures()
    }

    /// Serves until `shutdown`, then lets requests that have begun end.
    pub async fn serve(
        self,
        listeners: Vec<TcpListener>,
        shutdown: CancellationToken,
    ) -> Result<(), ServerError> {
        let Self { registry, tls, config } = self;
        let store = registry.store().clone();
        let control = tokio::spawn(control::answer(control::listen(&config.root)?, store.clone()));
        let collecting = tokio::spawn(collect_hourly(store.clone(), config.policy, shutdown.clone()));
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).follow(shutdown.clone()));
        }
        let workers = Workers::start();
        let servers = listeners.into_iter().map(|listener| {
            server::serve(registry.clone(), listener, tls.clone(), workers.clone(), shutdown.clone())
        });
        futures_util::future::join_all(servers).await;
        control.abort();
        collecting.abort();
        store.write_layout().await;
        Ok(())
    }
}

/// Collects once: through the server that serves `root`, if one runs, else here.
pub async fn collect(root: &Path, policy: Policy) -> Result<Report, ServerError> {
    if !root.exists() {
        return Err(ServerError::NoRegistry { path: root.into() });
    }
    let folder = root.to_path_buf();
    let answered = tokio::task::spawn_blocking(move || control::ask(&folder, policy)).await;
    if let Ok(answered) = answered
        && let Some(report) = answered?
    {
        return Ok(report);
    }
    let store = open(root).await?;
    store.collect(policy).await.map_err(|source| ServerError::Store { path: root.into(), source })
}

async fn open(root: &Path) -> Result<Arc<store::Store>, ServerError> {
    let folder = root.to_path_buf();
    let opened = tokio::task::spawn_blocking(move || store::Store::open(&folder)).await;
    let opened = opened.unwrap_or(Err(StoreError::Stopped));
    opened.map(Arc::new).map_err(|source| ServerError::Store { path: root.into(), source })
}

async fn collect_hourly(store: Arc<store::Store>, policy: Policy, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(COLLECT_EVERY)).await.is_some() {
        match store.collect(policy).await {
            Ok(report) => tracing::info!(
                manifests = report.manifests.len(),
                blobs = report.blobs,
                bytes = report.bytes,
                "collected"
            ),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "collect"),
        }
    }
}
