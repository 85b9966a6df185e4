//! Whether the server lives, whether it can serve, and why not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::error::chain;
use super::extract::Json;
use super::{Api, Status};

/// What takes longer to say that it is well is not.
const PATIENCE: Duration = Duration::from_secs(2);

pub async fn healthz() -> &'static str {
    "ok\n"
}

/// `?calls` asks only for what keeps calls from being answered here: a balancer must not send all nodes into retirement
/// because what they share is away.
pub async fn readyz(State(api): State<Arc<Api>>, RawQuery(query): RawQuery) -> Response {
    let problems = match query.as_deref() {
        Some("calls") => api.problems_of_calls().await,
        _ => api.problems().await,
    };
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}

/// What this server is, and whether it is well.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub async fn status(State(api): State<Arc<Api>>) -> Json<Status> {
    let problems = api.problems().await;
    Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        id: api.about.id.clone(),
        registry: api.published.host().into(),
        namespace: api.about.namespace.clone(),
        ready: problems.is_empty(),
        problems,
    })
}

impl Api {
    /// Everything that is not well; all of it is asked at once.
    pub async fn problems(&self) -> Vec<String> {
        // By its host: who waits too long has no other text to name it by.
        let registry = format!("the registry {}", self.published.host());
        let (of_calls, store, registry) = tokio::join!(
            self.problems_of_calls(),
            well("the record store", self.store.check()),
            well(&registry, self.published.check()),
        );
        of_calls.into_iter().chain(store).chain(registry).collect()
    }

    /// What keeps calls from being answered at this node.
    async fn problems_of_calls(&self) -> Vec<String> {
        let (secrets, containerd) = tokio::join!(
            well("the key of the secrets", self.secrets.check()),
            well("containerd", self.replicas.check()),
        );
        let stopping = self.stopping.is_cancelled().then(|| "the server is stopping".to_string());
        let full =
            self.replicas.is_full().then(|| "the node is at its limit: every replica is busy".to_string());
        [stopping, full, secrets, containerd].into_iter().flatten().collect()
    }
}

async fn well<E: std::error::Error + 'static>(
    what: &str,
    check: impl Future<Output = Result<(), E>>,
) -> Option<String> {
    match tokio::time::timeout(PATIENCE, check).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{what} is not well: {}", chain(&error))),
        Err(_) => Some(format!("{what} did not answer within {} s", PATIENCE.as_secs())),
    }
}
