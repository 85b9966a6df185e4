//! The trigger in front of real HTTP servers on local ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fnbuild::function::Target;
use fnbuild::gateway::{
    ColdStart, Delivered, Delivery, Gateway, Lease, Limits, Reached, Replicas, Unavailable,
};
use fnbuild::listen::{Listener, Workers};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Replicas at fixed addresses: the n-th acquisition gets the n-th of them, the last for ever.
#[derive(Clone)]
struct Fixed {
    addresses: Arc<[SocketAddr]>,
    acquired: Arc<AtomicUsize>,
    /// Leases that are out.
    held: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    timeout: Duration,
    /// Its replicas are gone as soon as they have a request, and no connection breaks.
    vanishes: bool,
}

struct FixedLease {
    replica: String,
    address: SocketAddr,
    of: Fixed,
    cold: bool,
}

impl Fixed {
    fn at(addresses: &[SocketAddr]) -> Self {
        let count = Arc::<AtomicUsize>::default;
        let timeout = Duration::from_secs(20);
        Self {
            addresses: addresses.into(),
            acquired: count(),
            held: count(),
            failed: count(),
            timeout,
            vanishes: false,
        }
    }
}

impl Replicas for Fixed {
    type Lease = FixedLease;

    async fn acquire(
        &self,
        target: &Target,
        _admitted: bool,
        _deadline: Instant,
    ) -> Result<FixedLease, Unavailable> {
        match target.name.as_str() {
            "full" => return Err(Unavailable::Full { retry_after: Duration::from_secs(2) }),
            "absent" => return Err(Unavailable::NoFunction),
            _ => {}
        }
        let turn = self.acquired.fetch_add(1, Ordering::SeqCst);
        let address = self.addresses[turn.min(self.addresses.len() - 1)];
        self.held.fetch_add(1, Ordering::SeqCst);
        Ok(FixedLease { replica: address.to_string(), address, of: self.clone(), cold: turn == 0 })
    }
}

impl Lease for FixedLease {
    fn replica(&self) -> &str {
        &self.replica
    }
    fn address(&self) -> SocketAddr {
        self.address
    }
    fn timeout(&self) -> Duration {
        self.of.timeout
    }
    fn cold(&self) -> Option<ColdStart> {
        self.cold.then(ColdStart::default)
    }
    async fn cause_of_death(&self) -> Option<String> {
        None
    }
    async fn gone(&self) {
        if !self.of.vanishes {
            std::future::pending().await
        }
    }
    fn failed(&self) {
        self.of.failed.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for FixedLease {
    fn drop(&mut self) {
        self.of.held.fetch_sub(1, Ordering::SeqCst);
    }
}

fn limits() -> Limits {
    Limits {
        request_body: 1000,
        response_body: 10_000,
        start_timeout: Duration::from_secs(20),
        idle_timeout: Duration::from_secs(20),
    }
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// The trigger in front of `replicas`.
async fn trigger(replicas: Fixed, limits: Limits) -> SocketAddr {
    let (listener, address) = bind().await;
    let workers = Workers::start();
    let gateway = Arc::new(Gateway::new(replicas, limits, &workers));
    let service = move |request: Request<Incoming>, from: fnbuild::listen::Connection| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.call(request, from).await }
    };
    tokio::spawn(Listener::new(listener).serve(workers, Arc::new(service), std::future::pending()));
    address
}

/// A function's server: answers every request with `answer`.
async fn function<F, A>(answer: F) -> SocketAddr
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let (listener, address) = bind().await;
    let service = move |request, _| answer(request);
    let listener = Listener::new(listener);
    tokio::spawn(listener.serve(Workers::start(), Arc::new(service), std::future::pending()));
    address
}

async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.unwrap()
}

fn post(path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "functions.example").body(Full::from(body)).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn problem(response: Response<Incoming>) -> (StatusCode, String, String) {
    let status = response.status();
    let whose = response.headers()["x-fnbuild-error"].to_str().unwrap().to_string();
    let call = response.headers()["x-call-id"].to_str().unwrap().to_string();
    let problem: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem["requestId"], *call);
    assert!(problem["errorMessage"].as_str().is_some_and(|message| !message.is_empty()));
    (status, whose, problem["errorType"].as_str().unwrap().to_string())
}

