//! Functions and their versions: list, describe, push, switch, delete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri};
use serde::Deserialize;
use utoipa::IntoParams;

use super::change::Changed;
use super::description::{Changes, Reads, ReadsOne};
use super::extract::{Json, Path, Query};
use super::{
    Api, ApiError, Attached, Attachments, Death, Deleted, Described, Divided, FailedStart, Functions, Pushed,
    ReplicaState, Scale, Selected, Split, Summary, Versions,
};
use crate::function::{FunctionName, FunctionRecord, SettingsPatch, Version, VersionRequest};
use crate::replica::Mishaps;

type Shared = State<Arc<Api>>;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// Who asks what a function is does not wait longer for its registry.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// The last name of the page before.
    after: Option<FunctionName>,
    /// 100 where it is not given.
    #[param(minimum = 0)]
    limit: Option<usize>,
}

/// A page of functions, in the order of names.
#[utoipa::path(get, path = "/v1/functions", params(Paging), responses((status = 200, body = Functions), Reads))]
pub async fn list(State(api): Shared, Query(paging): Query<Paging>) -> Result<Json<Functions>, ApiError> {
    let limit = paging.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let page = api.store.list(paging.after.as_ref(), limit).await?;
    let next = page.records.last().filter(|_| page.more).map(|stored| stored.record.name.clone());
    let mut elsewhere = HashMap::<FunctionName, usize>::new();
    for node in api.nodes().await?.into_iter().filter(|node| node.id != api.about.id) {
        for replica in node.replicas {
            *elsewhere.entry(replica.function).or_default() += 1;
        }
    }
    let functions = page.records.iter().filter_map(|stored| {
        let mut summary = api.summary(&stored.record)?;
        summary.replicas += elsewhere.get(&summary.name).copied().unwrap_or(0);
        Some(summary)
    });
    let functions = functions.collect();
    Ok(Json(Functions { functions, next }))
}

/// A function: its current version, settings and replicas.
#[utoipa::path(get, path = "/v1/functions/{name}", params(FunctionName), responses((status = 200, body = Described), ReadsOne))]
pub async fn describe(
    State(api): Shared,
    Path(name): Path<FunctionName>,
) -> Result<Json<Described>, ApiError> {
    let record = api.changes.get(&name).await?.record;
    let version = current(&record)?;
    let Mishaps { death, failed_start } = api.replicas.last_mishaps(&name);
    Ok(Json(Described {
        version: version.number,
        image: api.reference(version),
        digest: version.image.digest.to_string(),
        base: version.image.base.as_ref().map(ToString::to_string),
        source: version.image.source.as_ref().map(ToString::to_string),
        entry: version.image.entry.as_ref().map(ToString::to_string),
        parameters: version.image.parameters.clone(),
        packages: version.image.packages.clone(),
        created: version.created.clone(),
        url: api.trigger(&name),
        settings: version.image.settings.clone(),
        split: record.split.clone(),
        require_token: record.require_token,
        versions: record.versions.iter().map(|version| version.number).collect(),
        replicas: [api.replicas_of(&name), api.replicas_elsewhere(&name).await?].concat(),
        schedules: api.schedules.list(Some(&name)).await?,
        last_death: death.map(|death| Death {
            time: death.time.to_string(),
            replica: death.replica,
            version: death.version,
            cause: death.cause,
        }),
        last_failed_start: failed_start.map(|failed| FailedStart {
            time: failed.time.to_string(),
            version: failed.version,
            cause: super::error::chain(&*failed.error),
        }),
        name,
    }))
}

/// What refers to the current version's image, as the registry lists it.
#[utoipa::path(
    get, path = "/v1/functions/{name}/attached", params(FunctionName), responses((status = 200, body = Attachments), ReadsOne)
)]
pub async fn attached(
    State(api): Shared,
    Path(name): Path<FunctionName>,
) -> Result<Json<Attachments>, ApiError> {
    const STEP: &str = "list what is attached to the image";
    let record = api.changes.get(&name).await?.record;
    let image = &current(&record)?.image;
    let listing = api.published.attached(&image.repository, &image.digest);
    let found = match tokio::time::timeout(REGISTRY_PATIENCE, listing).await {
        Ok(found) => found,
        Err(_) => return Err(ApiError::TooSlow { step: STEP, limit: REGISTRY_PATIENCE }),
    };
    let found = found.map_err(|source| ApiError::Registry {
        step: STEP,
        registry: api.published.host().into(),
        source: Box::new(source),
    })?;
    let attached = found.into_iter().map(|artifact| Attached {
        artifact_type: artifact.artifact_type,
        digest: artifact.digest,
        annotations: artifact.annotations,
    });
    Ok(Json(Attachments { attached: attached.collect() }))
}

/// All versions, oldest first.
#[utoipa::path(
    get, path = "/v1/functions/{name}/versions", params(FunctionName), responses((status = 200, body = Versions), ReadsOne)
)]
pub async fn versions(
    State(api): Shared,
    Path(name): Path<FunctionName>,
) -> Result<Json<Versions>, ApiError> {
    let record = api.changes.get(&name).await?.record;
    Ok(Json(Versions { name: record.name, current: record.current, versions: record.versions }))
}

