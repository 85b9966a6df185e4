//! Takes the ticks of schedules, and makes each a call in this node's queue.
//!
//! - A tick is taken by compare-and-swap on the schedule, and only then becomes a call: no two nodes make the same one.
//! - A node that ends between the two makes the call when it is back, if that is within [`GRACE`].
//! - Of the ticks that nobody took, the newest is made up for within [`GRACE`]; all others are left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::Queue;
use super::super::call::{Call, Headers, now};
use super::super::error::QueueError;
use super::pattern::Pattern;
use super::{Schedule, Tick, all, bytes, key, remove};
use crate::store::{Revision, StoreError};

/// How late a tick may be.
const GRACE: SignedDuration = SignedDuration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);

/// The task that looks for what is due.
pub struct Ticker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Ticker {
    pub fn start(queue: &Arc<Queue>) -> Self {
        let stop = CancellationToken::new();
        let (queue, stopped) = (Arc::clone(queue), stop.clone());
        let task = tokio::spawn(async move {
            let mut clock = Clock::default();
            let mut looks = tokio::time::interval(LOOK);
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while stopped.run_until_cancelled(looks.tick()).await.is_some() {
                // A store that does not answer keeps nobody from stopping.
                let looked = stopped.run_until_cancelled(clock.look(&queue)).await;
                if let Some(Err(error)) = looked {
                    tracing::warn!(error = &error as &dyn std::error::Error, "schedules cannot be looked at");
                }
            }
        });
        Self { stop, task }
    }

    /// Takes no more ticks.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// What is known of each schedule since it was last written.
#[derive(Default)]
struct Clock {
    known: HashMap<String, Known>,
}

struct Known {
    revision: Revision,
    /// `None` where this machine cannot read the pattern or does not know the zone.
    pattern: Option<Pattern>,
    next: Option<Timestamp>,
}

impl Clock {
    async fn look(&mut self, queue: &Queue) -> Result<(), QueueError> {
        let schedules = all(&*queue.store, None).await?;
        let is_there = |id: &str| schedules.iter().any(|(schedule, _)| schedule.id == id);
        if self.known.len() > schedules.len() {
            self.known.retain(|id, _| is_there(id));
            queue.disk.retain_ticks(is_there)?;
        }
        for (schedule, revision) in &schedules {
            if let Err(error) = self.attend(queue, schedule, *revision).await {
                let id = &schedule.id;
                tracing::warn!(error = &error as &dyn std::error::Error, %id, "a tick is not made a call yet");
            }
        }
        Ok(())
    }

