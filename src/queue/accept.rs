//! `/async-function/NAME[/rest]`: takes a call in, and answers 202 when it is on the disk.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::Queue;
use super::call::{Call, Headers, now};
use super::error::QueueError;
use crate::function::Target;
use crate::gateway::{self, Doorkeeper};

const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
const CALLBACK: HeaderName = HeaderName::from_static("x-callback-url");
const WHOSE: HeaderName = HeaderName::from_static("x-fnbuild-error");
/// Headers are kept in memory when a call is read; servers and functions take no more either.
const LARGEST_HEAD: usize = 64 << 10;

impl Queue {
    /// Answers one request. Every way this can go wrong is an answer too.
    /// `door`: who knows tokens.
    pub async fn accept(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        door: &dyn Doorkeeper,
    ) -> Response<Full<Bytes>> {
        let asked = gateway::call_id(request.headers());
        let (mut response, id) = match self.take_in(request, peer, &asked, door).await {
            Ok(id) => (accepted(), HeaderValue::try_from(id).unwrap_or(asked)),
            Err(error) => (refused(&error, &asked), asked),
        };
        response.headers_mut().insert(CALL_ID, id);
        response
    }

    async fn take_in(
        &self,
        mut request: Request<Incoming>,
        peer: IpAddr,
        id: &HeaderValue,
        door: &dyn Doorkeeper,
    ) -> Result<String, QueueError> {
        let Some((target, rest)) = gateway::route_later(request.uri()) else {
            return Err(QueueError::NoPath { path: request.uri().path().chars().take(300).collect() });
        };
        if request.method() == Method::CONNECT {
            return Err(QueueError::Method { method: Method::CONNECT });
        }
        let limit = self.request_body;
        if request.body().size_hint().lower() > limit {
            return Err(QueueError::TooLarge { limit });
        }
        self.admit(&target, request.headers_mut(), peer, door).await?;
        // Before a body is read for nothing.
        self.room_for(&target).await?;
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        let callback = headers.remove(CALLBACK);
        let callback = callback.map(|url| self.callback(&url)).transpose()?;
        gateway::forward(&mut headers, peer, id);
        // It is said anew when the call is made.
        headers.remove(CONTENT_LENGTH);
        if size(&headers) > LARGEST_HEAD {
            return Err(QueueError::HeadTooLarge { limit: LARGEST_HEAD });
        }
        let read = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect().await;
        let body = read.map_err(|error| match error.is::<LengthLimitError>() {
            true => QueueError::TooLarge { limit },
            false => QueueError::Body,
        });
        let body = body?.to_bytes();
        let call = Call {
            id: id.to_str().unwrap_or_default().into(),
            target,
            method: parts.method,
            path: rest,
            headers: Headers::from(&headers),
            callback,
            accepted: now(),
            length: body.len() as u64,
            schedule: None,
        };
        self.enqueue(call, body).await
    }

    /// Lets in who has shown a token, where the function wants one; it is not kept, and no function gets to see it.
    async fn admit(
        &self,
        target: &Target,
        headers: &mut HeaderMap,
        peer: IpAddr,
        door: &dyn Doorkeeper,
    ) -> Result<(), QueueError> {
        let authorization = headers.get(AUTHORIZATION).cloned();
        if headers.get_all(AUTHORIZATION).iter().any(|value| door.is_own(value)) {
            headers.remove(AUTHORIZATION);
        }
        let record = self.store.get(&target.name).await?.map(|stored| stored.record);
        if !record.is_some_and(|record| record.require_token) {
            return Ok(());
        }
        door.admit(authorization.as_ref(), peer).await.map_err(QueueError::NotAdmitted)
    }

    fn callback(&self, url: &HeaderValue) -> Result<String, QueueError> {
        let text = String::from_utf8_lossy(url.as_bytes()).into_owned();
        self.callbacks.check(&text).map(String::from)
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

fn accepted() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

fn refused(error: &QueueError, id: &HeaderValue) -> Response<Full<Bytes>> {
    let (status, kind) = error.describe();
    if status.is_server_error() {
        tracing::warn!(error = error as &dyn std::error::Error, call = ?id, "an asynchronous call is not taken");
    }
    let problem = serde_json::json!({
        "errorType": kind,
        "errorMessage": error.to_string(),
        "requestId": id.to_str().unwrap_or_default(),
        "hint": error.hint(),
    });
    let mut response = Response::new(Full::from(problem.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(WHOSE, HeaderValue::from_static("platform"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fnbuild\""));
    }
    if let Some(seconds) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
