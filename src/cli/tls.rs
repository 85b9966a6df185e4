//! TLS towards a server: the machine's certificate authorities, and the one that was named.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls;

/// What can go wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificates in {}", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("cannot use a certificate in {}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("{host:?} is no name that a certificate can have")]
    Name { host: String },
    #[error("no TLS connection to {host}")]
    Handshake {
        host: String,
        #[source]
        source: io::Error,
    },
}

impl TlsError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Authority { .. } | Self::Unusable { .. } => {
                Some("--server-ca takes a file of certificates in PEM".into())
            }
            Self::Handshake { source, .. } if is_no_tls(source) => {
                Some("what answers there speaks plain HTTP: write http:// instead of https://".into())
            }
            Self::Handshake { .. } => {
                Some("name the server's certificate authority with --server-ca or FNBUILD_SERVER_CA".into())
            }
            Self::Name { .. } => None,
        }
    }
}

/// Whether the answer was no TLS record.
fn is_no_tls(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}

pub struct Tls(TlsConnector);

impl Tls {
    pub fn new(authority: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = tls::roots_of_this_machine();
        if let Some(path) = authority {
            let unreadable = |source| TlsError::Authority { path: path.into(), source };
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in read.map_err(unreadable)? {
                let unusable = |source| TlsError::Unusable { path: path.into(), source };
                roots.add(certificate).map_err(unusable)?;
            }
        }
        Ok(Self(Arc::new(tls::client(roots)).into()))
    }

    pub async fn wrap(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsError> {
        let name = ServerName::try_from(host.to_string());
        let name = name.map_err(|_| TlsError::Name { host: host.into() })?;
        let sealed = self.0.connect(name, stream).await;
        sealed.map_err(|source| TlsError::Handshake { host: host.into(), source })
    }
}