    async fn attend(
        &mut self,
        queue: &Queue,
        schedule: &Schedule,
        revision: Revision,
    ) -> Result<(), QueueError> {
        // A node that ended while it deleted a function left its schedules.
        if !self.known.contains_key(&schedule.id) && queue.store.get(&schedule.function).await?.is_none() {
            return remove(&*queue.store, &key(&schedule.id)?).await.map(drop);
        }
        let time = Timestamp::now();
        if let Some(unmade) = unmade(queue, schedule, time)? {
            return self.make(queue, schedule, unmade).await;
        }
        let known = self.know(schedule, revision, time);
        if known.next.is_none_or(|next| next > time) {
            return Ok(());
        }
        let due = known.pattern.as_ref().and_then(|pattern| due(pattern, schedule, time));
        let Some(tick) = due else {
            known.next = known.pattern.as_ref().and_then(|pattern| pattern.next(time));
            return Ok(());
        };
        match queue.room_for(&target(schedule)).await {
            // Another node's to take, and if there is no room there either, nobody's.
            Err(QueueError::Elsewhere { .. } | QueueError::FunctionFull { .. }) => return Ok(()),
            Err(QueueError::NoFunction { .. }) => {
                return remove(&*queue.store, &key(&schedule.id)?).await.map(drop);
            }
            room => drop(room?),
        }
        let taken = Tick { at: tick, node: queue.cluster.id().into() };
        let taken = Schedule { last: Some(taken), ..schedule.clone() };
        match queue.store.swap_value(&key(&schedule.id)?, Some(revision), Some(&bytes(&taken))).await {
            Ok(_) => self.make(queue, &taken, tick).await,
            // Another node was faster, or the schedule is gone.
            Err(StoreError::ValueConflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a tick a call that this node has taken.
    async fn make(&self, queue: &Queue, schedule: &Schedule, tick: Timestamp) -> Result<(), QueueError> {
        let call = call(schedule, tick);
        // It may have been kept by a server that was killed before the note of it was on the disk.
        if queue.index().number(&call.id).is_some() {
            return queue.disk.note_tick(&schedule.id, tick.as_millisecond());
        }
        match queue.enqueue(call, schedule.data.clone().into_bytes().into()).await {
            Err(QueueError::NoFunction { .. }) => {
                return remove(&*queue.store, &key(&schedule.id)?).await.map(drop);
            }
            kept => drop(kept?),
        }
        queue.disk.note_tick(&schedule.id, tick.as_millisecond())
    }

    fn know(&mut self, schedule: &Schedule, revision: Revision, time: Timestamp) -> &mut Known {
        let known = self.known.entry(schedule.id.clone());
        let fresh = || {
            let pattern = Pattern::new(&schedule.cron, &schedule.time_zone);
            if let Err(error) = &pattern {
                tracing::warn!(%error, id = schedule.id, "a schedule is left to other nodes");
            }
            let pattern = pattern.ok();
            let next = pattern.as_ref().and_then(|pattern| pattern.next(since(schedule, time)));
            Known { revision, pattern, next }
        };
        let known = known.or_insert_with(fresh);
        if known.revision != revision {
            *known = fresh();
        }
        known
    }
}

/// From when on ticks count: after the last that was taken, and not long ago.
fn since(schedule: &Schedule, time: Timestamp) -> Timestamp {
    let last = schedule.last.as_ref().map_or(schedule.created, |tick| tick.at);
    last.max(time.saturating_sub(GRACE).unwrap_or(time))
}

/// The tick that is to be taken now.
fn due(pattern: &Pattern, schedule: &Schedule, time: Timestamp) -> Option<Timestamp> {
    pattern.newest(since(schedule, time), time)
}

/// A tick that this node has taken and not made a call, because it ended in between or there was no room.
fn unmade(queue: &Queue, schedule: &Schedule, time: Timestamp) -> Result<Option<Timestamp>, QueueError> {
    let Some(tick) = schedule.last.as_ref().filter(|tick| tick.node == queue.cluster.id()) else {
        return Ok(None);
    };
    let made = queue.disk.tick(&schedule.id)?.is_some_and(|made| made >= tick.at.as_millisecond());
    let fresh = time.duration_since(tick.at) <= GRACE;
    Ok((!made && fresh).then_some(tick.at))
}

fn target(schedule: &Schedule) -> crate::function::Target {
    crate::function::Target { name: schedule.function.clone(), version: None }
}

fn call(schedule: &Schedule, tick: Timestamp) -> Call {
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", http::HeaderValue::from_static("application/json"));
    let mut say = |name: &'static str, value: &str| {
        if let Ok(value) = http::HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let id = format!("{}-{}", schedule.id, tick.as_second());
    say("host", schedule.function.as_str());
    say("x-call-id", &id);
    say("x-schedule-id", &schedule.id);
    say("x-schedule-time", &tick.to_string());
    Call {
        id,
        target: target(schedule),
        method: http::Method::POST,
        path: http::uri::PathAndQuery::from_static("/"),
        headers: Headers::from(&headers),
        callback: None,
        accepted: now(),
        length: schedule.data.len() as u64,
        schedule: Some(schedule.id.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(created: &str, last: Option<&str>) -> Schedule {
        Schedule {
            format: super::super::FORMAT,
            id: "add.1".into(),
            function: "add".parse().unwrap(),
            cron: "*/5 * * * *".into(),
            time_zone: "UTC".into(),
            data: "{}".into(),
            created: created.parse().unwrap(),
            last: last.map(|at| Tick { at: at.parse().unwrap(), node: "n".into() }),
        }
    }

    #[test]
    fn a_tick_is_made_up_for_within_a_minute_and_no_other_is() {
        let pattern = Pattern::new("*/5 * * * *", "UTC").unwrap();
        let due = |last, time: &str| {
            let schedule = schedule("2026-03-01T11:01:00Z", last);
            due(&pattern, &schedule, time.parse().unwrap()).map(|tick| tick.to_string())
        };
        let tick = Some("2026-03-01T12:05:00Z".to_string());
        assert_eq!(due(None, "2026-03-01T12:05:00Z"), tick, "on time");
        assert_eq!(due(None, "2026-03-01T12:05:59Z"), tick, "late, and the hour before is left out");
        assert_eq!(due(None, "2026-03-01T12:06:01Z"), None, "too late");
        assert_eq!(due(Some("2026-03-01T12:05:00Z"), "2026-03-01T12:05:01Z"), None, "taken already");
        assert_eq!(due(Some("2026-03-01T12:00:00Z"), "2026-03-01T12:05:01Z"), tick);
        assert_eq!(due(None, "2026-03-01T11:01:30Z"), None, "not before it was made");
    }
}
