//! `/v1/tokens`: made, listed, revoked. A token itself is in one answer only, that to whoever made it.

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::description::{KeepsTokens, Reads};
use super::extract::{Json, Path};
use super::{Api, ApiError};
use crate::auth::{Role, TokenInfo, TokenName};

type Shared = State<Arc<Api>>;

/// `POST /v1/tokens`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWanted {
    pub name: TokenName,
    pub role: Role,
}

/// What `POST /v1/tokens` came to.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenMade {
    pub name: TokenName,
    pub role: Role,
    pub token: String,
}

/// What `DELETE /v1/tokens/NAME` came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenRevoked {
    pub name: TokenName,
}

/// All tokens by their names; none of the tokens themselves.
#[utoipa::path(
    get, path = "/v1/tokens", operation_id = "tokens_list", responses((status = 200, body = Vec<TokenInfo>), Reads)
)]
pub async fn list(State(api): Shared) -> Result<Json<Vec<TokenInfo>>, ApiError> {
    Ok(Json(api.tokens.list().await?))
}

/// Makes a token, and tells it this once.
#[utoipa::path(
    post, path = "/v1/tokens", operation_id = "tokens_create", responses((status = 201, body = TokenMade), KeepsTokens)
)]
pub async fn create(
    State(api): Shared,
    Json(wanted): Json<TokenWanted>,
) -> Result<(StatusCode, Json<TokenMade>), ApiError> {
    let TokenWanted { name, role } = wanted;
    let token = api.tokens.create(&name, role).await?;
    Ok((StatusCode::CREATED, Json(TokenMade { name, role, token: token.reveal().into() })))
}

/// From here on it lets nobody in.
#[utoipa::path(
    delete, path = "/v1/tokens/{name}", params(TokenName), operation_id = "tokens_revoke",
    responses((status = 200, body = TokenRevoked), KeepsTokens)
)]
pub async fn revoke(State(api): Shared, Path(name): Path<TokenName>) -> Result<Json<TokenRevoked>, ApiError> {
    api.tokens.revoke(&name).await?;
    Ok(Json(TokenRevoked { name }))
}
