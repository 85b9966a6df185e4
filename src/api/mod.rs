//! The management REST API under `/v1`, and the health pages. It parses, asks a room, and answers; it decides nothing
//! about images or containers.

mod answers;
mod calls;
mod change;
mod doctor;
mod error;
mod exec;
mod functions;
mod guard;
mod health;
mod live;
mod logs;
mod metrics;
mod nodes;
mod openfaas;
mod page;
mod schedules;
pub mod secrets;
mod tokens;
mod unfinished;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};

use crate::auth::Tokens;
use crate::cluster::Cluster;
use crate::publish::{Published, Workshop};
use crate::queue::{Queue, Schedules};
use crate::replica::Replicas;
use crate::secrets::Secrets;
use crate::store::FunctionStore;
use crate::telemetry::Figures;

pub use answers::{
    Attached, Attachments, Death, Deleted, Described, Divided, Examined, Finding, Functions, LogLine,
    Problem, Pushed, Removed, ReplicaState, Scale, ScheduleList, Selected, Split, Status, Summary, Versions,
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
    /// Set when the server begins to stop.
    pub stopping: AtomicBool,
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
    let secrets = secrets::routes(Arc::clone(&api.secrets));
    Router::new()
        .route("/v1/status", get(health::status))
        .route("/v1/doctor", post(doctor::examine))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/live", get(live::live))
        .route("/v1/functions", get(functions::list))
        .route("/v1/functions/{name}", get(functions::describe).put(upload::upload).delete(functions::delete))
        .route("/v1/functions/{name}/attached", get(functions::attached))
        .route("/v1/functions/{name}/versions", get(functions::versions).post(functions::push))
        .route("/v1/functions/{name}/rollback", post(functions::roll_back))
        .route("/v1/functions/{name}/route", post(functions::divide))
        .route("/v1/functions/{name}/config", post(functions::configure))
        .route("/v1/functions/{name}/scale", post(functions::scale))
        .route("/v1/functions/{name}/logs", get(logs::logs))
        .route("/v1/functions/{name}/exec", post(exec::exec))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{name}", delete(tokens::revoke))
        .merge(calls::routes())
        .merge(schedules::routes())
        .merge(openfaas::routes())
        .fallback(functions::nothing)
        .layer(DefaultBodyLimit::max(LARGEST_JSON))
        .with_state(api)
        .merge(secrets)
}

/// The pages that say whether the server lives and whether it can serve; harmless on any listener.
pub fn health(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(functions::nothing)
        .with_state(api)
}
