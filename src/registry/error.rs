//! What can go wrong between this machine and a registry. A variant names the step; no text ever holds a credential
//! or the query of a URL, which may carry a signature.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::oci::Digest;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{host:?} is no registry's HOST[:PORT]{}", scheme(host))]
    InvalidHost { host: String },
    #[error("connect to {address}")]
    Connect { address: String, refused: bool, source: io::Error },
    #[error("connect to {address}: a plain HTTP server answered the TLS hello")]
    PlainHttpAnswer { address: String },
    #[error("connect to {address}: TLS")]
    Tls { address: String, source: io::Error },
    #[error("read the certificates in {}", path.display())]
    Certificates { path: PathBuf, source: io::Error },
    #[error("{method} {url}: the connection broke")]
    Broken { method: Method, url: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{method} {url}: nothing moved for {} s", after.as_secs())]
    Stalled { method: Method, url: String, after: Duration },
    #[error("{method} {url}: the registry has lost the upload")]
    UploadLost { method: Method, url: String },
    #[error("{method} {url}: {status}{message}")]
    Status {
        method: Method,
        url: String,
        status: StatusCode,
        /// Empty, or `: CODE: text` as the registry put it.
        message: String,
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    #[error("{method} {url}: {problem}")]
    Protocol { method: Method, url: String, problem: String },
    #[error("{registry} wants credentials for {what}")]
    Unauthorized { registry: String, what: String },
    #[error("{registry} refuses the credentials it was given for {what}")]
    Forbidden { registry: String, what: String },
    #[error("get a token for {registry} from {realm}: {problem}")]
    Token { registry: String, realm: String, problem: String },
    #[error("get the credentials of {registry} from docker's configuration: {problem}")]
    Credentials { registry: String, problem: &'static str },
    #[error("{what} in {registry}/{repository}: not found")]
    NotFound { registry: String, repository: String, what: String },
    #[error("the registry lacks {} of the blobs that the manifest names: {}", missing.len(), list(missing))]
    IncompleteManifest { missing: Vec<Digest> },
    #[error("{what} should be {expected} but is {actual}")]
    DigestMismatch { what: String, expected: Digest, actual: String },
    #[error("{what} has {size} bytes, more than the {limit} allowed")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("read {what}")]
    Malformed { what: String, source: serde_json::Error },
    #[error("{reference} has no image for {platform}; it has {available}")]
    NoPlatform { reference: String, platform: String, available: String },
    #[error("read the bytes of {digest} to upload")]
    Source { digest: Digest, source: io::Error },
    #[error("write the bytes of {digest}")]
    Sink { digest: Digest, source: io::Error },
    #[error("{step} {}", path.display())]
    DockerConfig { step: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    /// The next step for a person, where there is one.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Connect { address, refused: true, .. } => format!(
                "nothing listens on {address}: start a registry there (`fnbuild registry serve`, or docker-registry), \
                 or name another with --registry"
            ),
            Self::Connect { .. } => {
                "check the name and the network, or name another registry with --registry".into()
            }
            Self::PlainHttpAnswer { address } => {
                format!("if {address} is meant to be without TLS, say --plain-http once: it is remembered")
            }
            Self::Tls { .. } => {
                "for a private CA give its certificate with --registry-ca FILE; --insecure checks nothing"
                    .into()
            }
            Self::Unauthorized { registry, .. } | Self::Forbidden { registry, .. } => {
                format!("log in with: fnbuild login {registry}")
            }
            Self::Status { status: StatusCode::TOO_MANY_REQUESTS, .. } => "try again later".into(),
            // What a registry says of a push that it does not take is another thing; this is what others say.
            Self::Status {
                method: Method::POST,
                status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED,
                ..
            } => "is that a registry's address, and has it this repository? Name another with --registry"
                .into(),
            Self::Protocol { .. } => "is that a registry's address? Name another with --registry".into(),
            _ => return None,
        })
    }

    /// Whether the same request may well succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Stalled { .. } | Self::UploadLost { .. } => true,
            Self::Connect { refused, .. } => !refused,
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
            }
            _ => false,
        }
    }

    /// Whether the registry does not answer, so that the same may well succeed once it does.
    pub fn is_away(&self) -> bool {
        self.is_transient() || matches!(self, Self::Connect { .. })
    }

    /// Whether a registry said that what was named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
            || matches!(self, Self::Status { status, .. } if *status == StatusCode::NOT_FOUND)
    }

    pub(super) fn protocol(method: &Method, url: &url::Url, problem: impl Into<String>) -> Self {
        Self::Protocol { method: method.clone(), url: shown(url), problem: problem.into() }
    }
}

/// A URL as it may be shown: without its query, which may carry a signature, and without user and password.
pub(super) fn shown(url: &url::Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

/// `HOST[:PORT]` of a URL.
pub(super) fn authority(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

/// The usual reason for a host that is none.
fn scheme(host: &str) -> String {
    let scheme = host.split_once("://").map(|(scheme, _)| format!(": leave {scheme}:// out"));
    scheme.unwrap_or_default()
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(Digest::to_string).collect::<Vec<_>>().join(", ")
}
