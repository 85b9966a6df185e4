//! `/system/secrets`, with OpenFaaS's bodies, so that its command line and client libraries work. No answer holds a
//! value.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Problem;
use crate::secrets::{LARGEST_SECRET, SecretError, SecretName, Secrets};
use crate::store::StoreError;

/// A value in base64, its name, and some JSON around them.
const LARGEST_BODY: usize = LARGEST_SECRET / 3 * 4 + 4096;

/// `GET` answers a list of these; `DELETE` takes one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SecretNamed {
    pub name: SecretName,
}

/// `POST` and `PUT`: the value as text, or as any bytes in base64.
#[derive(Clone, Serialize, Deserialize)]
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
pub fn routes(secrets: Arc<Secrets>) -> Router {
    Router::new()
        .route("/system/secrets", get(list).post(create).put(replace).delete(delete))
        .layer(axum::extract::DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(secrets)
}

async fn list(State(secrets): State<Arc<Secrets>>) -> Result<Response, Refusal> {
    let names = secrets.list().await?;
    let named: Vec<_> = names.into_iter().map(|name| SecretNamed { name }).collect();
    Ok(Json(named).into_response())
}

async fn create(State(secrets): State<Arc<Secrets>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let written: SecretWritten = read(&body)?;
    let value = written.bytes().ok_or(Refusal::NoValue)?;
    secrets.create(&written.name, &value).await?;
    Ok(StatusCode::CREATED)
}

async fn replace(State(secrets): State<Arc<Secrets>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let written: SecretWritten = read(&body)?;
    let value = written.bytes().ok_or(Refusal::NoValue)?;
    secrets.replace(&written.name, &value).await?;
    Ok(StatusCode::OK)
}

async fn delete(State(secrets): State<Arc<Secrets>>, body: Bytes) -> Result<StatusCode, Refusal> {
    let named: SecretNamed = read(&body)?;
    secrets.delete(&named.name).await?;
    Ok(StatusCode::OK)
}

/// Whatever type the body claims: OpenFaaS's clients name none.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(Refusal::Body)
}

enum Refusal {
    Body(serde_json::Error),
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
            Self::Body(_) => (StatusCode::BAD_REQUEST, "InvalidRequest"),
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
            Self::Body(error) => (format!("the body cannot be read: {error}"), None),
            Self::NoValue => ("neither a value nor a rawValue in base64 is given".into(), None),
            Self::Secret(error) => (error.to_string(), error.hint()),
        };
        let request_id = format!("{:016x}", getrandom::u64().unwrap_or_default());
        let problem = Problem { error_type: error_type.into(), error_message, request_id, hint };
        (status, Json(problem)).into_response()
    }
}
