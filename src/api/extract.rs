//! What handlers take of a request: as axum's extractors of the same names, but what cannot be read is told as everything
//! else is, in JSON.

use std::str::FromStr;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ApiError;

/// The one parameter in a path.
pub struct Path<T>(pub T);

impl<S, T> FromRequestParts<S> for Path<T>
where
    S: Send + Sync,
    T: FromStr,
    ApiError: From<T::Err>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let refused = |error: axum::extract::rejection::PathRejection| ApiError::Request {
            what: format!("the path cannot be read: {}", error.body_text()),
        };
        let axum::extract::Path(text) = text.map_err(refused)?;
        Ok(Self(text.parse()?))
    }
}

/// The query.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        let refused = |error: axum::extract::rejection::QueryRejection| ApiError::Request {
            what: format!("the query cannot be read: {}", error.body_text()),
        };
        query.map(|axum::extract::Query(query)| Self(query)).map_err(refused)
    }
}

/// A body of JSON that says that it is, and an answer.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(head.clone(), body), state).await?;
        let is_object = is_object(&bytes);
        match axum::Json::from_request(Request::from_parts(head, bytes.into()), state).await {
            Err(untyped @ JsonRejection::MissingJsonContentType(_)) => Err(untyped.into()),
            _ if !is_object => {
                Err(ApiError::Request { what: format!("the body cannot be read: {NO_OBJECT}") })
            }
            read => Ok(Self(read?.0)),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// A body of JSON, whatever type it claims: OpenFaaS's clients name none.
pub struct Untyped<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Untyped<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await?;
        let refused = |error| ApiError::Request { what: format!("the body cannot be read: {error}") };
        object(&bytes).map(Self).map_err(refused)
    }
}

const NO_OBJECT: &str = "expected a JSON object";

/// Whether it begins as one; what is empty is for the reader to complain of.
fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first().is_none_or(|first| *first == b'{')
}

/// Reads JSON that is to be an object. serde would take a list for one, its members in order, and speak of types of ours.
fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if is_object(body) { serde_json::from_slice(body) } else { Err(serde::de::Error::custom(NO_OBJECT)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SecretNamed;

    #[test]
    fn only_an_object_is_taken_for_one() {
        assert_eq!(object::<SecretNamed>(b" {\"name\": \"db\"}").unwrap().name.as_str(), "db");
        for body in ["[]", "[\"db\"]", "\"db\"", "null", "1"] {
            let told = object::<SecretNamed>(body.as_bytes()).unwrap_err().to_string();
            assert_eq!(told, "expected a JSON object", "{body}");
        }
        assert!(object::<SecretNamed>(b"").unwrap_err().is_eof());
    }
}
