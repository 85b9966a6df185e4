//! The server: each request from its path to its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listen::{Connection, Listener, Tls, Workers};

use super::answer::{self, Code, JSON, Problem};
use super::auth::Auth;
use super::body::Body;
use super::metrics::Metrics;
use super::mirror::Mirror;
use super::pull::Asked;
use super::route::{Query, Route};
use super::store::Store;

pub const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");
const METRICS_TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A stopping server has this long for the answers that it owes.
const DRAIN: Duration = Duration::from_secs(20);
/// What is read of a refused request's body, so that the client gets to see the refusal.
const REFUSED_BODY: u64 = 1 << 20;
/// For each connection: bounds what a slow disk lets pile up.
const CONNECTION_BUFFER: usize = 256 << 10;

pub type Answer = Result<Response<Body>, Problem>;

/// Everything that a request needs.
pub struct Registry {
    store: Arc<Store>,
    auth: Option<Auth>,
    read_only: bool,
    mirror: Option<Mirror>,
    metrics: Metrics,
    connections: TaskTracker,
}

impl Registry {
    pub fn new(store: Arc<Store>, auth: Option<Auth>, read_only: bool, mirror: Option<Mirror>) -> Self {
        let (metrics, connections) = (Metrics::default(), TaskTracker::new());
        Self { store, auth, read_only, mirror, metrics, connections }
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// In Prometheus' text form.
    pub fn figures(&self) -> String {
        let (totals, uploads) = (self.store.index().totals(), self.store.uploads().open_count());
        self.metrics.text(totals, uploads, self.connections.len())
    }

    pub fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
    }

    /// Answers, counts and logs one request.
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let began = Instant::now();
        let (parts, mut body) = request.into_parts();
        let route = Route::parse(parts.uri.path());
        let mut kind = route.as_ref().map_or("other", Route::kind);
        let (user, answered) = match self.admit(&route, &parts).await {
            Ok(user) => (user, self.dispatch(route, &parts, &mut body).await),
            Err(refused) => {
                kind = "denied";
                (None, Err(refused))
            }
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(problem) => {
                let mut response = problem.into_response();
                if !drain(&mut body).await {
                    // hyper ends a connection on whose way there is still a body. Told so, a client takes another one.
                    response.headers_mut().insert(CONNECTION, CLOSE);
                }
                response
            }
        };
        response.headers_mut().insert(API_VERSION, REGISTRY_2);
        if parts.method == Method::HEAD {
            *response.body_mut() = Body::empty();
        }
        let (status, size) = (response.status().as_u16(), response.body().size_hint().lower());
        let took = began.elapsed();
        self.metrics.answered(kind, status, took);
        self.metrics.sent(size);
        tracing::info!(
            target: "fnbuild::registry::access",
            %peer, user = user.as_deref().unwrap_or("-"), method = %parts.method, uri = %parts.uri, status, size,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        );
        response
    }

    /// The user, where there are users.
    async fn admit(
        &self,
        route: &Result<Route, Problem>,
        parts: &http::request::Parts,
    ) -> Result<Option<String>, Problem> {
        match &self.auth {
            Some(auth) if !matches!(route, Ok(Route::Health)) => auth.check(&parts.headers).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn dispatch(
        &self,
        route: Result<Route, Problem>,
        parts: &http::request::Parts,
        body: &mut Incoming,
    ) -> Answer {
        let (method, headers) = (&parts.method, &parts.headers);
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let route = match route {
            // A tag that cannot exist is not there; only who wants to create it has to be told why.
            Err(problem) if problem.code == Code::TagInvalid && *method != Method::PUT => {
                return Err(Problem::new(Code::ManifestUnknown, "there is no such tag"));
            }
            route => route?,
        };
        if self.read_only && !reads {
            return Err(Problem::new(Code::ReadOnly, "this registry is read-only"));
        }
        let query = Query::parse(parts.uri.query());
        let asked = Asked { method, headers };
        match (route, method) {
            (Route::Version, _) if reads => Ok(answer::full(StatusCode::OK, JSON, "{}".into())),
            (Route::Health, _) if reads => {
                Ok(answer::full(StatusCode::OK, JSON, "{\"status\":\"ok\"}".into()))
            }
            (Route::Metrics, _) if reads => {
                Ok(answer::full(StatusCode::OK, METRICS_TEXT, self.figures().into()))
            }
            (Route::Catalog, _) if reads => self.catalog(&query),
            (Route::Tags(name), _) if reads => self.tags(&name, parts.uri.query()).await,
            (Route::Referrers(name, subject), _) if reads => self.referrers(&name, &subject, &query).await,
            (Route::Manifest(name, which), _) if reads => self.get_manifest(&name, &which, asked).await,
            (Route::Manifest(name, which), &Method::PUT) => {
                self.put_manifest(&name, &which, &query, headers, body).await
            }
            (Route::Manifest(name, which), &Method::DELETE) => self.delete_manifest(&name, &which).await,
            (Route::Blob(name, digest), _) if reads => self.get_blob(&name, &digest, asked).await,
            (Route::Blob(name, digest), &Method::DELETE) => self.delete_blob(&name, &digest).await,
            (Route::Uploads(name), &Method::POST) => self.begin_upload(&name, &query, headers, body).await,
            (Route::Upload(name, id), &Method::PATCH) => self.append_upload(&name, &id, headers, body).await,
            (Route::Upload(name, id), &Method::PUT) => {
                self.finish_upload(&name, &id, &query, headers, body).await
            }
            (Route::Upload(name, id), &Method::DELETE) => self.cancel_upload(&name, &id).await,
            (Route::Upload(name, id), _) if reads => self.upload_status(&name, &id),
            (route, method) => {
                Err(Problem::new(Code::Unsupported, format!("{method} is not for this {}", route.kind())))
            }
        }
    }
}

/// Reads on for a moment: a connection that is closed on unread bytes would take the refusal with it. Whether that was all.
async fn drain(body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    let drained = async {
        let mut left = REFUSED_BODY;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
            if left == 0 {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(Duration::from_secs(2), drained).await.unwrap_or(false)
}

/// Serves at one socket until told to stop, then lets the requests that have begun end.
pub async fn serve(
    registry: Arc<Registry>,
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    workers: Workers,
    shutdown: CancellationToken,
) {
    let listener = Listener::new(socket).tls(tls).drain(DRAIN).buffer(CONNECTION_BUFFER);
    let listener = listener.counted(registry.connections.clone());
    let service = move |request, from: Connection| {
        let registry = Arc::clone(&registry);
        async move { registry.answer(request, from.peer).await }
    };
    if !listener.serve(workers, Arc::new(service), shutdown.cancelled_owned()).await {
        tracing::warn!("some requests did not end in time and were cut off");
    }
}
