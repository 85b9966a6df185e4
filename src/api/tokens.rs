//! `/v1/tokens`: made, listed, revoked. A token itself is in one answer only, that to whoever made it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Api, ApiError};
use crate::auth::{Role, TokenInfo, TokenName};

type Shared = State<Arc<Api>>;

/// `POST /v1/tokens`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenWanted {
    pub name: TokenName,
    pub role: Role,
}

/// What `POST /v1/tokens` came to.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenMade {
    pub name: TokenName,
    pub role: Role,
    pub token: String,
}

/// What `DELETE /v1/tokens/NAME` came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TokenRevoked {
    pub name: TokenName,
}

pub async fn list(State(api): Shared) -> Result<Json<Vec<TokenInfo>>, ApiError> {
    Ok(Json(api.tokens.list().await?))
}

pub async fn create(
    State(api): Shared,
    body: Result<Json<TokenWanted>, JsonRejection>,
) -> Result<(StatusCode, Json<TokenMade>), ApiError> {
    let Json(TokenWanted { name, role }) = body?;
    let token = api.tokens.create(&name, role).await?;
    Ok((StatusCode::CREATED, Json(TokenMade { name, role, token: token.reveal().into() })))
}

pub async fn revoke(State(api): Shared, Path(name): Path<String>) -> Result<Json<TokenRevoked>, ApiError> {
    let name: TokenName = name.parse()?;
    api.tokens.revoke(&name).await?;
    Ok(Json(TokenRevoked { name }))
}
