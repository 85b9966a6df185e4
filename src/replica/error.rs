//! What can go wrong between a call and a replica. The gateway maps the variants to answers.

use std::sync::Arc;
use std::time::Duration;

use crate::function::{FunctionName, Memory, Settings, VersionNumber};
use crate::oci::{Digest, Repository};
use crate::secrets::{InvalidSecretName, SecretError};
use crate::store::StoreError;
use crate::{containerd, network, registry};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 404.
    #[error("there is no function {name}")]
    UnknownFunction { name: FunctionName },
    /// 404.
    #[error("function {name} has no version {version}")]
    UnknownVersion { name: FunctionName, version: VersionNumber },
    /// 404.
    #[error("there is no replica {id}")]
    UnknownReplica { id: String },
    /// 401: whether there is one that will do is for the gateway to find out.
    #[error("calls of {name} need a token")]
    NeedsToken { name: FunctionName },
    /// 429.
    #[error("all replicas of {name} are busy and {waiting} calls wait already")]
    QueueFull { name: FunctionName, waiting: usize },
    /// 503: the machine is busy or containerd is away.
    #[error("no replica of {name} became free within {} s", waited.as_secs())]
    TooSlow { name: FunctionName, waited: Duration },
    /// 503. Shared by all the calls that waited for the same start.
    #[error("version {version} of {name} cannot start")]
    CannotStart {
        name: FunctionName,
        version: VersionNumber,
        #[source]
        source: Arc<Error>,
    },
    /// 503.
    #[error("the server is stopping")]
    Stopping,
    /// 503: deleted while the call waited.
    #[error("function {name} is being deleted")]
    Removed { name: FunctionName },
    /// 503, and a balancer finds the node that has.
    #[error("the replicas of {name} run on other nodes")]
    Elsewhere { name: FunctionName },
    /// 503, and a balancer finds a node that has.
    #[error("this node has no room for a replica of {name}")]
    NoRoom { name: FunctionName },
    #[error(
        "its process ended with exit status {status} before it listened on port {port}{}",
        log_tail(last_lines)
    )]
    Died { status: u32, port: u16, last_lines: Vec<String> },
    #[error("it was out of memory before it listened (the limit is {limit}){}", log_tail(last_lines))]
    OutOfMemory { limit: Memory, last_lines: Vec<String> },
    #[error("it did not listen on port {port} within {} s", waited.as_secs())]
    NotListening { port: u16, waited: Duration },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    SecretName(#[from] InvalidSecretName),
    #[error("{program} is not in {name}'s container")]
    NoProgram { name: FunctionName, program: String },
    #[error("{program} cannot be executed in {name}'s container")]
    NotExecutable { name: FunctionName, program: String },
    #[error("put the secrets into {id}")]
    SecretFiles {
        id: String,
        #[source]
        source: std::io::Error,
    },
    #[error("hand a function over to the waiting container {id}")]
    HandOver {
        id: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the image {image} has neither an entry point nor a command")]
    NoCommand { image: Digest },
    #[error("fetch {repository}@{image} from the registry")]
    Pull {
        repository: Repository,
        image: Digest,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("read the manifest of {repository}@{image}")]
    Manifest {
        repository: Repository,
        image: Digest,
        #[source]
        source: serde_json::Error,
    },
    #[error("{repository}@{image} has no image for linux on {architecture}")]
    Platform { repository: Repository, image: Digest, architecture: String },
    #[error("{verb} {}", path.display())]
    Files {
        verb: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Error {
    pub(super) fn files(verb: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Files { verb, path, source }
    }

    /// Whether the same may succeed in a moment, containerd or the registry being away.
    pub fn is_away(&self) -> bool {
        let of_registry = |error: Option<&registry::Error>| error.is_some_and(registry::Error::is_away);
        match self {
            Self::Pull { source, .. } => of_registry(source.downcast_ref()),
            // The registry went away while a blob was on its way.
            Self::Containerd(containerd::Error::Blob { source, .. }) => {
                of_registry(source.get_ref().and_then(|error| error.downcast_ref()))
            }
            Self::Containerd(error) => error.is_away(),
            _ => false,
        }
    }

    /// Whether it is the function that cannot start, and not the platform that cannot start it.
    pub fn is_of_the_function(&self) -> bool {
        matches!(
            self,
            Self::Died { .. } | Self::OutOfMemory { .. } | Self::NotListening { .. } | Self::NoCommand { .. }
        )
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Containerd(error) => error.hint(),
            Self::Network(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Elsewhere { .. } => Some(
                "let a balancer retry elsewhere, or set --max-scale to the number of nodes or more".into(),
            ),
            Self::CannotStart { name, source, .. } => match &**source {
                Self::OutOfMemory { .. } => Some(format!(
                    "give it more: fnbuild config {name} --memory {}",
                    Settings::default().memory
                )),
                Self::Died { .. } | Self::NotListening { .. } => {
                    Some(format!("fnbuild logs {name} shows what it printed"))
                }
                other => other.hint(),
            },
            Self::Secret(SecretError::NotFound { name }) => {
                Some(format!("create it: fnbuild secret create {name}"))
            }
            Self::Secret(error) => error.hint(),
            Self::UnknownFunction { .. } => Some("fnbuild list shows the functions there are".into()),
            Self::Pull { .. } => Some("is the registry up? The image must be in it".into()),
            _ => None,
        }
    }
}

fn log_tail(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  | {line}")).collect()
}
