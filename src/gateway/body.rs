//! The bodies of a call: the request's, counted; the answer's, which gives back what the call held when it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::link::Link;
use super::pool::Pool;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the connection broke")]
    Connection(#[from] hyper::Error),
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("nothing came for {} s", .0.as_secs_f64())]
    Idle(Duration),
}

/// A client's body on its way to a replica, at most so long; or one that was kept.
pub struct RequestBody {
    origin: Origin,
    left: u64,
    /// Set when the body turned out too long. Absent where the length is known and was checked.
    exceeded: Option<Arc<AtomicBool>>,
}

enum Origin {
    Client(Incoming),
    Kept(Option<Bytes>),
}

impl RequestBody {
    /// With the flag that says afterwards whether it was too long. hyper holds a body to the length that it says.
    pub fn new(body: Incoming, limit: u64) -> (Self, Option<Arc<AtomicBool>>) {
        let exceeded = body.size_hint().upper().is_none().then(Arc::<AtomicBool>::default);
        (Self { origin: Origin::Client(body), left: limit, exceeded: exceeded.clone() }, exceeded)
    }

    /// One that is in memory.
    pub fn kept(bytes: Bytes) -> Self {
        Self { origin: Origin::Kept(Some(bytes).filter(|bytes| !bytes.is_empty())), left: 0, exceeded: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.origin {
            Origin::Client(body) => ready!(Pin::new(body).poll_frame(cx)),
            Origin::Kept(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        };
        let Some(flag) = &self.exceeded else { return Poll::Ready(frame.map(|frame| Ok(frame?))) };
        let length = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
            None => {
                flag.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::TooLarge)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.origin {
            Origin::Client(body) => body.is_end_stream(),
            Origin::Kept(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.origin {
            Origin::Client(body) => body.size_hint(),
            Origin::Kept(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// What a client gets: a function's answer as it comes, or a few bytes of ours.
pub struct AnswerBody<L> {
    kind: Kind<L>,
}

enum Kind<L> {
    Whole(Option<Bytes>),
    Stream { body: Incoming, idle: Idle, held: Option<Held<L>> },
}

/// What a call holds until its answer has ended.
pub struct Held<L> {
    /// Dropped after the connection is back, so that whoever gets the room finds it.
    pub lease: L,
    pub pool: Arc<Pool>,
    pub link: Link,
}

impl<L> Held<L> {
    fn give_back(self) {
        self.pool.put(self.link);
    }
}

/// Ends a stream that is silent for too long. Nothing is armed while data is there.
struct Idle {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.armed {
            timer.as_mut().reset(Instant::now() + limit);
            self.armed = true;
        }
        timer.as_mut().poll(cx)
    }
}

impl<L> AnswerBody<L> {
    pub fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())) }
    }

    pub fn stream(body: Incoming, held: Held<L>, idle: Duration) -> Self {
        let idle = Idle { limit: idle, timer: None, armed: false };
        let held = if body.is_end_stream() {
            held.give_back();
            None
        } else {
            Some(held)
        };
        Self { kind: Kind::Stream { body, idle, held } }
    }
}

impl<L: Unpin> Body for AnswerBody<L> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream { body, idle, held } => {
                let mut frame = Pin::new(&mut *body).poll_frame(cx);
                if frame.is_pending()
                    && let Some(held) = held
                {
                    held.link.poll(cx);
                    frame = Pin::new(&mut *body).poll_frame(cx);
                }
                let Poll::Ready(frame) = frame else {
                    ready!(idle.poll(cx));
                    return Poll::Ready(Some(Err(BodyError::Idle(idle.limit))));
                };
                idle.armed = false;
                match &frame {
                    Some(Err(_)) => drop(held.take()),
                    None => held.take().map_or((), Held::give_back),
                    Some(Ok(_)) if body.is_end_stream() => held.take().map_or((), Held::give_back),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame.map(|frame| Ok(frame?)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream { body, .. } => body.size_hint(),
        }
    }
}
