//! Asynchronous calls of this node, for whoever looks after them.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::{Api, ApiError, Removed};
use crate::queue::{CallDetail, CallPage, CallSummary, Filter};

type Shared = State<Arc<Api>>;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
const STATES: [&str; 4] = ["waiting", "running", "answered", "dead"];

pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/calls", get(list))
        .route("/v1/calls/{id}", get(show).delete(discard))
        .route("/v1/calls/{id}/retry", post(retry))
}

#[derive(Deserialize)]
struct Which {
    function: Option<String>,
    state: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

async fn list(State(api): Shared, Query(which): Query<Which>) -> Result<Json<CallPage>, ApiError> {
    let function = which.function.map(|name| name.parse()).transpose()?;
    if let Some(state) = which.state.as_deref().filter(|state| !STATES.contains(state)) {
        let state: String = state.chars().take(80).collect();
        let what = format!("{state:?} is no state of a call: {}", STATES.join(", "));
        return Err(ApiError::Request { what });
    }
    let limit = which.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    Ok(Json(api.queue.list(&Filter { function, state: which.state }, which.after, limit)?))
}

async fn show(State(api): Shared, Path(id): Path<String>) -> Result<Json<CallDetail>, ApiError> {
    Ok(Json(api.queue.show(&id).await?))
}

async fn retry(State(api): Shared, Path(id): Path<String>) -> Result<Json<CallSummary>, ApiError> {
    Ok(Json(api.queue.retry(&id).await?))
}

async fn discard(State(api): Shared, Path(id): Path<String>) -> Result<Json<Removed>, ApiError> {
    api.queue.discard(&id).await?;
    Ok(Json(Removed { removed: vec![id] }))
}
