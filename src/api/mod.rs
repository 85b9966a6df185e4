//! The management REST API under `/v1`, and the health pages. It parses, asks a room, and answers; it decides nothing
//! about images or containers.

mod answers;
mod calls;
mod change;
mod description;
mod doctor;
mod error;
mod exec;
mod extract;
mod functions;
mod guard;
mod health;
mod live;
mod logs;
mod metrics;
mod nodes;
mod openfaas;
mod page;
mod removal;
mod schedules;
pub mod secrets;
mod tokens;
mod unfinished;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use bytes::Bytes;
use http::header;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Tokens;
use crate::cluster::Cluster;
use crate::publish::{Published, Workshop};
use crate::queue::{Queue, Schedules};
use crate::replica::Replicas;
use crate::secrets::Secrets;
use crate::store::FunctionStore;
use crate::telemetry::Figures;

pub use answers::{
    Attached, Attachments, Death, Deleted, Described, Divided, Examined, FailedStart, Finding, Functions,
    LogLine, Problem, Pushed, Removed, ReplicaState, Scale, ScheduleList, Selected, Split, Status, Summary,
    Versions,
};
pub use change::Changes;
pub use error::ApiError;
pub use exec::{Channel, EXEC_PROTOCOL, Frame, read_frame, write_frame};
pub use guard::{
    body_too_large, foreign, is_cross_origin, is_foreign, is_forwarded, name_in_body, names_in_body, need,
    refused,
};
pub use page::{is_page, page};
pub use secrets::{SecretNamed, SecretWritten};
pub use tokens::{TokenMade, TokenRevoked, TokenWanted};
pub use upload::{AUTHOR_HEADER, LOCK_HEADER, LONGEST_LIST, REQUIREMENTS_HEADER, SETTINGS_HEADER};

/// No JSON that the API takes is longer.
const LARGEST_JSON: usize = 1 << 20;

/// What the API answers from.
pub struct Api {
    pub changes: Changes,
    pub store: Arc<dyn FunctionStore>,
    pub secrets: Arc<Secrets>,
    pub tokens: Tokens,
    pub replicas: Arc<Replicas>,
    pub cluster: Arc<Cluster>,
    pub queue: Arc<Queue>,
    pub schedules: Schedules,
    pub published: Published,
    pub workshop: Workshop,
    pub figures: Arc<Figures>,
    /// What the embedded registry says of itself, in Prometheus' text form.
    pub registry_figures: Option<Box<dyn Fn() -> String + Send + Sync>>,
    pub about: About,
    /// Cancelled when the server begins to stop: streams without an end end then.
    pub stopping: CancellationToken,
}

/// What the API tells of the server.
#[derive(Clone, Debug)]
pub struct About {
    /// `http://HOST:PORT` of the trigger.
    pub url: String,
    /// The data folder's.
    pub id: String,
    pub namespace: String,
    pub host: String,
    /// Where uploads are kept while they are built.
    pub uploads: PathBuf,
}

/// The management paths.
pub fn management(api: Arc<Api>) -> Router {
    let described = OpenApiRouter::with_openapi(description::whole())
        .routes(routes!(health::status))
        .routes(routes!(doctor::examine))
        .routes(routes!(nodes::list))
        .routes(routes!(live::live))
        .routes(routes!(functions::list))
        .routes(routes!(functions::describe, upload::upload, functions::delete))
        .routes(routes!(functions::attached))
        .routes(routes!(functions::versions, functions::push))
        .routes(routes!(functions::roll_back))
        .routes(routes!(functions::divide))
        .routes(routes!(functions::configure))
        .routes(routes!(functions::scale))
        .routes(routes!(logs::logs))
        .routes(routes!(exec::exec))
        .routes(routes!(metrics::metrics))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .merge(calls::routes())
        .merge(schedules::routes())
        .merge(openfaas::routes())
        .layer(DefaultBodyLimit::max(LARGEST_JSON))
        .with_state(Arc::clone(&api))
        .merge(secrets::routes(Arc::clone(&api.secrets)));
    let (router, description) = described.split_for_parts();
    let description = Bytes::from(description::finish(description));
    let json = [(header::CONTENT_TYPE, "application/json")];
    router
        .route("/openapi.json", get(|| async move { (json, description) }))
        .method_not_allowed_fallback(functions::no_method)
        .fallback(functions::nothing)
}

/// The pages that say whether the server lives and whether it can serve; harmless on any listener.
pub fn health(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(functions::nothing)
        .with_state(api)
}
