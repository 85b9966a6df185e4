//! Asynchronous calls and schedules: calls that are taken now and made later, by this node.
//!
//! - An acknowledged call is on this node's disk, and stays there until its final answer: it is made at least once.
//! - A call that fails is made again by the rule in [`rule`], and then is a dead letter, kept for a person to see.
//! - A schedule is a record that all nodes share. Each of its ticks is one node's, and becomes a call like any other.
//!
//! How a call is made is the gateway's affair; whose it is and whether it may be made was decided before it came here.

mod accept;
mod answer;
mod call;
mod callback;
mod disk;
mod dispatch;
mod error;
mod index;
mod operate;
mod rule;
mod schedule;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::function::{AsyncSettings, Target};
use crate::store::FunctionStore;
use crate::telemetry::Figures;
use call::{Call, Millis, Number};
use callback::Callbacks;
use disk::Disk;
use index::{Bounds, Entry, Full, Index, State};

pub use callback::{CallbackHost, Reach};
pub use dispatch::Dispatcher;
pub use error::QueueError;
pub use operate::{CallBody, CallDetail, CallPage, CallSummary, Filter};
pub use schedule::{NewSchedule, ScheduleState, Schedules, Ticker, forget_schedules};

/// What a call takes in memory and on disk beside its body and headers.
const OVERHEAD: u64 = 1024;

/// What a queue is opened with.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    pub folder: PathBuf,
    /// All calls of this node, dead letters among them.
    pub bytes: u64,
    /// The largest body of a call.
    pub request_body: u64,
    /// The first wait of a call that is made again.
    pub backoff: Duration,
    /// How long dead letters are kept.
    pub keep_dead: Duration,
    pub reach: Reach,
    pub callback_hosts: Vec<CallbackHost>,
    /// Where this server listens.
    pub own: Vec<std::net::SocketAddr>,
    /// Where calls are counted.
    pub figures: Arc<Figures>,
}

/// One node's queue.
pub struct Queue {
    disk: Disk,
    index: Mutex<Index>,
    store: Arc<dyn FunctionStore>,
    cluster: Arc<Cluster>,
    callbacks: Callbacks,
    /// Told when there may be something to do.
    wake: Notify,
    bytes: u64,
    request_body: u64,
    backoff: Duration,
    keep_dead: Duration,
    figures: Arc<Figures>,
}

impl Queue {
    /// Opens the queue with every call that is in it. Nothing is made before a [`Dispatcher`] is started.
    pub fn open(
        config: QueueConfig,
        store: Arc<dyn FunctionStore>,
        cluster: Arc<Cluster>,
    ) -> Result<Arc<Self>, QueueError> {
        let (disk, found) = Disk::open(&config.folder)?;
        let mut index = Index::default();
        for (number, call, progress) in found {
            let state = match progress.dead {
                Some(since) => State::Dead { since },
                None => State::Waiting { due: progress.due },
            };
            index.insert(number, entry(&call, state));
        }
        Ok(Arc::new(Self {
            disk,
            index: Mutex::new(index),
            store,
            cluster,
            callbacks: Callbacks::new(config.reach, config.callback_hosts, config.own),
            wake: Notify::new(),
            bytes: config.bytes,
            request_body: config.request_body,
            backoff: config.backoff,
            keep_dead: config.keep_dead,
            figures: config.figures,
        }))
    }

    /// Keeps a call, and gives its ID when it is on the disk. Its ID is another one where that is some call's already.
    async fn enqueue(&self, mut call: Call, body: Bytes) -> Result<String, QueueError> {
        let settings = self.room_for(&call.target).await?;
        let number = self.disk.number()?;
        {
            let mut index = self.index();
            if index.number(&call.id).is_some() {
                call.id = format!("{:016x}-{number:x}", getrandom::u64().unwrap_or_default());
            }
            let bounds = Bounds { calls: settings.queue, bytes: self.bytes };
            let admitted = index.admit(number, entry(&call, State::Arriving), bounds);
            admitted.map_err(|full| self.full(full, &call.target, &settings))?;
            index.limit(&call.target.name, settings.concurrency);
        }
        let mut arriving = Arriving { queue: self, number, due: call.accepted, kept: false };
        self.disk.keep(number, &call, body).await?;
        arriving.kept = true;
        drop(arriving);
        self.figures.queued.add_one();
        self.wake.notify_one();
        Ok(call.id)
    }

    /// That there is such a function, whose calls this node makes, and that one more may wait.
    async fn room_for(&self, target: &Target) -> Result<AsyncSettings, QueueError> {
        let record = self.store.get(&target.name).await?.map(|stored| stored.record);
        let record = record.ok_or_else(|| QueueError::NoFunction { name: target.name.clone() })?;
        let number = target.version.unwrap_or(record.current);
        let version = record.version(number);
        let version =
            version.ok_or_else(|| QueueError::NoVersion { name: target.name.clone(), version: number })?;
        let settings = &version.image.settings;
        if self.cluster.share(&target.name, settings.max_scale.max(1)) == 0 {
            return Err(QueueError::Elsewhere { name: target.name.clone() });
        }
        let settings = settings.asynchronous;
        let held = self.index().held(&target.name);
        if held >= settings.queue {
            return Err(self.full(Full::Function, target, &settings));
        }
        Ok(settings)
    }

    /// How a function's calls are made; `None` where it is gone.
    async fn settings(&self, target: &Target) -> Result<Option<AsyncSettings>, QueueError> {
        let record = self.store.get(&target.name).await?.map(|stored| stored.record);
        let version = record.as_ref().and_then(|record| match target.version {
            Some(number) => record.version(number),
            None => record.current(),
        });
        Ok(version.map(|version| version.image.settings.asynchronous))
    }

    fn full(&self, full: Full, target: &Target, settings: &AsyncSettings) -> QueueError {
        match full {
            Full::Function => QueueError::FunctionFull { name: target.name.clone(), bound: settings.queue },
            Full::Node => QueueError::NodeFull { bound: self.bytes },
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Every change of the index is complete before anything that could panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call away for good.
    fn forget(&self, number: Number) {
        self.index().remove(number);
        self.disk.forget(number);
    }
}

/// A call between its admission and the disk: whoever brought it may go away at any moment.
struct Arriving<'a> {
    queue: &'a Queue,
    number: Number,
    due: Millis,
    kept: bool,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        if self.kept {
            self.queue.index().set(self.number, State::Waiting { due: self.due });
        } else {
            self.queue.forget(self.number);
        }
    }
}

fn entry(call: &Call, state: State) -> Entry {
    let head = serde_json::to_vec(&call.headers).map_or(0, |bytes| bytes.len()) + call.path.as_str().len();
    Entry {
        id: call.id.as_str().into(),
        function: call.target.name.clone(),
        bytes: OVERHEAD + head as u64 + call.length,
        state,
    }
}
