//! Schedules: records of their own in the store that all nodes share, one value for each.
//!
//! A schedule says which of its ticks was the last that a node took. Whoever takes the next one says so by
//! compare-and-swap, so that a tick is one node's.

mod pattern;
mod ticker;

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::QueueError;
use crate::function::FunctionName;
use crate::store::{FunctionStore, Revision, StoreError, StoredValue, ValueKey};
use pattern::Pattern;

pub use ticker::Ticker;

const KIND: &str = "schedule";
const FORMAT: u32 = 1;
const PAGE: usize = 256;
const ATTEMPTS: usize = 20;
/// Of what a schedule calls its function with.
const LARGEST_DATA: usize = 256 << 10;

/// What a schedule is made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewSchedule {
    /// Five fields, or one of the `@` names.
    pub cron: String,
    /// By its IANA name.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// The body of each call: JSON, as text.
    #[serde(default = "nothing")]
    pub data: String,
}

fn utc() -> String {
    "UTC".into()
}

fn nothing() -> String {
    "{}".into()
}

impl NewSchedule {
    /// Whether a server would take it.
    pub fn check(&self) -> Result<(), QueueError> {
        Pattern::new(&self.cron, &self.time_zone)?;
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&self.data).is_ok();
        if self.data.len() > LARGEST_DATA || !is_json {
            return Err(QueueError::Data { limit: LARGEST_DATA });
        }
        Ok(())
    }
}

/// A schedule as it is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schedule {
    format: u32,
    /// `NAME.RANDOM`: no function's name has a dot.
    id: String,
    function: FunctionName,
    cron: String,
    time_zone: String,
    data: String,
    created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Tick>,
}

/// A tick that a node has taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tick {
    at: Timestamp,
    node: String,
}

/// A schedule as people and programs are told of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleState {
    pub id: String,
    pub function: FunctionName,
    pub cron: String,
    pub time_zone: String,
    pub data: String,
    /// RFC 3339, UTC, as all times here.
    pub created: String,
    /// The last tick that was taken, and by which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Schedule {
    fn state(self) -> ScheduleState {
        let pattern = Pattern::new(&self.cron, &self.time_zone).ok();
        let next = pattern.and_then(|pattern| pattern.next(Timestamp::now()));
        let (last, last_node) = self.last.map(|tick| (tick.at.to_string(), tick.node)).unzip();
        ScheduleState {
            id: self.id,
            function: self.function,
            cron: self.cron,
            time_zone: self.time_zone,
            data: self.data,
            created: self.created.to_string(),
            last,
            last_node,
            next: next.map(|next| next.to_string()),
        }
    }
}

/// The schedules of a store.
#[derive(Clone)]
pub struct Schedules {
    store: Arc<dyn FunctionStore>,
}

impl Schedules {
    pub fn new(store: Arc<dyn FunctionStore>) -> Self {
        Self { store }
    }

    /// Adds a schedule, unless there is the same one already; `true` if it is new.
    pub async fn add(
        &self,
        name: &FunctionName,
        new: NewSchedule,
    ) -> Result<(ScheduleState, bool), QueueError> {
        new.check()?;
        if self.store.get(name).await?.is_none() {
            return Err(QueueError::NoFunction { name: name.clone() });
        }
        let NewSchedule { cron, time_zone, data } = new;
        let same = |schedule: &Schedule| {
            (&schedule.cron, &schedule.time_zone, &schedule.data) == (&cron, &time_zone, &data)
        };
        let there = all(&*self.store, Some(name)).await?.into_iter();
        if let Some((schedule, _)) = there.into_iter().find(|(schedule, _)| same(schedule)) {
            return Ok((schedule.state(), false));
        }
        let now = Timestamp::now();
        let schedule = Schedule {
            format: FORMAT,
            id: format!("{name}.{:08x}", getrandom::u32().unwrap_or_default()),
            function: name.clone(),
            cron,
            time_zone,
            data,
            created: now.round(jiff::Unit::Millisecond).unwrap_or(now),
            last: None,
        };
        self.store.swap_value(&key(&schedule.id)?, None, Some(&bytes(&schedule))).await?;
        Ok((schedule.state(), true))
    }

    /// Those of one function, or all.
    pub async fn list(&self, name: Option<&FunctionName>) -> Result<Vec<ScheduleState>, QueueError> {
        let found = all(&*self.store, name).await?;
        Ok(found.into_iter().map(|(schedule, _)| schedule.state()).collect())
    }

    pub async fn remove(&self, id: &str) -> Result<(), QueueError> {
        let missing = || QueueError::NoSchedule { id: id.chars().take(200).collect() };
        let key = key(id).map_err(|_| missing())?;
        if remove(&*self.store, &key).await? { Ok(()) } else { Err(missing()) }
    }
}

/// Removes all schedules of a function, and gives their IDs.
pub async fn forget_schedules(
    store: &dyn FunctionStore,
    name: &FunctionName,
) -> Result<Vec<String>, QueueError> {
    let mut removed = Vec::new();
    for (schedule, _) in all(store, Some(name)).await? {
        if remove(store, &key(&schedule.id)?).await? {
            removed.push(schedule.id);
        }
    }
    Ok(removed)
}

/// `false`: it was not there.
async fn remove(store: &dyn FunctionStore, key: &ValueKey) -> Result<bool, QueueError> {
    for _ in 0..ATTEMPTS {
        let Some(found) = store.value(key).await? else { return Ok(false) };
        match store.swap_value(key, Some(found.revision), None).await {
            // A node took a tick of it just now.
            Err(StoreError::ValueConflict { .. }) => {}
            removed => return Ok(removed.map(|_| true)?),
        }
    }
    Err(StoreError::ValueConflict { key: key.clone() }.into())
}

/// The schedules that this fnbuild can read, with their revisions.
async fn all(
    store: &dyn FunctionStore,
    name: Option<&FunctionName>,
) -> Result<Vec<(Schedule, Revision)>, QueueError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.values(Some(KIND), after.as_ref(), PAGE).await?;
        after = page.values.last().map(|value| value.key.clone());
        let read = page.values.iter().filter_map(|value| Some((read(value)?, value.revision)));
        found.extend(read.filter(|(schedule, _)| name.is_none_or(|name| *name == schedule.function)));
        if !page.more {
            return Ok(found);
        }
    }
}

/// `None` for one that a newer fnbuild wrote: that one sees to it.
fn read(value: &StoredValue) -> Option<Schedule> {
    let schedule: Schedule = serde_json::from_slice(&value.bytes).ok()?;
    (schedule.format <= FORMAT && schedule.id == value.key.key()).then_some(schedule)
}

fn bytes(schedule: &Schedule) -> Vec<u8> {
    serde_json::to_vec(schedule).unwrap_or_default()
}

fn key(id: &str) -> Result<ValueKey, StoreError> {
    ValueKey::new(KIND, id)
}
