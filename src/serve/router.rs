//! Which requests are calls, which are management, and which are for everybody.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tower::ServiceExt;

use crate::api::{self, Api};
use crate::gateway::{self, AnswerBody, Connection, Gateway, is_later, is_trigger};
use crate::queue::Queue;
use crate::replica::Replicas;

use super::gate::Gate;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

type CallBody = AnswerBody<<Arc<Replicas> as gateway::Replicas>::Lease>;

/// The trigger, the management API and the health pages, side by side.
pub struct Router {
    gateway: Arc<Gateway<Arc<Replicas>>>,
    queue: Arc<Queue>,
    management: axum::Router,
    health: axum::Router,
    /// It tells nothing, and asks whoever looks at it for a token itself.
    page: axum::Router,
    gate: Arc<Gate>,
    /// Set when new calls are another node's.
    refuses: AtomicBool,
}

impl Router {
    pub fn new(gateway: Arc<Gateway<Arc<Replicas>>>, api: Arc<Api>, gate: Arc<Gate>) -> Self {
        Self {
            gateway,
            queue: Arc::clone(&api.queue),
            management: api::management(Arc::clone(&api)),
            health: api::health(api),
            page: api::page(),
            gate,
            refuses: AtomicBool::new(false),
        }
    }

    /// From here on new calls are sent elsewhere.
    pub fn refuse(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    async fn answer(&self, mut request: Request<Incoming>, from: Connection) -> Response<Answer> {
        let path = request.uri().path();
        let later = is_later(path);
        if later || is_trigger(path) {
            if self.refuses.load(Ordering::Relaxed) {
                return draining().map(Answer::Page);
            }
            if from.encrypted {
                request.headers_mut().entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("https"));
            }
            if later {
                let taken = self.queue.accept(request, from.peer.ip(), &*self.gate).await;
                return taken.map(|body| Answer::Page(axum::body::Body::new(body)));
            }
            return self.gateway.call(request, from.peer.ip()).await.map(Answer::Call);
        }
        let for_all = matches!(path, "/healthz" | "/readyz") || !self.gate.manages(&from);
        if !for_all && !api::is_page(path) {
            let management = self.management.clone();
            return self.gate.answer(request, &from, management).await.map(Answer::Page);
        }
        let router = if for_all { &self.health } else { &self.page };
        match router.clone().oneshot(request).await {
            Ok(response) => response.map(Answer::Page),
            Err(never) => match never {},
        }
    }
}

/// What a listener does with a request.
pub fn service(
    router: Arc<Router>,
) -> impl Fn(Request<Incoming>, Connection) -> Pin<Box<dyn Future<Output = Response<Answer>> + Send>> {
    move |request, from| {
        let router = Arc::clone(&router);
        Box::pin(async move { router.answer(request, from).await })
    }
}

/// To be tried at another node at once, over another connection.
fn draining() -> Response<axum::body::Body> {
    let headers = [("x-fnbuild-error", "platform"), ("retry-after", "1"), ("connection", "close")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, problem("Draining", "this node is stopping")).into_response()
}

fn problem(error_type: &str, error_message: &str) -> axum::Json<api::Problem> {
    axum::Json(api::Problem {
        error_type: error_type.into(),
        error_message: error_message.into(),
        request_id: String::new(),
        hint: None,
    })
}

/// A body from either side.
pub enum Answer {
    Call(CallBody),
    Page(axum::body::Body),
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Broken(Box<dyn std::error::Error + Send + Sync>);

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Call(body) => Pin::new(body).poll_frame(cx).map_err(|error| Broken(error.into())),
            Self::Page(body) => Pin::new(body).poll_frame(cx).map_err(|error| Broken(error.into())),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Call(body) => body.is_end_stream(),
            Self::Page(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Call(body) => body.size_hint(),
            Self::Page(body) => body.size_hint(),
        }
    }
}
