//! `GET /v1/live`: what functions do, as server-sent events, for as long as somebody listens.
//!
//! `history` comes first: the last minutes. Then `sample` comes every second, and `change` whenever a record has changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::Event;
use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::description::Reads;
use super::extract::Query;
use super::{Api, ApiError};
use crate::function::FunctionName;
use crate::replica::{INTERVAL, KEPT, Sample};
use crate::store::Change;

/// More functions than these, those with the most calls, are not told of at once.
const SHOWN: usize = 100;
/// Events on their way to who is slow to take them; what does not fit is left out.
const BACKLOG: usize = 8;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only this function.
    name: Option<FunctionName>,
}

/// `history`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct History {
    /// Milliseconds between two samples.
    interval: u64,
    /// The most samples that there are of a function.
    kept: usize,
    /// Oldest first, up to now. A function without any does nothing.
    functions: BTreeMap<FunctionName, Vec<Sample>>,
}

/// `sample`.
#[derive(Serialize)]
struct Now {
    functions: BTreeMap<FunctionName, Sample>,
}

/// `change`. Without a name any record may have changed.
#[derive(Serialize)]
struct Changed {
    name: Option<FunctionName>,
}

/// What functions do, for as long as somebody listens: `history`, then `sample` each second, and `change`.
#[utoipa::path(
    get, path = "/v1/live", params(Which), responses((status = 200, body = String, content_type = "text/event-stream"), Reads)
)]
pub async fn live(
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let mut changes = api.store.watch().await?;
    let mut news = api.replicas.series().news();
    let (sender, events) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        let mut next = event("history", &api.history(which.name.as_ref()));
        loop {
            if let Some(event) = next
                && sender.send(event).await.is_err()
            {
                return;
            }
            next = tokio::select! {
                told = news.changed() => match told {
                    Ok(()) => event_of_now(&api, which.name.as_ref()),
                    Err(_) => return,
                },
                change = changes.next() => match change {
                    Some(change) => event_of(change),
                    None => return,
                },
                () = sender.closed() => return,
                // A server that stops must not wait for who only looks on.
                () = api.stopping.cancelled() => return,
            };
        }
    });
    Ok(Sse::new(ReceiverStream::new(events).map(Ok)))
}

fn event_of_now(api: &Api, only: Option<&FunctionName>) -> Option<Event> {
    let last = api.samples(1, only).into_iter();
    let functions = last.filter_map(|(name, samples)| Some((name, *samples.last()?))).collect();
    event("sample", &Now { functions })
}

fn event(kind: &str, data: &impl Serialize) -> Option<Event> {
    Event::default().event(kind).json_data(data).ok()
}

fn event_of(change: Change) -> Option<Event> {
    let name = match change {
        Change::Written(stored) => Some(stored.record.name),
        Change::Deleted { name, .. } => Some(name),
        Change::Missed => None,
        Change::Coming { .. } => return None,
    };
    event("change", &Changed { name })
}

impl Api {
    fn history(&self, only: Option<&FunctionName>) -> History {
        let functions = self.samples(KEPT, only);
        let interval = u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX);
        History { interval, kept: KEPT, functions: functions.into_iter().collect() }
    }

    fn samples(&self, count: usize, only: Option<&FunctionName>) -> Vec<(FunctionName, Vec<Sample>)> {
        let mut all = self.replicas.series().last(count);
        all.retain(|(name, _)| only.is_none_or(|only| only == name));
        if all.len() > SHOWN {
            let calls =
                |samples: &[Sample]| samples.iter().map(|sample| u64::from(sample.calls)).sum::<u64>();
            all.sort_by_cached_key(|(_, samples)| std::cmp::Reverse(calls(samples)));
            all.truncate(SHOWN);
        }
        all
    }
}
