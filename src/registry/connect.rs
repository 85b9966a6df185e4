//! Connections to a registry: TCP without delay, TLS where the URL says https.
//!
//! `tokio-rustls` directly instead of a ready connector: the certificate store is read only when the first TLS
//! connection is made (a push over plain HTTP counts in single milliseconds), and a server that answers the TLS hello
//! in plain HTTP can be told from one whose certificate is wrong.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Access, Error};
use crate::tls;

/// How much may wait in the kernel for the network. What it takes counts as moved: without a bound, megabytes would count
/// at once, and a slow line would then look as if nothing moved for as long as it needs for them.
const UNSENT: u32 = 256 << 10;

/// Makes connections for hyper's pool.
#[derive(Clone)]
pub(super) struct Connector {
    access: Access,
    tls: Arc<OnceLock<TlsConnector>>,
}

impl Connector {
    pub fn new(access: Access) -> Self {
        Self { access, tls: Arc::default() }
    }

    async fn open(self, uri: Uri) -> Result<TokioIo<Stream>, Error> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let address = format!("{host}:{port}");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = dial(bare, port, self.access.connect_timeout()).await.map_err(|source| Error::Connect {
            refused: source.kind() == io::ErrorKind::ConnectionRefused,
            address: address.clone(),
            source,
        })?;
        if !secure {
            return Ok(TokioIo::new(Stream::Plain(tcp)));
        }
        let name = ServerName::try_from(bare.to_string())
            .map_err(|_| Error::InvalidHost { host: bare.chars().take(300).collect() })?;
        let handshake = self.tls()?.connect(name, tcp);
        let stream = tokio::time::timeout(self.access.connect_timeout(), handshake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| tls_error(address, source))?;
        Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
    }

    fn tls(&self) -> Result<TlsConnector, Error> {
        if let Some(ready) = self.tls.get() {
            return Ok(ready.clone());
        }
        let made = TlsConnector::from(Arc::new(tls_config(&self.access)?));
        Ok(self.tls.get_or_init(|| made).clone())
    }
}

impl Access {
    fn connect_timeout(&self) -> Duration {
        self.patience.connect
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await.map_err(|error| Failed(Mutex::new(Some(error)))) })
    }
}

/// Carries our error through hyper's, which hands out references only.
#[derive(Debug, thiserror::Error)]
#[error("no connection")]
pub(super) struct Failed(Mutex<Option<Error>>);

impl Failed {
    /// The error of ours within one of hyper's, if that is what it is.
    pub fn take(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(Self(slot)) = error.downcast_ref() {
                return slot.lock().ok()?.take();
            }
            cause = error.source();
        }
        None
    }
}

/// Connects to the first address that answers. `localhost` asks no resolver: it is this machine, on both families.
async fn dial(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = if host == "localhost" {
        vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
    } else if let Ok(address) = host.parse() {
        vec![SocketAddr::new(address, port)]
    } else {
        tokio::time::timeout(limit, tokio::net::lookup_host((host, port))).await??.collect()
    };
    let mut refused = None;
    for address in addresses {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                // A kernel that does not know it does without.
                let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
                return Ok(stream);
            }
            Ok(Err(error)) => refused = refused.or(Some(error)),
            Err(elapsed) => refused = refused.or(Some(elapsed.into())),
        }
    }
    Err(refused.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn tls_error(address: String, source: io::Error) -> Error {
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        // "HTTP/1.1 400" where a TLS record's type should stand.
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            Error::PlainHttpAnswer { address }
        }
        _ => Error::Tls { address, source },
    }
}

fn tls_config(access: &Access) -> Result<rustls::ClientConfig, Error> {
    if access.insecure {
        let mut config = tls::client(rustls::RootCertStore::empty());
        let verifier = Arc::new(AnyCertificate(config.crypto_provider().clone()));
        config.dangerous().set_certificate_verifier(verifier);
        return Ok(config);
    }
    let mut roots = tls::roots_of_this_machine();
    if let Some(path) = &access.ca {
        let unreadable = |source| Error::Certificates { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(unreadable)?;
        let invalid = |reason: String| unreadable(io::Error::new(io::ErrorKind::InvalidData, reason));
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid(error.to_string()))?;
        if certificates.is_empty() {
            return Err(invalid("there is no PEM certificate in it".into()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
    }
    Ok(tls::client(roots))
}

/// `--insecure`: the certificate is not looked at; the handshake's own signature still is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

mod verify {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    impl ServerCertVerifier for super::AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

/// A connection, sealed or not.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
