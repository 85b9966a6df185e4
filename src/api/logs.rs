//! What a function printed, as lines of JSON that end with the logs, or never when they are followed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::description::ReadsOne;
use super::extract::{Path, Query};
use super::{Api, ApiError, LogLine};
use crate::function::FunctionName;
use crate::replica::{self, LogQuery};

/// Between two looks whether a function whose log is followed is still there.
const GONE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Goes on with what is printed from here on.
    #[serde(default)]
    follow: bool,
    /// No more of the lines that are there.
    #[param(minimum = 0)]
    tail: Option<usize>,
    /// RFC 3339, or how many seconds ago.
    since: Option<String>,
}

/// What a function printed: a `LogLine` a line.
#[utoipa::path(
    get, path = "/v1/functions/{name}/logs", params(FunctionName, Which),
    responses((status = 200, body = String, content_type = "application/x-ndjson"), ReadsOne)
)]
pub async fn logs(
    State(api): State<Arc<Api>>,
    Path(name): Path<FunctionName>,
    Query(which): Query<Which>,
) -> Result<Response, ApiError> {
    api.changes.get(&name).await?;
    let since = which.since.as_deref().map(since).transpose()?;
    let lines = api.replicas.logs(&name, LogQuery { tail: which.tail, since, follow: which.follow });
    let lines = ndjson(lines, |line| Some(json(line)));
    Ok(api.log(lines, which.follow.then_some(name)))
}

impl Api {
    /// Lines as an answer. Those that are `followed` end with their function, and with the server, which waits for nobody
    /// who reads on.
    pub(super) fn log(
        self: &Arc<Self>,
        lines: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        followed: Option<FunctionName>,
    ) -> Response {
        let api = Arc::clone(self);
        let end = async move {
            let Some(name) = followed else { return std::future::pending().await };
            api.stopping.run_until_cancelled(api.is_gone(&name)).await;
        };
        let lines = Body::from_stream(lines.take_until(end));
        ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
    }

    /// Ends when there is no such function any more.
    async fn is_gone(&self, name: &FunctionName) {
        while !matches!(self.changes.get(name).await, Err(ApiError::NoFunction { .. })) {
            tokio::time::sleep(GONE_PAUSE).await;
        }
    }
}

/// Each line as `json` has it; none where that gives none.
pub fn ndjson(
    lines: mpsc::Receiver<Result<replica::LogLine, replica::Error>>,
    json: impl Fn(&replica::LogLine) -> Option<serde_json::Result<Vec<u8>>> + Send + 'static,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let written = move |line: Result<replica::LogLine, replica::Error>| {
        let line = match line {
            Ok(line) => json(&line)?,
            Err(error) => return Some(Err(std::io::Error::other(error))),
        };
        let ended = |mut bytes: Vec<u8>| {
            bytes.push(b'\n');
            Bytes::from(bytes)
        };
        Some(line.map(ended).map_err(std::io::Error::other))
    };
    ReceiverStream::new(lines).filter_map(move |line| std::future::ready(written(line)))
}

/// RFC 3339, or how many seconds ago.
pub fn since(text: &str) -> Result<jiff::Timestamp, ApiError> {
    let ago = || {
        let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
        jiff::Timestamp::now().checked_sub(seconds).ok()
    };
    let refused =
        || ApiError::Request { what: format!("{text:?} is neither a time nor a number of seconds") };
    text.parse().ok().or_else(ago).ok_or_else(refused)
}

fn json(line: &replica::LogLine) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&LogLine {
        time: line.time.to_string(),
        version: line.version,
        replica: line.replica.clone(),
        stream: line.stream.clone(),
        call: line.call.clone(),
        text: line.text.clone(),
    })
}
