//! What can go wrong with containerd.

use std::fmt;
use std::path::{Path, PathBuf};

use containerd_client::tonic::{Code, Status};

use crate::oci::Digest;

/// A gRPC status as a person reads it: what containerd answered, or why no answer came. tonic's own text tells a developer
/// how it is made inside.
#[derive(Debug)]
pub struct Answer(Box<Status>);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every layer below has wrapped the one cause, and says less than it.
        let causes = std::iter::successors(std::error::Error::source(&*self.0), |cause| cause.source());
        match (causes.last(), self.0.message()) {
            (Some(cause), _) => write!(f, "{cause}"),
            (None, "") => f.write_str(self.0.code().description()),
            (None, message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Answer {}

/// Every failure of this room. `Call` keeps the gRPC status, whose code decides what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connect to containerd at {}", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: Answer,
    },
    #[error("{name:?} is no name for a containerd namespace")]
    Namespace { name: String },
    #[error("{what} in containerd at {}", socket.display())]
    Call {
        what: String,
        socket: PathBuf,
        #[source]
        source: Answer,
    },
    #[error("read {blob} to write it into containerd")]
    Blob {
        blob: Digest,
        #[source]
        source: std::io::Error,
    },
    #[error("layer {layer} unpacks to {actual}, but the image's config says {expected}")]
    DiffId { layer: Digest, expected: Digest, actual: String },
    #[error("{image} has {layers} layers but its config lists {diff_ids}")]
    LayerCount { image: Digest, layers: usize, diff_ids: usize },
    #[error("read {what} of the image {image}")]
    Malformed {
        image: Digest,
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("read the runtime spec of {container}")]
    Spec {
        container: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{program} is not in {container}")]
    NoProgram { container: String, program: String },
    #[error("{program} in {container} cannot be executed")]
    NotExecutable { container: String, program: String },
    #[error("set up the streams of a command in {container}")]
    Streams {
        container: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(super) fn call(socket: &Path, what: impl Into<String>, source: Status) -> Self {
        Self::Call { what: what.into(), socket: socket.into(), source: Answer(Box::new(source)) }
    }

    /// What a call met is what a connection meets.
    pub(super) fn of_connecting(self) -> Self {
        match self {
            Self::Call { socket, source, .. } => Self::Connect { socket, source },
            other => other,
        }
    }

    /// The gRPC code, if it was a call that failed.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Call { source, .. } | Self::Connect { source, .. } => Some(source.0.code()),
            _ => None,
        }
    }

    /// Whether containerd itself is away, so that the same call may succeed later.
    pub fn is_away(&self) -> bool {
        match self {
            // A status that was made here, not sent by containerd, carries the broken connection as its source.
            Self::Call { source, .. } | Self::Connect { source, .. } => {
                matches!(source.0.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded)
                    || std::error::Error::source(&*source.0).is_some()
            }
            _ => false,
        }
    }

    /// Whether containerd does not have what the call was about.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { socket, .. } => Some(format!(
                "is containerd running, and may you open {}? (systemctl start containerd; --containerd SOCKET)",
                socket.display()
            )),
            Self::Call { .. } if self.is_away() => {
                Some("containerd does not answer: see its log (journalctl -u containerd)".into())
            }
            _ => None,
        }
    }
}
