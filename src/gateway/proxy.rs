//! One call: find a replica, pass the request on, pass the answer back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;

use crate::function::Target;
use crate::listen::{Connection, Workers};
use crate::telemetry::trace::Tracer;

use super::body::{Held, RequestBody};
use super::fault::Fault;
use super::link::Link;
use super::pool::Pools;
use super::timing::CallTiming;
use super::trace::{self, CallTrace};
use super::{
    AnswerBody, Doorkeeper, Lease, Limits, Reached, Replicas, Unavailable, Whose, headers, route, upgrade,
};

/// A replica that refuses connections is on its way out; the next one may be on its way in.
const ATTEMPTS: usize = 4;

/// The trigger, over replicas from anywhere.
pub struct Gateway<R> {
    replicas: R,
    /// By the number of the thread; the last are those of the calls that were kept, which no thread of ours makes.
    pools: Arc<[Pools]>,
    limits: Limits,
    door: Option<Arc<dyn Doorkeeper>>,
    /// Where somebody wants traces.
    tracer: Option<Arc<Tracer>>,
}

/// A call that somebody kept: its headers have been through [`headers::forward`] when it came in.
pub struct Delivery {
    pub target: Target,
    pub method: Method,
    /// As the function sees it.
    pub path: PathAndQuery,
    pub headers: HeaderMap,
    pub id: HeaderValue,
    pub body: Bytes,
}

/// What became of a call that was kept.
pub struct Delivered<L> {
    pub reached: Reached,
    pub response: Response<AnswerBody<L>>,
}

/// What of a call is known before it has a replica.
pub struct Call {
    pub target: Target,
    pub id: HeaderValue,
    /// Where its token is to be seen by; `None` where that was done when the call came in.
    pub peer: Option<IpAddr>,
    pub started: Instant,
    /// What it brought for the platform and not for the function.
    authorization: Option<HeaderValue>,
    /// The thread that it runs on.
    worker: usize,
    /// The protocol that the client wants to change to, and its end of the connection.
    upgrade: Option<(HeaderValue, OnUpgrade)>,
    /// Set when the body turned out too long.
    exceeded: Option<Arc<AtomicBool>>,
    /// It was counted as one that a replica has.
    begun: bool,
    /// Where it is sampled.
    trace: Option<Box<CallTrace>>,
}

impl<R: Replicas> Gateway<R> {
    /// For calls on these threads, which also close connections to replicas that nobody uses. Must be called within the
    /// runtime that delivers calls that were kept.
    pub fn new(replicas: R, limits: Limits, workers: &Workers) -> Self {
        let pools: Arc<[Pools]> = (0..=workers.count()).map(|_| Pools::default()).collect();
        let swept = Arc::downgrade(&pools);
        tokio::spawn(Pools::sweep(swept.clone(), workers.count()));
        workers.run_on_each(move |worker| Pools::sweep(swept.clone(), worker));
        Self { replicas, pools, limits, door: None, tracer: None }
    }

    /// With somebody who lets calls in. Without, functions that need a token are called by nobody.
    pub fn with_door(self, door: Arc<dyn Doorkeeper>) -> Self {
        Self { door: Some(door), ..self }
    }

    /// With somebody who takes traces of calls.
    pub fn with_tracer(self, tracer: Option<Arc<Tracer>>) -> Self {
        Self { tracer, ..self }
    }

    /// Answers one call. Every way this can go wrong is an answer too.
    pub async fn call(&self, request: Request<Incoming>, from: Connection) -> Response<AnswerBody<R::Lease>> {
        let started = Instant::now();
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = headers::call_id(request.headers());
        let mut response = match self.answer(request, from, id.clone(), started).await {
            Ok(response) => response,
            Err(fault) => fault.answer(&id),
        };
        let headers = response.headers_mut();
        headers.insert(headers::CALL_ID, id);
        let took = started.elapsed();
        headers.insert(headers::DURATION, text(format!("{}.{:06}", took.as_secs(), took.subsec_micros())));
        headers.insert(headers::START_TIME, text(since_epoch.as_nanos().to_string()));
        response
    }

