//! What a person does with calls: look at them, have them made again, drop them. And what time does with dead letters.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Queue;
use super::call::{Call, Number, Progress, now, told};
use super::error::QueueError;
use super::index::{Entry, State};
use super::rule;
use crate::function::FunctionName;

/// Which calls.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    pub function: Option<FunctionName>,
    /// As [`CallSummary::state`] has it.
    pub state: Option<String>,
}

/// Some calls, in the order in which they came in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallPage {
    pub calls: Vec<CallSummary>,
    /// The value for `after` that gives the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallSummary {
    pub id: String,
    /// The function, and its version where the call names one.
    pub function: String,
    /// `waiting`, `running`, `answered` (the answer is on its way to the callback) or `dead`.
    pub state: String,
    /// RFC 3339, UTC.
    pub accepted: String,
    /// How often the function was reached.
    pub attempts: u32,
    /// How often it was not, because the platform could not have it begin.
    pub deferrals: u32,
    /// When it is made next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// What came of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reason: Option<String>,
    /// The schedule that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Of the body.
    pub bytes: u64,
}

/// A call with what it is made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallDetail {
    #[serde(flatten)]
    pub summary: CallSummary,
    pub method: String,
    /// As the function sees it.
    pub path: String,
    /// Credentials are kept back.
    pub headers: Vec<(String, String)>,
    pub body: CallBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// The beginning of the last answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_answer: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum CallBody {
    Text(String),
    Base64(String),
}

impl Queue {
    /// At most `limit` calls that came in after the one with the number `after`.
    pub fn list(&self, filter: &Filter, after: Option<Number>, limit: usize) -> Result<CallPage, QueueError> {
        let wanted = |entry: &Entry| {
            filter.function.as_ref().is_none_or(|name| *name == entry.function)
                && filter.state.as_ref().is_none_or(|state| state == word(entry.state))
        };
        let mut found: Vec<(Number, State)> = {
            let index = self.index();
            let matching = index.after(after).filter(|(_, entry)| wanted(entry));
            matching.map(|(number, entry)| (number, entry.state)).take(limit + 1).collect()
        };
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(number, _)| *number);
        let mut calls = Vec::new();
        for (number, state) in found {
            // One that ended meanwhile is no longer there.
            if let Some((call, progress)) = self.disk.head(number)? {
                calls.push(summary(&call, &progress, state));
            }
        }
        Ok(CallPage { calls, next })
    }

    /// How many calls there are of each state, as [`CallSummary::state`] has them, and their bytes.
    pub fn census(&self) -> ([(&'static str, u64); 4], u64) {
        let mut counts = [("waiting", 0), ("running", 0), ("answered", 0), ("dead", 0)];
        let index = self.index();
        for (_, entry) in index.after(None) {
            let of = counts.iter_mut().find(|(state, _)| *state == word(entry.state));
            if let Some((_, count)) = of {
                *count += 1;
            }
        }
        (counts, index.bytes())
    }

    pub async fn show(&self, id: &str) -> Result<CallDetail, QueueError> {
        let missing = || QueueError::NoCall { id: id.into() };
        let (number, state) = self.find(id)?;
        let kept = self.disk.read(number).await?.ok_or_else(missing)?;
        let body = match String::from_utf8(kept.body.to_vec()) {
            Ok(text) => CallBody::Text(text),
            Err(_) => CallBody::Base64(BASE64.encode(&kept.body)),
        };
        Ok(CallDetail {
            summary: summary(&kept.call, &kept.progress, state),
            method: kept.call.method.to_string(),
            path: kept.call.path.to_string(),
            headers: kept.call.headers.shown(),
            body,
            callback: kept.call.callback,
            last_answer: kept.progress.last.map(|last| last.answer).unwrap_or_default(),
        })
    }

    /// Has a call made now, as if it had just come in. One that is being made is left alone.
    pub async fn retry(&self, id: &str) -> Result<CallSummary, QueueError> {
        let (number, state) = self.find(id)?;
        let (call, before) = self.disk.head(number)?.ok_or_else(|| QueueError::NoCall { id: id.into() })?;
        if !matches!(state, State::Dead { .. } | State::Waiting { .. }) {
            return Ok(summary(&call, &before, state));
        }
        let progress = Progress { last: before.last, ..Progress::begun(now()) };
        self.disk.note(number, &progress)?;
        self.disk.flush().await?;
        let state = State::Waiting { due: progress.due };
        self.index().set(number, state);
        self.wake.notify_one();
        Ok(summary(&call, &progress, state))
    }

    /// Drops a call for good: when this returns, no power cut brings it back. One that is being made is made to its end,
    /// and not again.
    pub async fn discard(&self, id: &str) -> Result<(), QueueError> {
        let (number, _) = self.find(id)?;
        self.forget(number);
        self.wake.notify_one();
        self.disk.flush().await
    }

    fn find(&self, id: &str) -> Result<(Number, State), QueueError> {
        let index = self.index();
        let found = index.number(id).and_then(|number| Some((number, index.get(number)?.state)));
        found.ok_or_else(|| QueueError::NoCall { id: id.chars().take(200).collect() })
    }
}

/// Throws dead letters away that are old, and the oldest where they take more than half of what a queue may hold: they must
/// not keep calls out.
pub fn bury_old(queue: &Queue) {
    let mut excess = queue.index().dead_bytes().saturating_sub(queue.bytes / 2);
    let oldest = now().saturating_sub(rule::millis(queue.keep_dead));
    let mut goes = |(number, entry): (Number, &Entry)| {
        let State::Dead { since } = entry.state else { return None };
        if excess == 0 && since >= oldest {
            return None;
        }
        excess = excess.saturating_sub(entry.bytes);
        Some(number)
    };
    let going: Vec<Number> = queue.index().after(None).filter_map(&mut goes).collect();
    for number in going {
        tracing::warn!(number, "a dead letter is thrown away: it is old, or there are too many");
        queue.forget(number);
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Arriving | State::Waiting { .. } => "waiting",
        State::Running => "running",
        State::Answered => "answered",
        State::Dead { .. } => "dead",
    }
}

fn summary(call: &Call, progress: &Progress, state: State) -> CallSummary {
    let due = matches!(state, State::Waiting { .. }).then(|| told(progress.due));
    CallSummary {
        id: call.id.clone(),
        function: call.target.to_string(),
        state: word(state).into(),
        accepted: told(call.accepted),
        attempts: progress.attempts,
        deferrals: progress.deferrals,
        due,
        last_status: progress.last.as_ref().and_then(|last| last.status),
        last_reason: progress.last.as_ref().map(|last| last.reason.clone()),
        schedule: call.schedule.clone(),
        bytes: call.length,
    }
}
