//! `/system`: OpenFaaS's management API, as its published description has it and its clients use it, on the same
//! rooms as `/v1`.
//!
//! - Bodies are read whatever type they claim: those clients name none.
//! - A deployment is answered when it is done, or after a while with 202, and then goes on.
//! - There is one namespace, [`NAMESPACE`].

mod deploy;
mod status;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::description::{Changes, Reads, ReadsOne};
use super::extract::{Json, Path, Query, Untyped};
use super::logs::{ndjson, since};
use super::{Api, ApiError};
use crate::function::{FunctionName, FunctionRecord, NAMESPACE};
use crate::replica::LogQuery;
use deploy::FunctionDeployment;
use status::FunctionStatus;

type Shared = State<Arc<Api>>;

/// OpenFaaS's clients give up after a minute.
const PATIENCE: Duration = Duration::from_secs(40);

pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list, deploy, update, delete))
        .routes(routes!(describe))
        .routes(routes!(scale))
        .routes(routes!(logs))
        .routes(routes!(info))
        .routes(routes!(namespaces))
        .routes(routes!(namespace))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct InNamespace {
    /// `openfaas-fn`, if any.
    namespace: Option<String>,
}

/// All functions.
#[utoipa::path(
    get, path = "/system/functions", params(InNamespace), operation_id = "openfaas_list",
    responses((status = 200, body = Vec<FunctionStatus>), Reads)
)]
async fn list(
    State(api): Shared,
    Query(within): Query<InNamespace>,
) -> Result<Json<Vec<FunctionStatus>>, ApiError> {
    check_namespace(within.namespace.as_deref())?;
    let records = api.changes.all().await?;
    let elsewhere = api.ready_elsewhere().await?;
    let ready = |record: &FunctionRecord| elsewhere.get(&record.name).copied().unwrap_or(0);
    Ok(Json(records.iter().filter_map(|record| api.function_status(record, ready(record))).collect()))
}

/// One function.
#[utoipa::path(
    get, path = "/system/function/{name}", params(Named, InNamespace), operation_id = "openfaas_describe",
    responses((status = 200, body = FunctionStatus), ReadsOne)
)]
async fn describe(
    State(api): Shared,
    Path(Named(name)): Path<Named>,
    Query(within): Query<InNamespace>,
) -> Result<Json<FunctionStatus>, ApiError> {
    check_namespace(within.namespace.as_deref())?;
    let record = api.changes.get(&name).await?.record;
    let elsewhere = api.ready_elsewhere().await?.get(&name).copied().unwrap_or(0);
    api.function_status(&record, elsewhere).map(Json).ok_or(ApiError::NoFunction { name })
}

/// Deploys an image.
#[utoipa::path(
    post, path = "/system/functions", operation_id = "openfaas_deploy", request_body = FunctionDeployment,
    responses((status = 202, description = "it is deployed, or will be soon"), Changes)
)]
async fn deploy(
    State(api): Shared,
    Untyped(deployment): Untyped<FunctionDeployment>,
) -> Result<StatusCode, ApiError> {
    accepted(async move { api.deploy(deployment, false).await }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Deploys an image of a function that is there.
#[utoipa::path(
    put, path = "/system/functions", operation_id = "openfaas_update", request_body = FunctionDeployment,
    responses((status = 200, description = "it is deployed, or will be soon"), Changes)
)]
async fn update(
    State(api): Shared,
    Untyped(deployment): Untyped<FunctionDeployment>,
) -> Result<StatusCode, ApiError> {
    accepted(async move { api.deploy(deployment, true).await }).await?;
    Ok(StatusCode::OK)
}

impl Api {
    async fn deploy(&self, deployment: FunctionDeployment, update: bool) -> Result<(), ApiError> {
        check_namespace(Some(&deployment.namespace))?;
        let (name, settings) = (named(&deployment.service)?, deployment.settings()?);
        if update {
            // Before an image is fetched for it.
            self.changes.get(&name).await?;
        }
        let image = self.workshop.adopt(&name, &deployment.image).await?;
        let version = deployment.version(image, settings);
        self.changes.deploy(&name, &version, update).await.map(drop)
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeleteFunctionRequest {
    function_name: String,
    #[serde(default)]
    namespace: String,
}

/// Deletes a function.
#[utoipa::path(
    delete, path = "/system/functions", operation_id = "openfaas_delete", request_body = DeleteFunctionRequest,
    responses((status = 200, description = "it is deleted, or will be soon"), Changes)
)]
async fn delete(
    State(api): Shared,
    Untyped(request): Untyped<DeleteFunctionRequest>,
) -> Result<StatusCode, ApiError> {
    check_namespace(Some(&request.namespace))?;
    let name = named(&request.function_name)?;
    accepted(async move { api.changes.delete(&name, false).await.map(drop) }).await?;
    Ok(StatusCode::OK)
}

#[derive(Deserialize, ToSchema)]
struct ScaleServiceRequest {
    replicas: u32,
    #[serde(default)]
    namespace: String,
}