    /// Makes a call that was kept. Every way this can go wrong is an answer too.
    pub async fn deliver(&self, delivery: Delivery) -> Delivered<R::Lease> {
        let started = Instant::now();
        let Delivery { target, method, path, headers, id, body } = delivery;
        let mut request = Request::new(RequestBody::kept(body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, path.into(), headers);
        let mut call = Call {
            target,
            id: id.clone(),
            peer: None,
            started,
            authorization: None,
            worker: self.pools.len() - 1,
            upgrade: None,
            exceeded: None,
            begun: false,
            trace: None,
        };
        let (reached, mut response) = match self.pass(&mut call, request).await {
            Ok(response) => (Reached::Function, response),
            Err(fault) => {
                self.refused(&call, &fault);
                (fault.reached(), fault.answer(&id))
            }
        };
        let headers = response.headers_mut();
        headers.insert(headers::CALL_ID, id);
        headers.insert(headers::DURATION, text(format!("{:.6}", started.elapsed().as_secs_f64())));
        Delivered { reached, response }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        from: Connection,
        id: HeaderValue,
        started: Instant,
    ) -> Result<Response<AnswerBody<R::Lease>>, Fault> {
        let (target, path) = route::route(request.uri())
            .ok_or_else(|| Fault::NoPath { path: request.uri().path().chars().take(300).collect() })?;
        let limit = self.limits.request_body;
        if request.body().size_hint().lower() > limit {
            return Err(Fault::RequestTooLarge { limit });
        }
        let upgrade = headers::upgrade(request.headers()).map(|to| (to, hyper::upgrade::on(&mut request)));
        let (mut parts, body) = request.into_parts();
        let authorization = self.take_own_authorization(&mut parts.headers);
        headers::forward(&mut parts.headers, from.peer.ip(), &id);
        if let Some((protocol, _)) = &upgrade {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.clone());
        }
        parts.uri = path.into();
        parts.version = Version::HTTP_11;
        let (body, exceeded) = RequestBody::new(body, limit);
        let (peer, worker) = (Some(from.peer.ip()), from.worker);
        let (begun, trace) = (false, None);
        let mut call =
            Call { target, id, peer, started, authorization, worker, upgrade, exceeded, begun, trace };
        let passed = self.pass(&mut call, outgoing(parts, body)).await;
        if let Err(fault) = &passed {
            self.refused(&call, fault);
        }
        passed
    }

