//! `/system/secrets`, with OpenFaaS's bodies, so that its command line and client libraries work. No answer holds a
//! value.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Problem;
use super::description::Keeps;
use super::extract::{Json, Untyped};
use crate::secrets::{LARGEST_SECRET, SecretError, SecretName, Secrets};
use crate::store::StoreError;

/// A value in base64, its name, and some JSON around them.
const LARGEST_BODY: usize = LARGEST_SECRET / 3 * 4 + 4096;

/// `GET` answers a list of these; `DELETE` takes one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct SecretNamed {
    pub name: SecretName,
}

/// `POST` and `PUT`: the value as text, or as any bytes in base64.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretWritten {
    name: SecretName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_value: Option<String>,
}

impl SecretWritten {
    pub fn new(name: SecretName, value: &[u8]) -> Self {
        Self { name, value: None, raw_value: Some(BASE64.encode(value)) }
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.value, &self.raw_value) {
            (_, Some(raw)) => BASE64.decode(raw).ok(),
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, None) => None,
        }
    }
}

impl fmt::Debug for SecretWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretWritten").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The routes, to be merged with the others.
pub fn routes(secrets: Arc<Secrets>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list, create, replace, delete))
        .layer(axum::extract::DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(secrets)
}

/// The names of all secrets.
#[utoipa::path(
    get, path = "/system/secrets", operation_id = "secrets_list",
    responses((status = 200, body = Vec<SecretNamed>), Keeps)
)]
async fn list(State(secrets): State<Arc<Secrets>>) -> Result<Response, Refusal> {
    let names = secrets.list().await?;
    let named: Vec<_> = names.into_iter().map(|name| SecretNamed { name }).collect();
    Ok(Json(named).into_response())
}

/// Keeps a value.
#[utoipa::path(
    post, path = "/system/secrets", operation_id = "secrets_create", request_body = SecretWritten,
    responses((status = 201, description = "it is kept"), Keeps)
)]
async fn create(
    State(secrets): State<Arc<Secrets>>,
    Untyped(written): Untyped<SecretWritten>,
) -> Result<StatusCode, Refusal> {
    let value = written.bytes().ok_or(Refusal::NoValue)?;
    secrets.create(&written.name, &value).await?;
    Ok(StatusCode::CREATED)
}

/// Keeps another value.
#[utoipa::path(
    put, path = "/system/secrets", operation_id = "secrets_replace", request_body = SecretWritten,
    responses((status = 200, description = "it is kept"), Keeps)
)]
async fn replace(
    State(secrets): State<Arc<Secrets>>,
    Untyped(written): Untyped<SecretWritten>,
) -> Result<StatusCode, Refusal> {
    let value = written.bytes().ok_or(Refusal::NoValue)?;
    secrets.replace(&written.name, &value).await?;
    Ok(StatusCode::OK)
}

/// Forgets a value.
#[utoipa::path(
    delete, path = "/system/secrets", operation_id = "secrets_delete", request_body = SecretNamed,
    responses((status = 200, description = "it is gone"), Keeps)
)]
async fn delete(
    State(secrets): State<Arc<Secrets>>,
    Untyped(named): Untyped<SecretNamed>,
) -> Result<StatusCode, Refusal> {
    secrets.delete(&named.name).await?;
    Ok(StatusCode::OK)
}

enum Refusal {
    NoValue,
    Secret(SecretError),
}

impl From<SecretError> for Refusal {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error_type) = match &self {
            Self::NoValue => (StatusCode::BAD_REQUEST, "NoValue"),
            Self::Secret(SecretError::NotFound { .. }) => (StatusCode::NOT_FOUND, "NotFound"),
            Self::Secret(SecretError::Exists { .. }) => (StatusCode::CONFLICT, "Conflict"),
            Self::Secret(SecretError::TooLarge { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, "TooLarge"),
            Self::Secret(SecretError::OtherKey { .. }) => (StatusCode::SERVICE_UNAVAILABLE, "OtherKey"),
            Self::Secret(SecretError::Store(StoreError::Away { .. } | StoreError::OtherStore { .. })) => {
                (StatusCode::SERVICE_UNAVAILABLE, "StoreAway")
            }
            Self::Secret(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Secret"),
        };
        let (error_message, hint) = match &self {
            Self::NoValue => ("neither a value nor a rawValue in base64 is given".into(), None),
            Self::Secret(error) => (error.to_string(), error.hint()),
        };
        let request_id = format!("{:016x}", getrandom::u64().unwrap_or_default());
        let problem = Problem { error_type: error_type.into(), error_message, request_id, hint };
        (status, [("x-fnbuild-error", "platform")], Json(problem)).into_response()
    }
}
