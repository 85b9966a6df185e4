//! Schedules: when functions are called by themselves.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::description::{Changes, Reads};
use super::extract::{Json, Path, Query};
use super::{Api, ApiError, Removed, ScheduleList};
use crate::function::FunctionName;
use crate::queue::{NewSchedule, ScheduleState, forget_schedules};

type Shared = State<Arc<Api>>;

pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(remove)).routes(routes!(add, remove_all))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    function: Option<FunctionName>,
}

/// All schedules, or a function's.
#[utoipa::path(
    get, path = "/v1/schedules", operation_id = "schedules_list", params(Which),
    responses((status = 200, body = ScheduleList), Reads)
)]
async fn list(State(api): Shared, Query(which): Query<Which>) -> Result<Json<ScheduleList>, ApiError> {
    Ok(Json(ScheduleList { schedules: api.schedules.list(which.function.as_ref()).await? }))
}

/// Has a function called by a schedule: 201, or 200 where there is the same one already.
#[utoipa::path(
    post, path = "/v1/functions/{name}/schedules", operation_id = "schedules_add", params(FunctionName),
    responses((status = 200, body = ScheduleState), (status = 201, body = ScheduleState), Changes)
)]
async fn add(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(new): Json<NewSchedule>,
) -> Result<(StatusCode, Json<ScheduleState>), ApiError> {
    let (schedule, is_new) = api.schedules.add(&name, new).await?;
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(schedule)))
}

/// Ends a schedule.
#[utoipa::path(
    delete, path = "/v1/schedules/{id}", operation_id = "schedules_remove", params(("id" = String, Path)),
    responses((status = 200, body = Removed), Changes)
)]
async fn remove(State(api): Shared, Path(id): Path<String>) -> Result<Json<Removed>, ApiError> {
    api.schedules.remove(&id).await?;
    Ok(Json(Removed { removed: vec![id] }))
}

/// Ends all schedules of a function.
#[utoipa::path(
    delete, path = "/v1/functions/{name}/schedules", operation_id = "schedules_remove_all", params(FunctionName),
    responses((status = 200, body = Removed), Changes)
)]
async fn remove_all(State(api): Shared, Path(name): Path<FunctionName>) -> Result<Json<Removed>, ApiError> {
    api.changes.get(&name).await?;
    Ok(Json(Removed { removed: forget_schedules(&*api.store, &name).await? }))
}
