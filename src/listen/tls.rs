//! TLS for the listeners: certificate and key from files, read again when they change.
//!
//! Files are looked at by time, not watched: that sees renames, links that are turned to elsewhere and network file
//! systems alike. What cannot be used, because it is half written perhaps, changes nothing.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_secs(1);
/// The first byte of a TLS connection: a record of the handshake (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificate or key in {}", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("there is no certificate in {}", path.display())]
    Empty { path: PathBuf },
    #[error("cannot use the certificate {} with the key {}", certificate.display(), key.display())]
    Unusable {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

/// Who may do without TLS at a listener that has it.
#[derive(Clone, Copy, Debug)]
pub enum Plain {
    Nobody,
    /// Who never leaves this machine: callers on loopback, and functions that call at this address.
    Local {
        functions: IpAddr,
    },
}

/// Certificate and key as they last were.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
    plain: Plain,
}

/// What tells one state of a file from another.
type Mark = Option<(u64, u64, i64, i64)>;

impl Tls {
    pub fn load(certificate: PathBuf, key: PathBuf, plain: Plain) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self { certificate, key, current, plain })
    }

    /// Whether this connection speaks TLS, or has to.
    pub(super) async fn is_wanted(&self, stream: &TcpStream) -> std::io::Result<bool> {
        let Plain::Local { functions } = self.plain else { return Ok(true) };
        let local = stream.local_addr()?.ip().to_canonical();
        if !local.is_loopback() && local != functions {
            return Ok(true);
        }
        let mut first = [0];
        Ok(stream.peek(&mut first).await? == 1 && first == [HANDSHAKE])
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Takes up what the files become, until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let marks = || (mark(&self.certificate), mark(&self.key));
        let mut known = marks();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let found = marks();
            if found == known {
                continue;
            }
            known = found;
            match read(&self.certificate, &self.key) {
                Ok(config) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!(certificate = %self.certificate.display(), "another certificate is used");
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the certificate stays the one before");
                }
            }
        }
    }
}

fn mark(path: &Path) -> Mark {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let pem = |path: &Path, source| TlsError::Pem { path: path.into(), source };
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain: Vec<_> = chain.map_err(|source| pem(certificate, source))?;
    if chain.is_empty() {
        return Err(TlsError::Empty { path: certificate.into() });
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| pem(key, source))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let unusable = |source| TlsError::Unusable { certificate: certificate.into(), key: key.into(), source };
    let mut config = config.map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
