//! Asynchronous calls of this node, for whoever looks after them.

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::description::{Changes, Reads};
use super::extract::{Json, Path, Query};
use super::{Api, ApiError, Removed};
use crate::function::FunctionName;
use crate::queue::{CallDetail, CallPage, CallSummary, Filter};

type Shared = State<Arc<Api>>;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
const STATES: [&str; 4] = ["waiting", "running", "answered", "dead"];

pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show, discard)).routes(routes!(retry))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    function: Option<FunctionName>,
    /// `waiting`, `running`, `answered` or `dead`.
    state: Option<String>,
    after: Option<u64>,
    #[param(minimum = 0)]
    limit: Option<usize>,
}

/// A page of this node's calls, in the order in which they came in.
#[utoipa::path(
    get, path = "/v1/calls", operation_id = "calls_list", params(Which),
    responses((status = 200, body = CallPage), Reads)
)]
async fn list(State(api): Shared, Query(which): Query<Which>) -> Result<Json<CallPage>, ApiError> {
    if let Some(state) = which.state.as_deref().filter(|state| !STATES.contains(state)) {
        let state: String = state.chars().take(80).collect();
        let what = format!("{state:?} is no state of a call: {}", STATES.join(", "));
        return Err(ApiError::Request { what });
    }
    let limit = which.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    Ok(Json(api.queue.list(&Filter { function: which.function, state: which.state }, which.after, limit)?))
}

/// A call with what it is made of.
#[utoipa::path(
    get, path = "/v1/calls/{id}", operation_id = "calls_show", params(("id" = String, Path)),
    responses((status = 200, body = CallDetail), Changes)
)]
async fn show(State(api): Shared, Path(id): Path<String>) -> Result<Json<CallDetail>, ApiError> {
    Ok(Json(api.queue.show(&id).await?))
}

/// Has a dead letter made again.
#[utoipa::path(
    post, path = "/v1/calls/{id}/retry", operation_id = "calls_retry", params(("id" = String, Path)),
    responses((status = 200, body = CallSummary), Changes)
)]
async fn retry(State(api): Shared, Path(id): Path<String>) -> Result<Json<CallSummary>, ApiError> {
    Ok(Json(api.queue.retry(&id).await?))
}

/// Drops a call.
#[utoipa::path(
    delete, path = "/v1/calls/{id}", operation_id = "calls_drop", params(("id" = String, Path)),
    responses((status = 200, body = Removed), Changes)
)]
async fn discard(State(api): Shared, Path(id): Path<String>) -> Result<Json<Removed>, ApiError> {
    api.queue.discard(&id).await?;
    Ok(Json(Removed { removed: vec![id] }))
}