    async fn pass(
        &self,
        call: &mut Call,
        mut request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody<R::Lease>>, Fault> {
        let Some(tracer) = &self.tracer else { return self.send(call, request).await };
        call.trace = trace::begin(tracer, call, &mut request);
        let passed = self.send(call, request).await;
        if let Some(trace) = call.trace.take() {
            trace.end(&passed);
        }
        passed
    }

    /// Tries replicas until one has taken the request; from its first byte on there is no second try.
    async fn send(
        &self,
        call: &mut Call,
        mut request: Request<RequestBody>,
    ) -> Result<Response<AnswerBody<R::Lease>>, Fault> {
        let deadline = call.started + self.limits.start_timeout;
        let named = || call.target.to_string();
        for _ in 0..ATTEMPTS {
            let mut lease = self.replicas.acquire(&call.target, call.peer.is_none(), deadline).await;
            if let (Err(Unavailable::NeedsToken), Some(door), Some(peer)) = (&lease, &self.door, call.peer) {
                let authorization = call.authorization.as_ref().or(request.headers().get(AUTHORIZATION));
                let admitted = door.admit(authorization, peer).await;
                admitted.map_err(|source| Fault::NotAdmitted { target: named(), source })?;
                lease = self.replicas.acquire(&call.target, true, deadline).await;
            }
            let lease = lease.map_err(|why| Fault::of(why, named(), self.limits.start_timeout))?;
            if !std::mem::replace(&mut call.begun, true) {
                lease.begun();
            }
            let waited = call.started.elapsed();
            if let Some(trace) = &mut call.trace {
                trace.given(&lease);
            }
            let pool = self.pools[call.worker % self.pools.len()].of(lease.replica());
            loop {
                let kept = pool.take();
                let fresh = kept.is_none();
                let Some(mut link) = reach(kept, &lease).await else { break };
                host(request.headers_mut(), &lease);
                let limit = lease.timeout();
                let sending = Instant::now();
                let answer = async {
                    tokio::select! {
                        biased;
                        answer = link.send(request) => Some(answer),
                        () = lease.gone() => None,
                    }
                };
                match tokio::time::timeout(limit, answer).await {
                    Ok(Some(Ok(response))) => {
                        let timing = CallTiming {
                            waited,
                            cold: lease.cold(),
                            run: sending.elapsed(),
                            total: call.started.elapsed(),
                        };
                        return self.complete(call, response, Held { lease, pool, link }, &timing);
                    }
                    Err(_) => return Err(Fault::TimedOut { target: named(), limit }),
                    Ok(None) => return Err(died(&lease, named()).await),
                    Ok(Some(Err(mut error))) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None if call.exceeded.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) => {
                            return Err(Fault::RequestTooLarge { limit: self.limits.request_body });
                        }
                        None => return Err(died(&lease, named()).await),
                    },
                }
                if fresh {
                    break;
                }
            }
            lease.failed();
        }
        Err(Fault::CannotStart {
            target: named(),
            whose: Whose::Platform,
            reason: "its replicas accept no connections".into(),
        })
    }

    fn refused(&self, call: &Call, fault: &Fault) {
        self.replicas.refused(&call.target.name, call.begun, fault.status(), call.started.elapsed());
    }

    /// A token of the platform's must not get into the hands of a function, which could act with it.
    fn take_own_authorization(&self, headers: &mut HeaderMap) -> Option<HeaderValue> {
        let door = self.door.as_ref()?;
        let own = headers.get_all(AUTHORIZATION).iter().any(|value| door.is_own(value));
        own.then(|| headers.remove(AUTHORIZATION)).flatten()
    }

    fn complete(
        &self,
        call: &mut Call,
        response: Response<Incoming>,
        held: Held<R::Lease>,
        timing: &CallTiming,
    ) -> Result<Response<AnswerBody<R::Lease>>, Fault> {
        let target = &call.target;
        tracing::trace!(%target, call = ?call.id, replica = held.lease.replica(), "answered");
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            // It lasts as long as the connection: what counts is how soon it came.
            held.lease.answered(response.status(), timing.total);
            return Ok(upgrade::switch(
                response,
                call.upgrade.take().map(|(_, client)| client),
                held,
                self.limits.idle_timeout,
            ));
        }
        let limit = self.limits.response_body;
        if response.body().size_hint().exact().is_some_and(|length| length > limit) {
            return Err(Fault::AnswerTooLarge { target: call.target.to_string(), limit });
        }
        held.lease.answered(response.status(), timing.total);
        let (mut parts, body) = response.into_parts();
        headers::strip_connection(&mut parts.headers);
        parts.headers.remove(headers::ERROR);
        if parts.status.is_client_error() || parts.status.is_server_error() {
            parts.headers.insert(headers::ERROR, Whose::Function.header());
        }
        if timing.cold.is_some() {
            parts.headers.insert(headers::COLD_START, HeaderValue::from_static("true"));
        }
        parts.headers.append(headers::SERVER_TIMING, text(timing.header()));
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, AnswerBody::stream(body, held, self.limits.idle_timeout)))
    }
}

/// The connection that was kept, once it is ready for another request, or a new one. `None`: there is none to be had.
async fn reach(kept: Option<Link>, lease: &impl Lease) -> Option<Link> {
    if let Some(mut link) = kept
        && link.ready().await
    {
        return Some(link);
    }
    Link::open(lease.address()).await.ok()
}

/// The replica took the request to its grave.
async fn died(lease: &impl Lease, target: String) -> Fault {
    let cause = lease.cause_of_death().await;
    lease.failed();
    Fault::Died { target, cause }
}

/// HTTP/1.0 clients may leave it out; towards the replica it is HTTP/1.1, which may not.
fn host(headers: &mut HeaderMap, lease: &impl Lease) {
    if !headers.contains_key(HOST) {
        headers.insert(HOST, text(lease.address().to_string()));
    }
}

/// Only what belongs to the message goes on: hyper's own extensions (the upgrade) stay with the client's side.
fn outgoing(mut parts: Parts, body: RequestBody) -> Request<RequestBody> {
    parts.extensions.clear();
    Request::from_parts(parts, body)
}

fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
