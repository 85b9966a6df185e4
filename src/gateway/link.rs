//! One connection to a replica, driven by the call that uses it.
//!
//! A task of the connection's own would mean that every call changes tasks twice, on its way there and back: that takes
//! longer than everything else that the trigger does with it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::RequestBody;

/// Within one machine a connection is made at once or not at all.
const CONNECT: Duration = Duration::from_secs(2);

/// Nothing moves on it unless somebody polls: by [`Link::send`], [`Link::drive`], or, while an answer is read,
/// [`Link::poll`].
pub struct Link {
    sender: SendRequest<RequestBody>,
    connection: Connection,
}

/// hyper's half, until it has ended.
struct Connection(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Connection {
    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.0.as_mut().is_some_and(|connection| connection.as_mut().poll(cx).is_ready()) {
            // What it ended with is told by the call that it ended.
            self.0 = None;
        }
    }

    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            self.poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }
}

impl Link {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { sender, connection: Connection(Some(Box::pin(connection.with_upgrades()))) })
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.connection.poll(cx);
    }

    /// Whether it is, as far as can be known at once.
    pub fn is_open(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.connection.0.is_some() && !self.sender.is_closed()
    }

    /// `false`: it takes no more requests.
    pub async fn ready(&mut self) -> bool {
        let Self { sender, connection } = self;
        connection.drive(sender.ready()).await.is_ok()
    }

    /// To the answer's head. An error has the request with it if not a byte of it was sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let Self { sender, connection } = self;
        connection.drive(sender.try_send_request(request)).await
    }

    /// Does other work that goes on only while the connection does.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.connection.drive(work).await
    }
}
