//! What an attempt came to: the answer, read to its end, and as much of it as somebody still needs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;

use super::call::{Last, now};
use super::rule::Attempt;
use crate::gateway::{Delivered, Lease, Reached};

/// How much of an answer's text is kept for whoever looks at a call that failed.
const EXCERPT: usize = 2048;

pub struct Answer {
    pub reached: Reached,
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Its beginning, or all of it.
    pub body: Bytes,
    /// It was longer than what was asked for.
    pub cut: bool,
    /// Why it broke off.
    pub broken: Option<String>,
    pub took: Duration,
}

impl Answer {
    /// Reads an answer to its end, since the function is not done before. `most`: the bytes that are kept of it.
    pub async fn read<L: Lease>(delivered: Delivered<L>, most: usize, started: Instant) -> Self {
        let Delivered { reached, response } = delivered;
        let (parts, mut body) = response.into_parts();
        let (mut kept, mut cut, mut broken) = (Vec::new(), false, None);
        while let Some(frame) = body.frame().await {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => {
                    let room = most - kept.len();
                    cut |= data.len() > room;
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                }
                // Trailers are nobody's business here.
                Ok(Err(_)) => {}
                Err(error) => {
                    broken = Some(error.to_string());
                    break;
                }
            }
        }
        let took = started.elapsed();
        Self { reached, status: parts.status, headers: parts.headers, body: kept.into(), cut, broken, took }
    }

    /// What whoever is called back is told of a call that was not made any more.
    pub fn none(why: &str) -> Self {
        let problem = serde_json::json!({ "errorType": "TooOld", "errorMessage": why });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self {
            reached: Reached::NotYet,
            status: StatusCode::GATEWAY_TIMEOUT,
            headers,
            body: problem.to_string().into(),
            cut: false,
            broken: None,
            took: Duration::ZERO,
        }
    }

    /// What is kept of an answer that nobody waits for.
    pub const fn least() -> usize {
        EXCERPT
    }

    pub fn attempt(&self) -> Attempt {
        let seconds = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Attempt {
            reached: self.reached,
            status: self.status,
            broken: self.broken.is_some(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    /// For whoever asks what became of the call.
    pub fn last(&self) -> Last {
        let excerpt = &self.body[..self.body.len().min(EXCERPT)];
        let answer = match std::str::from_utf8(excerpt) {
            Ok(text) => text.to_string(),
            // Cut within a character, at most.
            Err(error) if error.error_len().is_none() => {
                String::from_utf8_lossy(&excerpt[..error.valid_up_to()]).into_owned()
            }
            Err(_) => String::new(),
        };
        let reason = match (&self.broken, self.reached) {
            (Some(why), _) => format!("the answer broke off: {why}"),
            (None, Reached::Function) => format!("answered {}", self.status),
            (None, _) => format!("not reached: {}", told(&self.body).unwrap_or(self.status.to_string())),
        };
        Last { at: now(), status: Some(self.status.as_u16()), reason, answer }
    }
}

/// The message of one of the gateway's own answers.
fn told(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(problem.get("errorMessage")?.as_str()?.to_string())
}
