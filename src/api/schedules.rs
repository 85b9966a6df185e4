//! Schedules: when functions are called by themselves.

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;

use super::{Api, ApiError, Removed, ScheduleList};
use crate::function::FunctionName;
use crate::queue::{NewSchedule, ScheduleState, forget_schedules};

type Shared = State<Arc<Api>>;

pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/schedules", get(list))
        .route("/v1/schedules/{id}", delete(remove))
        .route("/v1/functions/{name}/schedules", post(add).delete(remove_all))
}

#[derive(Deserialize)]
struct Which {
    function: Option<String>,
}

async fn list(State(api): Shared, Query(which): Query<Which>) -> Result<Json<ScheduleList>, ApiError> {
    let function = which.function.map(|name| name.parse::<FunctionName>()).transpose()?;
    Ok(Json(ScheduleList { schedules: api.schedules.list(function.as_ref()).await? }))
}

/// 201, or 200 where there is the same one already.
async fn add(
    State(api): Shared,
    Path(name): Path<String>,
    body: Result<Json<NewSchedule>, JsonRejection>,
) -> Result<(StatusCode, Json<ScheduleState>), ApiError> {
    let (name, Json(new)) = (name.parse()?, body?);
    let (schedule, is_new) = api.schedules.add(&name, new).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(schedule)))
}

async fn remove(State(api): Shared, Path(id): Path<String>) -> Result<Json<Removed>, ApiError> {
    api.schedules.remove(&id).await?;
    Ok(Json(Removed { removed: vec![id] }))
}

async fn remove_all(State(api): Shared, Path(name): Path<String>) -> Result<Json<Removed>, ApiError> {
    let name: FunctionName = name.parse()?;
    api.changes.get(&name).await?;
    Ok(Json(Removed { removed: forget_schedules(&*api.store, &name).await? }))
}
