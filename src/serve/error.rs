//! Why a server did not start, and what to do about it.

use std::net::SocketAddr;

use crate::auth::AuthError;
use crate::config::{ConfigError, DataFolderError};
use crate::listen::TlsError;
use crate::queue::QueueError;
use crate::registry_server::ServerError;
use crate::secrets::SecretError;
use crate::store::StoreError;
use crate::telemetry::trace::TraceError;
use crate::{registry, replica};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Secrets(#[from] SecretError),
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Replicas(#[from] replica::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Traces(#[from] TraceError),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the registry")]
    Embedded(#[from] ServerError),
    #[error("cannot bring a registry to {address}, and none answers there")]
    RegistryPort {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {step}")]
    System {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl ServeError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Folder(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Secrets(error) => error.hint(),
            Self::Auth(error) => error.hint(),
            Self::Queue(error) => error.hint(),
            Self::Replicas(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Listen { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrInUse => Some(
                    "something listens there already: stop it, or name another address with --listen".into(),
                ),
                std::io::ErrorKind::PermissionDenied => Some("ports below 1024 need root".into()),
                _ => None,
            },
            Self::Embedded(error) => error.hint(),
            Self::RegistryPort { .. } => {
                Some("free that port, or name a registry with --registry HOST[:PORT]".into())
            }
            Self::Config(_) | Self::Tls(_) | Self::Traces(_) | Self::System { .. } => None,
        }
    }
}
