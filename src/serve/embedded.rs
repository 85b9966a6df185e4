//! The registry that comes with the server, where none was named: on a port of this machine's loopback.
//!
//! A registry that already answers there is used as it is. Anything else that holds the port is an error: images would
//! go to who knows whom.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::registry_server::{self, Policy, ServerError};

use super::ServeError;

/// Whoever holds the port has this long to answer as a registry.
const PROBE: Duration = Duration::from_secs(3);

/// The running registry, or nothing where another one answers already.
pub struct Embedded {
    port: u16,
    stop: CancellationToken,
    serving: Option<JoinHandle<Result<(), ServerError>>>,
    figures: Option<Box<dyn Fn() -> String + Send + Sync>>,
}

impl Embedded {
    /// Starts it in `folder` on this port, 0 being a free one, and returns when it answers.
    pub async fn start(folder: &Path, port: u16) -> Result<Self, ServeError> {
        let stop = CancellationToken::new();
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = match TcpListener::bind(v4).await {
            Ok(listener) => listener,
            Err(source) if source.kind() == io::ErrorKind::AddrInUse && is_registry(v4).await => {
                return Ok(Self { port, stop, serving: None, figures: None });
            }
            Err(source) => return Err(ServeError::RegistryPort { address: v4, source }),
        };
        let failed = |source| ServeError::System { step: "start the registry", source };
        let v4 = listener.local_addr().map_err(failed)?;
        let (port, v6) = (v4.port(), SocketAddr::from((Ipv6Addr::LOCALHOST, v4.port())));
        let mut listeners = vec![listener];
        match TcpListener::bind(v6).await {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            Err(source) => return Err(ServeError::RegistryPort { address: v6, source }),
        }
        let config = registry_server::Config {
            root: folder.into(),
            policy: Policy::default(),
            ..registry_server::Config::default()
        };
        let opened = registry_server::Opened::open(config).await?;
        let figures = opened.figures();
        let serving = tokio::spawn(opened.serve(listeners, stop.clone()));
        loop {
            if is_registry(v4).await {
                return Ok(Self { port, stop, serving: Some(serving), figures: Some(Box::new(figures)) });
            }
            if serving.is_finished() {
                return match serving.await {
                    Ok(Err(error)) => Err(error.into()),
                    _ => Err(ServeError::System {
                        step: "start the registry",
                        source: io::ErrorKind::Other.into(),
                    }),
                };
            }
        }
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// What it says of itself in Prometheus' text form; to be taken once.
    pub fn take_figures(&mut self) -> Option<Box<dyn Fn() -> String + Send + Sync>> {
        self.figures.take()
    }

    /// A line for who started the server.
    pub fn told(&self) -> String {
        let port = self.port;
        match self.serving {
            Some(_) => format!("registry on http://localhost:{port}"),
            None => format!("a registry answers on port {port} already: it is used, and none is started"),
        }
    }

    /// Lets requests that have begun end.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(serving) = self.serving
            && let Ok(Err(error)) = serving.await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the registry");
        }
    }
}

/// Whether `/v2/` is answered as a registry does: 200, or 401 where it wants to know who asks.
async fn is_registry(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut head = String::new();
        BufReader::new(stream).take(1024).read_line(&mut head).await?;
        io::Result::Ok(matches!(head.split(' ').nth(1), Some("200" | "401")) && head.starts_with("HTTP/1."))
    };
    matches!(tokio::time::timeout(PROBE, asked).await, Ok(Ok(true)))
}
