//! Functions and their versions: list, describe, push, switch, delete.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::change::Changed;
use super::{
    Api, ApiError, Attached, Attachments, Death, Deleted, Described, Divided, Functions, Pushed,
    ReplicaState, Scale, Selected, Split, Summary, Versions,
};
use crate::function::{FunctionName, FunctionRecord, SettingsPatch, Version, VersionRequest};

type Shared = State<Arc<Api>>;
type Body<T> = Result<Json<T>, JsonRejection>;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// Who asks what a function is does not wait longer for its registry.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
pub struct Paging {
    after: Option<String>,
    limit: Option<usize>,
}

pub async fn list(State(api): Shared, Query(paging): Query<Paging>) -> Result<Json<Functions>, ApiError> {
    let after = paging.after.map(|name| name.parse::<FunctionName>()).transpose()?;
    let limit = paging.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let page = api.store.list(after.as_ref(), limit).await?;
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

pub async fn describe(State(api): Shared, Path(name): Path<String>) -> Result<Json<Described>, ApiError> {
    let name: FunctionName = name.parse()?;
    let record = api.changes.get(&name).await?.record;
    let version = current(&record)?;
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
        last_death: api.replicas.last_death(&name).map(|death| Death {
            time: death.time.to_string(),
            replica: death.replica,
            version: death.version,
            cause: death.cause,
        }),
        name,
    }))
}

pub async fn attached(State(api): Shared, Path(name): Path<String>) -> Result<Json<Attachments>, ApiError> {
    const STEP: &str = "list what is attached to the image";
    let record = api.changes.get(&name.parse()?).await?.record;
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

pub async fn versions(State(api): Shared, Path(name): Path<String>) -> Result<Json<Versions>, ApiError> {
    let record = api.changes.get(&name.parse()?).await?.record;
    Ok(Json(Versions { name: record.name, current: record.current, versions: record.versions }))
}

pub async fn push(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body<VersionRequest>,
) -> Result<Response, ApiError> {
    let (name, Json(request)) = (name.parse()?, body?);
    detached(async move { Ok(api.pushed(&api.changes.push(&name, &request).await?)) }).await
}

pub async fn roll_back(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body<Selected>,
) -> Result<Response, ApiError> {
    let (name, Json(selected)) = (name.parse()?, body?);
    detached(async move { Ok(api.pushed(&api.changes.roll_back(&name, selected.version).await?)) }).await
}

pub async fn divide(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body<Split>,
) -> Result<Response, ApiError> {
    let (name, Json(wanted)) = (name.parse()?, body?);
    detached(async move {
        let FunctionRecord { name, current, split, .. } =
            api.changes.divide(&name, &wanted.split).await?.record;
        Ok(Json(Divided { name, current, split }).into_response())
    })
    .await
}

pub async fn configure(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body<SettingsPatch>,
) -> Result<Response, ApiError> {
    let (name, Json(patch)) = (name.parse()?, body?);
    detached(async move { Ok(api.pushed(&api.changes.configure(&name, &patch).await?)) }).await
}

pub async fn scale(
    State(api): Shared,
    Path(name): Path<String>,
    body: Body<Scale>,
) -> Result<Response, ApiError> {
    let (name, Json(scale)) = (name.parse()?, body?);
    detached(async move { Ok(api.pushed(&api.changes.scale(&name, scale.replicas).await?)) }).await
}

#[derive(Deserialize)]
pub struct Deletion {
    #[serde(default)]
    images: bool,
}

pub async fn delete(
    State(api): Shared,
    Path(name): Path<String>,
    Query(deletion): Query<Deletion>,
) -> Result<Response, ApiError> {
    let name: FunctionName = name.parse()?;
    detached(async move {
        let kept = api.changes.delete(&name, deletion.images).await?;
        Ok(Json(Deleted { name, kept }).into_response())
    })
    .await
}

pub async fn nothing(method: Method, uri: Uri) -> ApiError {
    ApiError::NoPath { method, path: uri.path().chars().take(300).collect() }
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
