//! What a function printed, as lines of JSON that end with the logs, or never when they are followed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header;
use serde::Deserialize;

use super::{Api, ApiError, LogLine};
use crate::function::FunctionName;
use crate::replica::LogQuery;

#[derive(Deserialize)]
pub struct Which {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
    /// RFC 3339, or how many seconds ago.
    since: Option<String>,
}

pub async fn logs(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response, ApiError> {
    let name: FunctionName = name.parse()?;
    api.changes.get(&name).await?;
    let since = which.since.as_deref().map(since).transpose()?;
    let lines = api.replicas.logs(&name, LogQuery { tail: which.tail, since, follow: which.follow });
    let lines = futures_util::stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?.map_err(std::io::Error::other).and_then(|line| json(&line));
        Some((line, lines))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn since(text: &str) -> Result<jiff::Timestamp, ApiError> {
    let ago = || {
        let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
        jiff::Timestamp::now().checked_sub(seconds).ok()
    };
    let refused =
        || ApiError::Request { what: format!("{text:?} is neither a time nor a number of seconds") };
    text.parse().ok().or_else(ago).ok_or_else(refused)
}

fn json(line: &crate::replica::LogLine) -> std::io::Result<Bytes> {
    let line = LogLine {
        time: line.time.to_string(),
        version: line.version,
        replica: line.replica.clone(),
        stream: line.stream.clone(),
        call: line.call.clone(),
        text: line.text.clone(),
    };
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}
