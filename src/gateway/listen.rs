//! Takes connections from a listener and gives their requests to a service, until told to stop.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpStream as Socket};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
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

impl Workers {
    /// Serves until `shutdown` is done, then takes no more connections, lets calls in flight finish for at most `drain`,
    /// and returns. `false` if some were cut off.
    pub async fn listen<S, F, B>(
        self,
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        service: Arc<S>,
        shutdown: impl Future<Output = ()>,
        drain: Duration,
    ) -> bool
    where
        S: Fn(Request<Incoming>, Connection) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send,
        B: Body<Error: std::error::Error + Send + Sync, Data: Send> + Send + 'static,
    {
        let (stop, connections) = (CancellationToken::new(), TaskTracker::new());
        let mut shutdown = pin!(shutdown);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: calls that end will free some.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let token = connections.token();
            let (service, stop, tls) = (Arc::clone(&service), stop.clone(), tls.clone());
            let given = hand_over(stream).map(|(socket, local)| {
                self.run(move |worker| async move {
                    let _token = token;
                    let from = Connection { local, peer, encrypted: false, worker };
                    if let Err(error) = welcome(socket, from, tls, service, stop).await {
                        tracing::debug!(%error, %peer, "a connection broke");
                    }
                });
            });
            if let Err(error) = given {
                tracing::debug!(%error, %peer, "a connection broke");
            }
        }
        drop(listener);
        stop.cancel();
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

/// One connection, from its first byte on: by TLS where there is any and the connection wants or needs it.
async fn welcome<S, F, B>(
    socket: Socket,
    from: Connection,
    tls: Option<Arc<Tls>>,
    service: Arc<S>,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Fn(Request<Incoming>, Connection) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: std::error::Error + Send + Sync> + 'static,
{
    let stream = TcpStream::from_std(socket)?;
    let Some(tls) = tls else { return converse(stream, from, service, stop).await };
    let sealed = async {
        let wanted = tls.is_wanted(&stream).await?;
        if wanted { tls.acceptor().accept(stream).await.map(Ok) } else { Ok(Err(stream)) }
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, sealed).await?? {
        Ok(sealed) => converse(sealed, Connection { encrypted: true, ..from }, service, stop).await,
        Err(plain) => converse(plain, from, service, stop).await,
    }
}

/// One connection, until an end closes it or, told to stop, its current request is answered.
async fn converse<S, F, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: Connection,
    service: Arc<S>,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: Fn(Request<Incoming>, Connection) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Error: std::error::Error + Send + Sync> + 'static,
{
    let asked = CancellationToken::new();
    let answer = |request| {
        asked.cancel();
        let response = service(request, from);
        async move { Ok::<_, Infallible>(response.await) }
    };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .with_upgrades()
    );
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => {}
    }
    // Who has just connected is about to ask: to close now would be to refuse.
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = asked.cancelled() => {}
        () = tokio::time::sleep(FIRST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
