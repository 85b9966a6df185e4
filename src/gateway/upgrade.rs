//! Connections that stop being HTTP (WebSocket): bytes both ways until an end closes or both are silent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::AnswerBody;
use super::body::Held;
use super::headers;

/// Passes a function's `101` on and joins the two connections behind it.
pub fn switch<L: Send + 'static>(
    mut response: Response<Incoming>,
    client: Option<OnUpgrade>,
    held: Held<L>,
    idle: Duration,
) -> Response<AnswerBody<L>> {
    let replica = hyper::upgrade::on(&mut response);
    let protocol = response.headers().get(UPGRADE).cloned();
    tokio::spawn(async move {
        // The lease lives as long as the connection: the replica is in use.
        let mut held = held;
        let Some(client) = client else { return };
        let both = held.link.drive(async { tokio::try_join!(client, replica) }).await;
        let Ok((client, replica)) = both else { return };
        relay(TokioIo::new(client), TokioIo::new(replica), idle).await;
    });
    let (mut parts, _) = response.into_parts();
    headers::strip_connection(&mut parts.headers);
    if let Some(protocol) = protocol {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    Response::from_parts(parts, AnswerBody::whole(Bytes::new()))
}

/// Until an end closes, or nothing has come from the replica or the client for `idle`.
async fn relay(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    replica: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) {
    let moved = Arc::<AtomicU64>::default();
    // Every byte, either way, is read from or written to the replica's end.
    let mut replica = Counted { stream: replica, moved: Arc::clone(&moved) };
    let silent = async {
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let after = moved.load(Ordering::Relaxed);
            if after == before {
                return;
            }
            before = after;
        }
    };
    // A connection that breaks and one that ends are the same to the other side: closed.
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut replica) => {}
        () = silent => {}
    }
}

struct Counted<S> {
    stream: S,
    moved: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if written.is_ready() {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
