//! What a call tells OpenTelemetry, where it is sampled: a span of the whole, one of the wait for a replica if there was
//! one to speak of, and one of the request to the replica, which the function may hang its own below.
//!
//! Attributes have the names of OpenTelemetry's semantic conventions for HTTP and functions. Queries and bodies are in
//! none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, Request, Response};

use super::fault::Fault;
use super::proxy::Call;
use super::{ColdStart, Lease, headers};
use crate::telemetry::trace::{Clock, Context, Kind, Span, TRACEPARENT, TRACESTATE, Tracer, state_of};

/// A shorter wait is no wait.
const WORTH_TELLING: Duration = Duration::from_millis(1);

/// A call on its way. What it came to is recorded when it is dropped.
pub struct CallTrace {
    tracer: Arc<Tracer>,
    clock: Clock,
    started: Instant,
    whole: Span,
    /// The request to the replica, as the function knows it.
    request: Span,
    given: Option<Given>,
    /// Unless somebody has said how it ended: whoever called has gone away.
    status: Option<u16>,
}

/// The replica that has the call.
struct Given {
    at: Instant,
    replica: String,
    address: SocketAddr,
    cold: Option<ColdStart>,
}

/// Finds out what trace the call is of, and tells the function. `None`: it is not sampled. A caller's trace that is not
/// goes on to the function untouched.
pub fn begin<B>(tracer: &Arc<Tracer>, call: &Call, request: &mut Request<B>) -> Option<Box<CallTrace>> {
    let parent = Context::of(request.headers());
    if parent.is_some_and(|parent| !parent.is_sampled()) {
        return None;
    }
    let (clock, own) = (Clock::start(), tracer.begin(parent.as_ref()));
    let passed = own.child();
    if parent.is_none() {
        request.headers_mut().remove(TRACESTATE);
    }
    request.headers_mut().insert(TRACEPARENT, passed.header());
    own.is_sampled().then(|| {
        let whole = whole(call, request, own, parent, clock);
        let start = whole.start;
        let mut passed_on = Span { context: passed, kind: Kind::Client, ..whole.part("", (start, start)) };
        passed_on.name = request.method().to_string().into();
        passed_on = passed_on
            .with("http.request.method", request.method().to_string())
            .with("faas.invoked_name", call.target.name.to_string());
        Box::new(CallTrace {
            tracer: Arc::clone(tracer),
            clock,
            started: call.started,
            whole,
            request: passed_on,
            given: None,
            status: None,
        })
    })
}

fn whole<B>(
    call: &Call,
    request: &Request<B>,
    context: Context,
    parent: Option<Context>,
    clock: Clock,
) -> Span {
    let (target, headers) = (&call.target, request.headers());
    let start = clock.at(call.started);
    let mut span = Span {
        name: format!("function {}", target.name).into(),
        // One that was kept comes from a queue.
        kind: if call.peer.is_some() { Kind::Server } else { Kind::Consumer },
        context,
        parent: parent.map(|parent| (parent.span, true)),
        state: state_of(headers),
        start,
        end: start,
        attributes: Vec::new(),
        error: None,
    };
    span = span
        .with("http.request.method", request.method().to_string())
        .with("http.route", format!("/function/{}", target.name))
        .with("url.path", format!("/function/{target}{}", request.uri().path()))
        .with("url.scheme", text(headers, &headers::FORWARDED_PROTO).unwrap_or_else(|| "http".into()))
        .with("faas.trigger", if call.peer.is_some() { "http" } else { "pubsub" })
        .with("fnbuild.function", target.name.to_string())
        .with("fnbuild.call", call.id.to_str().unwrap_or_default().to_string());
    let peer = call.peer.map(|peer| peer.to_canonical().to_string());
    let version = target.version.map(|version| version.to_string());
    let host = text(headers, &HOST).and_then(|host| host.parse::<http::uri::Authority>().ok());
    for (name, value) in [
        ("client.address", peer),
        ("fnbuild.version", version),
        ("server.address", host.as_ref().map(|host| host.host().to_string())),
        ("user_agent.original", text(headers, &USER_AGENT)),
    ] {
        span = match value {
            Some(value) => span.with(name, value),
            None => span,
        };
    }
    match host.and_then(|host| host.port_u16()) {
        Some(port) => span.with("server.port", i64::from(port)),
        None => span,
    }
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_string)
}

impl CallTrace {
    /// The call goes to this replica.
    pub fn given(&mut self, lease: &impl Lease) {
        self.given = Some(Given {
            at: Instant::now(),
            replica: lease.replica().into(),
            address: lease.address(),
            cold: lease.cold(),
        });
    }

    /// The head of the answer is there.
    pub fn end<B>(mut self, answer: &Result<Response<B>, Fault>) {
        let status = match answer {
            Ok(response) => response.status(),
            Err(fault) => {
                self.whole.error = Some(fault.to_string());
                self.whole.attributes.push(("error.type", fault.kind().into()));
                fault.status()
            }
        };
        if answer.is_ok() && status.is_server_error() {
            self.whole.error = Some(String::new());
            self.whole.attributes.push(("error.type", status.as_str().to_string().into()));
        }
        self.status = Some(status.as_u16());
    }

    /// The wait for the replica, with the start that it was for.
    fn wait(&self, until: Instant) -> Vec<Span> {
        let cold = self.given.as_ref().and_then(|given| Some((given, given.cold?)));
        if cold.is_none() && until.duration_since(self.started) < WORTH_TELLING {
            return Vec::new();
        }
        let wait = self.whole.part("wait for a replica", (self.whole.start, self.clock.at(until)));
        let mut spans = Vec::new();
        if let Some((given, ColdStart { mount, create, import })) = cold {
            let began = until.checked_sub(mount + create + import).unwrap_or(self.started);
            let start = wait.part("start of a replica", (self.clock.at(began), wait.end));
            spans = start.steps([("mount", mount), ("create", create), ("import", import)]);
            let from = if create.is_zero() { "pool" } else { "container" };
            spans.push(start.with("fnbuild.replica", given.replica.clone()).with("fnbuild.from", from));
        }
        spans.push(wait);
        spans
    }

    fn request(&self, given: &Given, end: Instant) -> Span {
        let mut span = self.request.clone();
        (span.start, span.end) = (self.clock.at(given.at), self.clock.at(end));
        span.error = self.whole.error.clone();
        span = span
            .with("server.address", given.address.ip().to_string())
            .with("server.port", i64::from(given.address.port()))
            .with("fnbuild.replica", given.replica.clone());
        if self.status.is_some_and(|status| status >= 400) && span.error.is_none() {
            span.error = Some(String::new());
        }
        span
    }
}

impl Drop for CallTrace {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.status.is_none() {
            self.whole.error = Some("the caller has gone away".into());
        }
        let mut spans = self.wait(self.given.as_ref().map_or(now, |given| given.at));
        if let Some(given) = &self.given {
            spans.push(self.request(given, now));
        }
        let cold = self.given.as_ref().is_some_and(|given| given.cold.is_some());
        self.whole.end = self.clock.at(now);
        self.whole.attributes.push(("faas.coldstart", cold.into()));
        spans.push(self.whole.clone());
        for mut span in spans {
            let tells_status = matches!(span.kind, Kind::Server | Kind::Consumer | Kind::Client);
            if let Some(status) = self.status.filter(|_| tells_status) {
                span = span.with("http.response.status_code", i64::from(status));
            }
            self.tracer.record(span);
        }
    }
}
