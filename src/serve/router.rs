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
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use crate::api::{self, Api};
use crate::gateway::{self, AnswerBody, Gateway, is_later, is_trigger};
use crate::listen::Connection;
use crate::queue::Queue;
use crate::replica::Replicas;

use super::gate::Gate;
use super::origin;

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
    /// Where everything runs that is no call.
    runtime: Handle,
    /// Set when new calls are another node's.
    refuses: AtomicBool,
}

impl Router {
    /// Must be called within the runtime that is to do what is no call.
    pub fn new(gateway: Arc<Gateway<Arc<Replicas>>>, api: Arc<Api>, gate: Arc<Gate>) -> Self {
        Self {
            gateway,
            queue: Arc::clone(&api.queue),
            management: api::management(Arc::clone(&api)),
            health: api::health(api),
            page: api::page(),
            gate,
            runtime: Handle::current(),
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
                let (queue, gate) = (Arc::clone(&self.queue), Arc::clone(&self.gate));
                let taken = async move { queue.accept(request, from.peer.ip(), &*gate).await };
                return self.elsewhere(async { taken.await.map(axum::body::Body::new) }).await;
            }
            let apart = self.gate.keeps_apart(&from);
            let answer = self.gateway.call(request, from).await.map(Answer::Call);
            return if apart { origin::apart(answer) } else { answer };
        }
        let for_all = matches!(path, "/healthz" | "/readyz") || !self.gate.manages(&from);
        let (is_page, gate) = (api::is_page(path), Arc::clone(&self.gate));
        let router = match (for_all, is_page) {
            (true, _) => self.health.clone(),
            (false, true) => self.page.clone(),
            (false, false) => self.management.clone(),
        };
        let answering = async move {
            if !for_all && !is_page {
                return gate.answer(request, &from, router).await;
            }
            match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        self.elsewhere(answering).await
    }

    /// Does what is no call where it keeps no call waiting. It ends with this future: when the client has gone away.
    async fn elsewhere(
        &self,
        answering: impl Future<Output = Response<axum::body::Body>> + Send + 'static,
    ) -> Response<Answer> {
        let page = AbortOnDropHandle::new(self.runtime.spawn(answering)).await;
        page.unwrap_or_else(|_| draining()).map(Answer::Page)
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