/// So many replicas stay up from here on.
#[utoipa::path(
    post, path = "/system/scale-function/{name}", params(Named), operation_id = "openfaas_scale",
    request_body = ScaleServiceRequest,
    responses((status = 202, description = "it scales"), Changes)
)]
async fn scale(
    State(api): Shared,
    Path(Named(name)): Path<Named>,
    Untyped(request): Untyped<ScaleServiceRequest>,
) -> Result<StatusCode, ApiError> {
    check_namespace(Some(&request.namespace))?;
    accepted(async move {
        api.changes.scale(&name, request.replicas).await?;
        // Not when somebody calls or an idle time has passed: now.
        Ok(api.replicas.scale(&name, request.replicas).await?)
    })
    .await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogRequest {
    /// The function's.
    #[param(required)]
    name: Option<String>,
    namespace: Option<String>,
    instance: Option<String>,
    tail: Option<i64>,
    /// As Go reads a boolean: `1`, `t` and `true` are.
    #[serde(default, deserialize_with = "go_bool")]
    #[param(value_type = bool, required = false)]
    follow: bool,
    since: Option<String>,
}

#[derive(Serialize)]
struct LogMessage<'a> {
    name: &'a str,
    namespace: &'static str,
    instance: &'a str,
    timestamp: String,
    text: &'a str,
}

/// What a function printed, as NDJSON.
#[utoipa::path(
    get, path = "/system/logs", params(LogRequest), operation_id = "openfaas_logs",
    responses((status = 200, body = String, content_type = "application/x-ndjson"), ReadsOne)
)]
async fn logs(State(api): Shared, Query(request): Query<LogRequest>) -> Result<Response, ApiError> {
    check_namespace(request.namespace.as_deref())?;
    let missing = || ApiError::Request { what: "the query names no function: ?name=".into() };
    let name = named(request.name.as_deref().ok_or_else(missing)?)?;
    api.changes.get(&name).await?;
    let since = request.since.as_deref().filter(|text| !text.is_empty()).map(since).transpose()?;
    let tail = request.tail.filter(|tail| *tail > 0).and_then(|tail| usize::try_from(tail).ok());
    let query = LogQuery { tail, since, follow: request.follow };
    let followed = request.follow.then(|| name.clone());
    let instance = request.instance.filter(|instance| !instance.is_empty());
    let lines = ndjson(api.replicas.logs(&name, query), move |line| {
        let told = instance.as_ref().is_none_or(|instance| *instance == line.replica);
        told.then(|| {
            serde_json::to_vec(&LogMessage {
                name: name.as_str(),
                namespace: NAMESPACE,
                instance: &line.replica,
                timestamp: line.time.to_string(),
                text: &line.text,
            })
        })
    });
    Ok(api.log(lines, followed))
}

/// OpenFaaS's own provider takes whatever is no boolean for `false`.
fn go_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(matches!(text.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

/// What this server is.
#[utoipa::path(
    get, path = "/system/info", operation_id = "openfaas_info", responses((status = 200, body = serde_json::Value))
)]
async fn info() -> Json<serde_json::Value> {
    let version = serde_json::json!({
        "sha": option_env!("FNBUILD_COMMIT").unwrap_or("unknown"),
        "release": env!("CARGO_PKG_VERSION"),
    });
    Json(serde_json::json!({
        "provider": { "provider": "fnbuild", "orchestration": "containerd", "version": version },
        "version": version,
        "arch": std::env::consts::ARCH,
    }))
}

/// The one namespace.
#[utoipa::path(
    get, path = "/system/namespaces", operation_id = "openfaas_namespaces", responses((status = 200, body = Vec<String>))
)]
async fn namespaces() -> Json<[&'static str; 1]> {
    Json([NAMESPACE])
}

#[derive(Serialize, ToSchema)]
struct FunctionNamespace {
    name: &'static str,
    annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

/// The one namespace, by its name.
#[utoipa::path(
    get, path = "/system/namespace/{namespace}", operation_id = "openfaas_namespace",
    params(("namespace" = String, Path, description = "`openfaas-fn`")),
    responses((status = 200, body = FunctionNamespace), ReadsOne)
)]
async fn namespace(Path(name): Path<String>) -> Result<Json<FunctionNamespace>, ApiError> {
    check_namespace(Some(&name))?;
    Ok(Json(FunctionNamespace { name: NAMESPACE, annotations: BTreeMap::new(), labels: BTreeMap::new() }))
}

/// `{name}` in a path, with or without the namespace.
struct Named(FunctionName);

impl FromStr for Named {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        named(text).map(Self)
    }
}

impl IntoParams for Named {
    fn into_params(parameter_in: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        FunctionName::into_params(parameter_in)
    }
}

/// `add`, or `add.openfaas-fn` as the clients write where they know a namespace.
fn named(text: &str) -> Result<FunctionName, ApiError> {
    let bare = text.strip_suffix(NAMESPACE).and_then(|text| text.strip_suffix('.'));
    Ok(bare.unwrap_or(text).parse()?)
}

fn check_namespace(namespace: Option<&str>) -> Result<(), ApiError> {
    match namespace {
        None | Some("" | NAMESPACE) => Ok(()),
        Some(other) => {
            let other: String = other.chars().take(80).collect();
            Err(ApiError::Request {
                what: format!("there is no namespace {other:?}: the only one is {NAMESPACE}"),
            })
        }
    }
}

/// Waits for a change, but no longer than the clients do. It goes on to its end either way.
async fn accepted(
    change: impl Future<Output = Result<(), ApiError>> + Send + 'static,
) -> Result<(), ApiError> {
    let broken = |error| ApiError::Disk { step: "finish the change", source: std::io::Error::other(error) };
    let mut running = tokio::spawn(change);
    match tokio::time::timeout(PATIENCE, &mut running).await {
        Ok(ended) => ended.map_err(broken)?,
        Err(_) => {
            tokio::spawn(async move {
                if let Err(error) = running.await.map_err(broken).flatten() {
                    tracing::warn!(error = super::error::chain(&error), "a change that was accepted failed");
                }
            });
            Ok(())
        }
    }
}
