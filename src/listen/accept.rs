//! Takes connections from a listener and gives their requests to a service, until told to stop.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as Socket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::Tls;
use super::workers::{Connection, Workers};

/// A client has this long to send a request's head, so that silent connections do not pile up.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// And this long to agree on a cipher.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// When the server stops, a client that has connected and not yet asked has this long to begin.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// And one that has asked before, to ask again: who asks one thing after the other is then told that the connection ends,
/// instead of losing a request to its end.
const NEXT_REQUEST: Duration = Duration::from_millis(200);

type Broken = Box<dyn std::error::Error + Send + Sync>;

/// A socket that connections come in at, and how they are served.
pub struct Listener {
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    drain: Duration,
    buffer: Option<usize>,
    connections: TaskTracker,
}

impl Listener {
    pub fn new(socket: TcpListener) -> Self {
        Self { socket, tls: None, drain: Duration::ZERO, buffer: None, connections: TaskTracker::new() }
    }

    pub fn tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Told to stop, requests in flight have this long to end.
    pub fn drain(self, drain: Duration) -> Self {
        Self { drain, ..self }
    }

    /// So many bytes of a connection are held at most, in each direction.
    pub fn buffer(self, buffer: usize) -> Self {
        Self { buffer: Some(buffer), ..self }
    }

    /// `connections` tells how many are open.
    pub fn counted(self, connections: TaskTracker) -> Self {
        Self { connections, ..self }
    }

    /// Serves until `shutdown` is done, then takes no more connections, lets requests in flight finish, and returns.
    /// `false` if some were cut off.
    pub async fn serve<S, F, B>(
        self,
        workers: Workers,
        service: Arc<S>,
        shutdown: impl Future<Output = ()>,
    ) -> bool
    where
        S: Fn(Request<Incoming>, Connection) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send,
        B: Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let Self { socket, tls, drain, buffer, connections } = self;
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
        if let Some(buffer) = buffer {
            server.max_buf_size(buffer);
        }
        let (welcome, stop) = (Arc::new(Welcome { server, tls, service }), CancellationToken::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: requests that end will free some.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let (token, welcome, stop) = (connections.token(), Arc::clone(&welcome), stop.clone());
            let given = hand_over(stream).map(|(socket, local)| {
                workers.run(move |worker| async move {
                    let _token = token;
                    let from = Connection { local, peer, encrypted: false, worker };
                    if let Err(error) = welcome.connection(socket, from, stop).await {
                        tracing::debug!(%error, %peer, "a connection broke");
                    }
                });
            });
            if let Err(error) = given {
                tracing::debug!(%error, %peer, "a connection broke");
            }
        }
        // In this order: once nobody new is let in, every answer says that its connection ends.
        stop.cancel();
        drop(socket);
        connections.close();
        tokio::time::timeout(drain, connections.wait()).await.is_ok()
    }
}

/// A connection without the runtime that it was accepted on: another one is to watch it.
fn hand_over(stream: TcpStream) -> io::Result<(Socket, SocketAddr)> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream.into_std()?, local))
}

/// What every connection of a listener needs.
struct Welcome<S> {
    server: http1::Builder,
    tls: Option<Arc<Tls>>,
    service: Arc<S>,
}

impl<S, F, B> Welcome<S>
where
    S: Fn(Request<Incoming>, Connection) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: std::error::Error + Send + Sync> + 'static,
{
    /// One connection, from its first byte on: by TLS where there is any and the connection wants or needs it.
    async fn connection(
        &self,
        socket: Socket,
        from: Connection,
        stop: CancellationToken,
    ) -> Result<(), Broken> {
        let stream = TcpStream::from_std(socket)?;
        let Some(tls) = &self.tls else { return self.converse(stream, from, stop).await };
        let sealed = async {
            let wanted = tls.is_wanted(&stream).await?;
            if wanted { tls.acceptor().accept(stream).await.map(Ok) } else { Ok(Err(stream)) }
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, sealed).await?? {
            Ok(sealed) => self.converse(sealed, Connection { encrypted: true, ..from }, stop).await,
            Err(plain) => self.converse(plain, from, stop).await,
        }
    }

    /// One connection, until an end closes it or, told to stop, its current request is answered.
    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        from: Connection,
        stop: CancellationToken,
    ) -> Result<(), Broken> {
        let (has_asked, asks) = (Cell::new(false), Notify::new());
        let answer = |request| {
            has_asked.set(true);
            asks.notify_waiters();
            let (response, stop) = ((self.service)(request, from), &stop);
            async move {
                let mut response = response.await;
                if stop.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        };
        let connection = self.server.serve_connection(TokioIo::new(stream), service_fn(answer));
        let mut connection = pin!(connection.with_upgrades());
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = stop.cancelled() => {}
        }
        // Who has just connected is about to ask: to close now would be to refuse.
        let patience = if has_asked.get() { NEXT_REQUEST } else { FIRST_REQUEST };
        tokio::select! {
            biased;
            () = asks.notified() => {}
            ended = connection.as_mut() => return Ok(ended?),
            () = tokio::time::sleep(patience) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }
}