/// Waits until a condition holds: what happens behind an answer happens soon, not at once.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_call_reaches_the_function_whole_and_its_answer_comes_back() {
    let seen = Arc::new(std::sync::Mutex::new((String::new(), HeaderMap::new())));
    let seeing = Arc::clone(&seen);
    let address = function(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seeing);
        async move {
            *seen.lock().unwrap() =
                (format!("{} {}", request.method(), request.uri()), request.headers().clone());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::builder()
                .header("x-own", "1")
                .header("x-fnbuild-error", "platform")
                .header("connection", "x-hop")
                .header("x-hop", "1")
                .body(Full::new(body))
                .unwrap()
        }
    })
    .await;
    let replicas = Fixed::at(&[address]);
    let trigger = trigger(replicas.clone(), limits()).await;

    let mut request = post("/function/add/a/b?x=1", "the body");
    request.headers_mut().insert("x-call-id", "mine".parse().unwrap());
    request.headers_mut().insert("connection", "x-private".parse().unwrap());
    request.headers_mut().insert("x-private", "1".parse().unwrap());
    request.headers_mut().insert("traceparent", "00-1-2-01".parse().unwrap());
    let response = ask(trigger, request).await;

    let headers = response.headers().clone();
    assert_eq!((response.status(), &headers["x-own"]), (StatusCode::OK, &"1".parse().unwrap()));
    assert_eq!(headers["x-call-id"], "mine");
    assert_eq!(headers["x-cold-start"], "true");
    let timing = headers["server-timing"].to_str().unwrap();
    let parts: Vec<_> = timing.split(", ").map(|part| part.split_once(";dur=").unwrap().0).collect();
    assert_eq!(parts, ["queue", "mount", "import", "run", "proxy"], "{timing}");
    assert!(headers["x-duration-seconds"].to_str().unwrap().parse::<f64>().unwrap() > 0.0);
    assert!(headers["x-start-time"].to_str().unwrap().parse::<u128>().unwrap() > 0);
    assert!(!headers.contains_key("x-hop") && !headers.contains_key("x-fnbuild-error"));
    assert_eq!(text(response).await, "the body");

    let (line, headers) = seen.lock().unwrap().clone();
    assert_eq!(line, "POST /a/b?x=1");
    assert_eq!(headers["host"], "functions.example");
    assert_eq!(
        (&headers["x-forwarded-for"], &headers["x-call-id"]),
        (&"127.0.0.1".parse().unwrap(), &"mine".parse().unwrap())
    );
    assert_eq!(headers["traceparent"], "00-1-2-01");
    assert!(!headers.contains_key("x-private") && !headers.contains_key("connection"));

    let second = ask(trigger, post("/function/add", "")).await;
    assert!(!second.headers().contains_key("x-cold-start"));
    text(second).await;
    eventually("the leases are back", || replicas.held.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn connections_are_kept_and_one_that_the_function_closed_costs_no_call() {
    let (listener, address) = bind().await;
    let accepted = Arc::<AtomicUsize>::default();
    let counting = Arc::clone(&accepted);
    // Answers three requests on each connection, then closes it without a word.
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                for _ in 0..3 {
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        stream.read_line(&mut line).await.unwrap();
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    let trigger = trigger(Fixed::at(&[address]), limits()).await;
    for call in 0..12 {
        let request = Request::get("/function/add").header("host", "h").body(Full::default()).unwrap();
        let response = ask(trigger, request).await;
        assert_eq!(response.status(), StatusCode::OK, "call {call}");
        assert_eq!(text(response).await, "ok");
        // The close must have arrived: whether a request may be repeated is known only then.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn who_is_answered_while_the_server_stops_is_told_that_the_connection_ends() {
    let (listener, address) = bind().await;
    let (stop, answers) = (CancellationToken::new(), Arc::new(tokio::sync::Semaphore::new(1)));
    let (turn, asked) = (Arc::clone(&answers), Arc::new(AtomicUsize::new(0)));
    let coming = Arc::clone(&asked);
    let service = move |_: Request<Incoming>, _| {
        let turn = Arc::clone(&turn);
        coming.fetch_add(1, Ordering::SeqCst);
        async move {
            turn.acquire().await.unwrap().forget();
            Response::new(Full::<Bytes>::from("answered"))
        }
    };
    let serving = Listener::new(listener).drain(Duration::from_secs(20));
    let serving = serving.serve(Workers::start(), Arc::new(service), stop.clone().cancelled_owned());
    let serving = tokio::spawn(serving);
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let first = sender.send_request(post("/", "")).await.unwrap();
    assert_eq!(first.headers().get("connection"), None);
    assert_eq!(text(first).await, "answered");
    let last = tokio::spawn(sender.send_request(post("/", "")));
    eventually("it to be asked again", || asked.load(Ordering::SeqCst) == 2).await;
    stop.cancel();
    // The socket is gone: whoever is connected is being told.
    eventually("nobody new is let in", || std::net::TcpStream::connect(address).is_err()).await;
    answers.add_permits(1);
    let last = last.await.unwrap().unwrap();
    assert_eq!(last.headers()["connection"], "close");
    assert_eq!(text(last).await, "answered");
    assert!(serving.await.unwrap(), "nothing was cut off");
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let (listener, address) = bind().await;
    // Sends back each piece as it comes.
    let service = move |request: Request<Incoming>, _| async move {
        let pieces = futures_util::stream::unfold(request.into_body(), async |mut body| {
            let frame = body.frame().await?;
            Some((frame, body))
        });
        Response::new(StreamBody::new(pieces))
    };
    let listener = Listener::new(listener);
    tokio::spawn(listener.serve(Workers::start(), Arc::new(service), std::future::pending()));
    let trigger = trigger(Fixed::at(&[address]), limits()).await;

    let (pieces, receiver) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let body = StreamBody::new(futures_util::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(piece))), receiver))
    }));
    let stream = TcpStream::connect(trigger).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    pieces.send("one").unwrap();
    let request = Request::post("/function/echo").header("host", "h").body(body).unwrap();
    let mut answer = sender.send_request(request).await.unwrap().into_body();
    // Each piece comes back before the next is sent: nobody on the way waits for the end.
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
    pieces.send("two").unwrap();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
    drop(pieces);
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn an_answer_without_end_goes_on_as_its_caller_reads_and_keeps_nobody_waiting() {
    const PIECE: Bytes = Bytes::from_static(&[0; 1 << 16]);
    const BOUND: usize = 64 << 20;
    let (listener, address) = bind().await;
    let given = Arc::<AtomicUsize>::default();
    let giving = Arc::clone(&given);
    let service = move |request: Request<Incoming>, _| {
        let giving = Arc::clone(&giving);
        async move {
            // The end is for the test's own sake: what would take all would otherwise take the machine's memory.
            let left = if request.uri().path() == "/endless" { 2 * BOUND / PIECE.len() } else { 0 };
            let pieces = (0..left).map(move |_| {
                giving.fetch_add(PIECE.len(), Ordering::SeqCst);
                Ok::<_, std::convert::Infallible>(Frame::data(PIECE))
            });
            Response::new(StreamBody::new(futures_util::stream::iter(pieces)))
        }
    };
    let listener = Listener::new(listener);
    tokio::spawn(listener.serve(Workers::start(), Arc::new(service), std::future::pending()));
    let trigger = trigger(Fixed::at(&[address]), limits()).await;
    let mut reader = TcpStream::connect(trigger).await.unwrap();
    reader.write_all(b"GET /function/f/endless HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    eventually("it begins", || given.load(Ordering::SeqCst) > 0).await;
    // Nobody reads on: it comes to rest when what lies between is full, and all the while others are answered.
    loop {
        let before = given.load(Ordering::SeqCst);
        for _ in 0..100 {
            assert_eq!(text(ask(trigger, post("/function/f", "")).await).await, "");
        }
        if given.load(Ordering::SeqCst) == before {
            break;
        }
    }
    assert!(given.load(Ordering::SeqCst) < BOUND, "{given:?} bytes wait for a caller who does not read");
    drop(reader);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let address = function(|request: Request<Incoming>| async {
        match request.into_body().collect().await.map(|body| body.to_bytes()) {
            Ok(body) if body == "large" => Response::new(Full::from(vec![b'x'; 10_001])),
            _ => Response::new(Full::from("read")),
        }
    })
    .await;
    let replicas = Fixed::at(&[address]);
    let trigger = trigger(replicas.clone(), limits()).await;
    let large: &'static str = Box::leak("x".repeat(1001).into_boxed_str());
    let refused = (StatusCode::PAYLOAD_TOO_LARGE, "platform".into(), "RequestTooLarge".into());
    assert_eq!(problem(ask(trigger, post("/function/add", large)).await).await, refused);

    let mut stream = TcpStream::connect(trigger).await.unwrap();
    let head = "POST /function/add HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..11 {
        stream.write_all(format!("64\r\n{}\r\n", "x".repeat(100)).as_bytes()).await.unwrap();
    }
    let mut answer = [0; 64];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));

    let wrong = (StatusCode::BAD_GATEWAY, "function".into(), "AnswerTooLarge".into());
    assert_eq!(problem(ask(trigger, post("/function/add", "large")).await).await, wrong);
    assert_eq!(text(ask(trigger, post("/function/add", "small")).await).await, "read");
    eventually("the leases are back", || replicas.held.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn every_fault_says_what_and_whose() {
    let (silent, silent_address) = bind().await;
    // Takes connections and never answers.
    let keeping = tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            kept.push(silent.accept().await.unwrap());
        }
    });
    let replicas = Fixed { timeout: Duration::from_millis(50), ..Fixed::at(&[silent_address]) };
    let at = trigger(replicas.clone(), limits()).await;
    let is = |status, whose: &str, kind: &str| (status, whose.to_string(), kind.to_string());
    let fault = async |path| problem(ask(at, post(path, "{}")).await).await;
    let timeout = is(StatusCode::GATEWAY_TIMEOUT, "function", "Timeout");
    assert_eq!(fault("/function/add").await, timeout);
    assert_eq!(fault("/function/absent").await, is(StatusCode::NOT_FOUND, "platform", "FunctionNotFound"));
    assert_eq!(fault("/function/No_Name").await, is(StatusCode::NOT_FOUND, "platform", "FunctionNotFound"));
    let full = ask(at, post("/function/full", "{}")).await;
    assert_eq!(full.headers()["retry-after"], "2");
    assert_eq!(problem(full).await, is(StatusCode::TOO_MANY_REQUESTS, "platform", "TooManyCalls"));
    let vanishing = Fixed { vanishes: true, ..Fixed::at(&[silent_address]) };
    let vanished = ask(trigger(vanishing, limits()).await, post("/function/add", "{}")).await;
    assert_eq!(problem(vanished).await, is(StatusCode::BAD_GATEWAY, "function", "ContainerDied"));
    keeping.abort();

    let (dying, dying_address) = bind().await;
    // Reads a request and hangs up.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = dying.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let replicas = Fixed::at(&[dying_address]);
    let at = trigger(replicas.clone(), limits()).await;
    let died = problem(ask(at, post("/function/add", "{}")).await).await;
    assert_eq!(died, is(StatusCode::BAD_GATEWAY, "function", "ContainerDied"));
    assert_eq!(replicas.acquired.load(Ordering::SeqCst), 1, "what may have run is not repeated");
    assert_eq!(replicas.failed.load(Ordering::SeqCst), 1);
    eventually("the lease is back", || replicas.held.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_call_goes_to_the_next_replica_while_nothing_of_it_was_sent() {
    let (gone, gone_address) = bind().await;
    drop(gone);
    let address = function(|request: Request<Incoming>| async {
        Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let replicas = Fixed::at(&[gone_address, address]);
    let at = trigger(replicas.clone(), limits()).await;
    assert_eq!(text(ask(at, post("/function/add", "whole")).await).await, "whole");
    assert_eq!(replicas.failed.load(Ordering::SeqCst), 1, "the replica that is gone was reported");

    let replicas = Fixed::at(&[gone_address]);
    let at = trigger(replicas.clone(), limits()).await;
    let never = problem(ask(at, post("/function/add", "{}")).await).await;
    assert_eq!(never, (StatusCode::SERVICE_UNAVAILABLE, "platform".into(), "CannotStart".into()));
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_ended_and_one_that_goes_on_is_not() {
    let (listener, address) = bind().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head).await.unwrap();
                for _ in 0..8 {
                    stream.write_all(b"5\r\nevent\r\n").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // Silent, but open.
                let _ = stream.read(&mut [0; 1]).await;
            });
        }
    });
    let replicas = Fixed::at(&[address]);
    let limits = Limits { idle_timeout: Duration::from_millis(300), response_body: 10, ..limits() };
    let at = trigger(replicas.clone(), limits).await;
    let response =
        ask(at, Request::get("/function/sse").header("host", "h").body(Full::default()).unwrap()).await;
    let mut body = response.into_body();
    let mut seen = 0;
    let broken = loop {
        match body.frame().await {
            Some(Ok(frame)) => seen += frame.into_data().unwrap().len(),
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert_eq!(seen, 40, "longer in all than the idle time, larger than a plain answer may be");
    assert!(broken, "an answer that was cut off must not look complete");
    eventually("the lease is back", || replicas.held.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn upgraded_connections_pass() {
    let (listener, address) = bind().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            stream.read_line(&mut head).await.unwrap();
        }
        assert!(
            head.to_lowercase().contains("upgrade: websocket") && head.contains("sec-websocket-key: k"),
            "{head}"
        );
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte.map(|b| b.to_ascii_uppercase())).await.unwrap();
        }
    });
    let replicas = Fixed::at(&[address]);
    let at = trigger(replicas.clone(), limits()).await;
    let request = Request::get("/function/ws")
        .header("host", "h")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "k")
        .body(Full::default())
        .unwrap();
    let response = ask(at, request).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut socket = hyper_util::rt::TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for word in ["hello", "again"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, word.to_ascii_uppercase().as_bytes());
    }
    assert_eq!(replicas.held.load(Ordering::SeqCst), 1, "the replica is in use as long as the connection");
    drop(socket);
    eventually("the lease is back", || replicas.held.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn two_lengths_in_one_request_never_become_two_requests() {
    let requests = Arc::<AtomicUsize>::default();
    let counting = Arc::clone(&requests);
    let address = function(move |request: Request<Incoming>| {
        counting.fetch_add(1, Ordering::SeqCst);
        async { Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes())) }
    })
    .await;
    let at = trigger(Fixed::at(&[address]), limits()).await;
    for head in [
        "Content-Length: 44\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 44",
        "Content-Length: 5\r\nContent-Length: 44",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding : chunked\r\nContent-Length: 44",
    ] {
        requests.store(0, Ordering::SeqCst);
        let mut stream = TcpStream::connect(at).await.unwrap();
        let body = "0\r\n\r\nGET /function/smuggled HTTP/1.1\r\nX: yy\r\n\r\n";
        let text =
            format!("POST /function/add HTTP/1.1\r\nHost: h\r\n{head}\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is as good an answer as any to such a request.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(requests.load(Ordering::SeqCst) <= 1, "{head}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_call_that_was_kept_reaches_the_function_as_it_came() {
    let address = function(|request: Request<Incoming>| async move {
        let head = format!("{} {} {:?}", request.method(), request.uri(), request.headers()["x-call-id"]);
        let length = request.headers()["content-length"].clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let answer = format!("{head} {length:?} {}", String::from_utf8_lossy(&body));
        Response::builder().status(418).body(Full::from(answer)).unwrap()
    })
    .await;
    let gateway = Gateway::new(Fixed::at(&[address]), limits(), &Workers::start());
    let deliver = |name: &str| {
        let headers = HeaderMap::from_iter([("x-call-id".parse().unwrap(), "mine".parse().unwrap())]);
        gateway.deliver(Delivery {
            target: name.parse().unwrap(),
            method: http::Method::PUT,
            path: "/a//b?x=1".parse().unwrap(),
            headers,
            id: "mine".parse().unwrap(),
            body: Bytes::from_static(b"kept"),
        })
    };
    let Delivered { reached, response } = deliver("add").await;
    assert_eq!((reached, response.status().as_u16()), (Reached::Function, 418));
    assert_eq!(response.headers()["x-call-id"], "mine");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"PUT /a//b?x=1 "mine" "4" kept"#);
    for (name, expected, status) in [("full", Reached::NotYet, 429), ("absent", Reached::Nothing, 404)] {
        let Delivered { reached, response } = deliver(name).await;
        assert_eq!((reached, response.status().as_u16()), (expected, status));
    }
}
