//! A proxy that does wrong on purpose: in front of a real registry, it passes requests on and breaks what a test asks
//! it to break.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;

type Body = BoxBody<Bytes, io::Error>;

/// A request as the proxy saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// With the query.
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

impl Seen {
    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

/// What goes wrong with a request.
pub enum Fault {
    /// An answer instead of the registry's.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// The connection ends after so many bytes of the request's body, without an answer.
    Hangup(usize),
    /// The request's body is never read, and there is never an answer.
    Deaf,
    /// The request's body is read no faster than this, in bytes a second.
    Sip(usize),
    /// The request reaches the registry, its answer is lost.
    LoseAnswer,
    /// The answer's body ends after so many bytes.
    Truncate(usize),
    /// The answer's body is read to the end, but with its first byte changed.
    Corrupt,
    /// The registry's answer with a header set (or, where the value is empty, removed).
    Header(&'static str, String),
    /// The answer's `Location` without scheme and host.
    RelativeLocation,
    /// After so many bytes of the answer's body nothing moves any more.
    Stall(usize),
    /// Each piece of the answer comes after a pause.
    Slow(Duration),
}

type Plan = dyn Fn(&Seen, usize) -> Option<Fault> + Send + Sync;

/// Stops with the test's runtime.
pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// In front of `registry`. `plan` gets each request and how many like it (method and kind of path) came before.
    pub async fn before(
        registry: SocketAddr,
        plan: impl Fn(&Seen, usize) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .build(hyper_util::client::legacy::connect::HttpConnector::new());
        let plan: Arc<Plan> = Arc::new(plan);
        Self::serve(move |request, seen, before| {
            let (client, fault) = (client.clone(), plan(&seen, before));
            async move { misbehave(client, registry, request, fault).await }
        })
        .await
    }

    /// No registry at all: what `answer` says.
    pub async fn answering(answer: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::serve(move |_, seen, _| {
            let (status, body) = answer(&seen);
            async move { Ok(whole(status, &[], Bytes::from(body))) }
        })
        .await
    }

    async fn serve<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>, Seen, usize) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = io::Result<Response<Body>>> + Send,
    {
        // A small buffer, so that what a slow reader has not taken is still on the other side.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(128).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (log, accepted) = (seen.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (log, answer) = (log.clone(), answer.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (log, answer) = (log.clone(), answer.clone());
                    async move {
                        let seen = note(&request);
                        let before = {
                            let mut log = log.lock().unwrap();
                            log.push(seen.clone());
                            log.iter().filter(|other| kind(other) == kind(&seen)).count() - 1
                        };
                        answer(request, seen, before).await
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, connections }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.is(method, part)).count()
    }
}

fn note(request: &Request<Incoming>) -> Seen {
    let header = |name: &str| request.headers().get(name)?.to_str().ok().map(str::to_string);
    Seen {
        method: request.method().to_string(),
        path: request.uri().to_string(),
        authorization: header("authorization"),
        range: header("range"),
    }
}

/// Method and what kind of thing is asked for: `PUT blobs/uploads`.
fn kind(seen: &Seen) -> (String, &'static str) {
    let kinds = ["mount=", "blobs/uploads", "blobs", "manifests", "tags"];
    let kind = kinds.into_iter().find(|kind| seen.path.contains(kind)).unwrap_or("");
    (seen.method.clone(), kind)
}

async fn misbehave(
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Body>,
    registry: SocketAddr,
    mut request: Request<Incoming>,
    fault: Option<Fault>,
) -> io::Result<Response<Body>> {
    let lost = || io::Error::from(io::ErrorKind::ConnectionAborted);
    match &fault {
        Some(Fault::Answer(status, headers, text)) => {
            while request.body_mut().frame().await.is_some() {}
            return Ok(whole(*status, headers, Bytes::from_static(text.as_bytes())));
        }
        Some(Fault::Hangup(after)) => {
            let mut taken = 0;
            while taken < *after {
                let Some(Ok(frame)) = request.body_mut().frame().await else { break };
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
            return Err(lost());
        }
        Some(Fault::Deaf) => std::future::pending().await,
        _ => {}
    }
    let sip = match fault {
        Some(Fault::Sip(rate)) => Some(rate),
        _ => None,
    };
    let mut request = request.map(|body| slowed(body, sip));
    let path = request.uri().to_string();
    *request.uri_mut() = format!("http://{registry}{path}").parse().unwrap();
    let mut response = client.request(request).await.map_err(io::Error::other)?;
    match fault {
        Some(Fault::LoseAnswer) => Err(lost()),
        Some(Fault::Header(name, value)) => {
            let name = HeaderName::from_static(name);
            response.headers_mut().remove(&name);
            if !value.is_empty() {
                response.headers_mut().insert(name, HeaderValue::try_from(value).unwrap());
            }
            Ok(response.map(|body| body.map_err(io::Error::other).boxed()))
        }
        Some(Fault::RelativeLocation) => {
            if let Some(location) = response.headers().get("location") {
                let url: url::Url = location.to_str().unwrap().parse().unwrap();
                let relative = &url[url::Position::BeforePath..];
                response.headers_mut().insert("location", relative.parse().unwrap());
            }
            Ok(response.map(|body| body.map_err(io::Error::other).boxed()))
        }
        fault => {
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, spoil(body, fault)))
        }
    }
}

/// A request's body on its way to the registry, `rate` bytes a second or as fast as it comes.
fn slowed(body: Incoming, rate: Option<usize>) -> Body {
    let Some(rate) = rate else { return body.map_err(io::Error::other).boxed() };
    let pieces = futures_util::stream::unfold(body, move |mut body| async move {
        let frame = body.frame().await?.map_err(io::Error::other);
        let taken = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
        tokio::time::sleep(Duration::from_secs_f64(taken as f64 / rate as f64)).await;
        Some((frame, body))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

fn spoil(body: Incoming, fault: Option<Fault>) -> Body {
    let limit = match fault {
        Some(Fault::Truncate(limit) | Fault::Stall(limit)) => limit,
        _ => usize::MAX,
    };
    let (stall, corrupt) = (matches!(fault, Some(Fault::Stall(_))), matches!(fault, Some(Fault::Corrupt)));
    let pause = match fault {
        Some(Fault::Slow(pause)) => Some(pause),
        _ => None,
    };
    let pieces = futures_util::stream::unfold((body, 0usize), move |(mut body, sent)| async move {
        if sent >= limit {
            if stall {
                std::future::pending::<()>().await;
            }
            return (limit != usize::MAX).then(|| (Err(io::ErrorKind::ConnectionAborted.into()), (body, 0)));
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let mut data = body.frame().await?.ok()?.into_data().ok()?;
        data.truncate(limit - sent);
        if corrupt && sent == 0 && !data.is_empty() {
            let mut changed = data.to_vec();
            changed[0] ^= 1;
            data = changed.into();
        }
        let sent = sent + data.len();
        Some((Ok(Frame::data(data)), (body, sent)))
    });
    BodyExt::boxed(StreamBody::new(pieces.fuse()))
}

fn whole(status: u16, headers: &[(&'static str, String)], body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, HeaderValue::try_from(value).unwrap());
    }
    response
}