/// An image that was pushed becomes a version.
#[utoipa::path(
    post, path = "/v1/functions/{name}/versions", params(FunctionName), responses((status = 200, body = Pushed), (status = 201, body = Pushed), Changes)
)]
pub async fn push(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(request): Json<VersionRequest>,
) -> Result<Response, ApiError> {
    detached(async move { Ok(api.pushed(&api.changes.push(&name, &request).await?)) }).await
}

/// Makes an earlier version the current one.
#[utoipa::path(
    post, path = "/v1/functions/{name}/rollback", params(FunctionName), responses((status = 200, body = Pushed), (status = 201, body = Pushed), Changes)
)]
pub async fn roll_back(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(selected): Json<Selected>,
) -> Result<Response, ApiError> {
    detached(async move { Ok(api.pushed(&api.changes.roll_back(&name, selected.version).await?)) }).await
}

/// Divides the calls that name no version.
#[utoipa::path(
    post, path = "/v1/functions/{name}/route", params(FunctionName), responses((status = 200, body = Divided), Changes)
)]
pub async fn divide(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(wanted): Json<Split>,
) -> Result<Response, ApiError> {
    detached(async move {
        let FunctionRecord { name, current, split, .. } =
            api.changes.divide(&name, &wanted.split).await?.record;
        Ok(Json(Divided { name, current, split }).into_response())
    })
    .await
}

/// Makes a version of the current image with other settings.
#[utoipa::path(
    post, path = "/v1/functions/{name}/config", params(FunctionName), responses((status = 200, body = Pushed), (status = 201, body = Pushed), Changes)
)]
pub async fn configure(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(patch): Json<SettingsPatch>,
) -> Result<Response, ApiError> {
    detached(async move { Ok(api.pushed(&api.changes.configure(&name, &patch).await?)) }).await
}

/// Makes a version of which so many replicas stay up.
#[utoipa::path(
    post, path = "/v1/functions/{name}/scale", params(FunctionName), responses((status = 200, body = Pushed), (status = 201, body = Pushed), Changes)
)]
pub async fn scale(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Json(scale): Json<Scale>,
) -> Result<Response, ApiError> {
    detached(async move { Ok(api.pushed(&api.changes.scale(&name, scale.replicas).await?)) }).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Deletion {
    /// Its images too.
    #[serde(default)]
    images: bool,
}

/// Deletes a function and all its versions.
#[utoipa::path(
    delete, path = "/v1/functions/{name}", params(FunctionName, Deletion), responses((status = 200, body = Deleted), Changes)
)]
pub async fn delete(
    State(api): Shared,
    Path(name): Path<FunctionName>,
    Query(deletion): Query<Deletion>,
) -> Result<Response, ApiError> {
    detached(async move {
        let kept = api.changes.delete(&name, deletion.images).await?;
        Ok(Json(Deleted { name, kept }).into_response())
    })
    .await
}

pub async fn nothing(method: Method, uri: Uri) -> ApiError {
    ApiError::NoPath { method, path: uri.path().chars().take(300).collect() }
}

pub async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::NoMethod { method, path: uri.path().chars().take(300).collect() }
}

/// A change goes on to its end even when whoever asked for it has gone away.
pub async fn detached(
    change: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    let ended = tokio::spawn(change).await;
    ended
        .map_err(|error| ApiError::Disk { step: "finish the change", source: std::io::Error::other(error) })?
}

fn current(record: &FunctionRecord) -> Result<&Version, ApiError> {
    let missing = || ApiError::NoVersion { name: record.name.clone(), version: record.current };
    record.current().ok_or_else(missing)
}

impl Api {
    fn reference(&self, version: &Version) -> String {
        format!("{}/{}@{}", self.published.host(), version.image.repository, version.image.digest)
    }

    fn trigger(&self, name: &FunctionName) -> String {
        format!("{}/function/{name}", self.about.url)
    }

    fn summary(&self, record: &FunctionRecord) -> Option<Summary> {
        let version = record.current()?;
        Some(Summary {
            name: record.name.clone(),
            version: version.number,
            image: self.reference(version),
            digest: version.image.digest.to_string(),
            created: version.created.clone(),
            replicas: self.replicas.list(&record.name).len(),
            url: self.trigger(&record.name),
        })
    }

    fn replicas_of(&self, name: &FunctionName) -> Vec<ReplicaState> {
        let state = |replica: crate::replica::ReplicaStatus| ReplicaState {
            id: replica.id,
            node: self.about.id.clone(),
            container: replica.container,
            version: replica.version,
            address: replica.address.to_string(),
            port: replica.port,
            state: match replica.state {
                crate::replica::ReplicaState::Ready => "ready".into(),
                crate::replica::ReplicaState::Draining => "draining".into(),
            },
            out_of_memory: replica.out_of_memory,
            out_of_pids: replica.out_of_pids,
        };
        self.replicas.list(name).into_iter().map(state).collect()
    }

    /// What a change came to, as it is told: 201 for a new version, 200 where nothing changed.
    pub(super) fn pushed(&self, changed: &Changed) -> Response {
        let pushed = Pushed {
            name: changed.record.name.clone(),
            version: changed.version.number,
            digest: changed.version.image.digest.to_string(),
            reference: self.reference(&changed.version),
            url: self.trigger(&changed.record.name),
            unchanged: changed.unchanged,
            warnings: changed.warnings.clone(),
        };
        let status = if changed.unchanged { StatusCode::OK } else { StatusCode::CREATED };
        (status, Json(pushed)).into_response()
    }
}
