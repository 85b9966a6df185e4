//! Makes the calls that are due: at most so many of a function at once, and of all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, SERVER, SET_COOKIE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::Answer;
use super::call::{Last, Number, Progress, now};
use super::callback::ATTEMPTS;
use super::disk::Kept;
use super::error::QueueError;
use super::index::State;
use super::rule::{self, Verdict};
use super::{Queue, operate};
use crate::gateway::{Delivery, Gateway, Reached, Replicas};

/// Calls at once, over all functions: each holds its body in memory.
const RUNNING_AT_MOST: usize = 128;
/// Answers on their way at once: each is held in memory until it has arrived.
const ANSWERS_AT_MOST: usize = 64;
/// Between two looks for what can be thrown away.
const TIDY: Duration = Duration::from_secs(5);

/// The tasks that make a queue's calls.
pub struct Dispatcher {
    /// No call is begun any more.
    stop: CancellationToken,
    /// Calls that are being made are given up: they are made again after the next start.
    give_up: CancellationToken,
    calls: TaskTracker,
    tasks: Vec<JoinHandle<()>>,
}

impl Dispatcher {
    pub fn start<R: Replicas>(queue: &Arc<Queue>, gateway: &Arc<Gateway<R>>) -> Self {
        let (stop, give_up, calls) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let maker = Maker {
            queue: Arc::clone(queue),
            gateway: Arc::clone(gateway),
            stop: stop.clone(),
            give_up: give_up.clone(),
            running: Arc::new(Semaphore::new(RUNNING_AT_MOST)),
            answers: Arc::new(Semaphore::new(ANSWERS_AT_MOST)),
        };
        let tidying = tidy(Arc::clone(queue), stop.clone());
        let tasks = vec![tokio::spawn(dispatch(Arc::new(maker), calls.clone())), tokio::spawn(tidying)];
        Self { stop, give_up, calls, tasks }
    }

    /// Begins no more calls. Those that are being made go on.
    pub fn pause(&self) {
        self.stop.cancel();
    }

    /// Lets calls that are being made end, for `grace` at most.
    pub async fn stop(self, grace: Duration) {
        self.pause();
        for task in self.tasks {
            let _ = task.await;
        }
        self.calls.close();
        if tokio::time::timeout(grace, self.calls.wait()).await.is_err() {
            tracing::warn!("asynchronous calls were cut off: they are made again after the next start");
            self.give_up.cancel();
            self.calls.wait().await;
        }
    }
}

/// What making a call takes.
struct Maker<R> {
    queue: Arc<Queue>,
    gateway: Arc<Gateway<R>>,
    stop: CancellationToken,
    give_up: CancellationToken,
    running: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

/// A call that is being made. Unless it is settled, it waits again when this is dropped.
struct Turn {
    queue: Arc<Queue>,
    number: Number,
    settled: bool,
}

impl Turn {
    /// The call has the state that is said here, or is gone.
    fn settle(mut self, state: Option<State>) {
        self.settled = true;
        match state {
            Some(state) => drop(self.queue.index().set(self.number, state)),
            None => self.queue.forget(self.number),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.settled {
            let due = now() + rule::millis(self.queue.backoff);
            self.queue.index().set(self.number, State::Waiting { due });
        }
        // There may be room for another one.
        self.queue.wake.notify_one();
    }
}

async fn dispatch<R: Replicas>(maker: Arc<Maker<R>>, calls: TaskTracker) {
    while let Some(next) = maker.stop.run_until_cancelled(maker.next()).await {
        let Some((number, permit)) = next else { continue };
        let maker = Arc::clone(&maker);
        let turn = Turn { queue: Arc::clone(&maker.queue), number, settled: false };
        calls.spawn(async move {
            maker.give_up.run_until_cancelled(maker.make(turn, permit)).await;
        });
    }
}

async fn tidy(queue: Arc<Queue>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(TIDY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        operate::bury_old(&queue);
        if let Err(error) = queue.disk.tidy().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the queue");
        }
    }
}

impl Queue {
    /// Returns when there may be a call to make.
    async fn something_due(&self) {
        let (now, next) = {
            let now = now();
            (now, self.index().next_due(now))
        };
        match next {
            Some(due) => {
                let wait = Duration::from_millis(due.saturating_sub(now));
                let _ = tokio::time::timeout(wait, self.wake.notified()).await;
            }
            None => self.wake.notified().await,
        }
    }

    /// Makes a call a dead letter.
    fn bury(&self, turn: Turn, mut progress: Progress, last: Last) {
        tracing::warn!(number = turn.number, reason = last.reason, "an asynchronous call is a dead letter");
        self.figures.queue_buried.add_one();
        progress.dead = Some(now());
        progress.last = Some(last);
        self.note(turn.number, &progress);
        turn.settle(Some(State::Dead { since: progress.dead.unwrap_or_default() }));
    }

    fn note(&self, number: Number, progress: &Progress) {
        // It may have been dropped meanwhile.
        let is_there = self.index().get(number).is_some();
        if is_there && let Err(error) = self.disk.note(number, progress) {
            tracing::warn!(error = &error as &dyn std::error::Error, "what became of a call is not noted");
        }
    }
}

impl<R: Replicas> Maker<R> {
    /// The next call that is to be made; `None` when it is time to look again.
    async fn next(&self) -> Option<(Number, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.running).acquire_owned().await.ok()?;
        let next = self.queue.index().take(now());
        if next.is_none() {
            drop(permit);
            self.queue.something_due().await;
            return None;
        }
        next.map(|number| (number, permit))
    }

    async fn make(&self, turn: Turn, permit: OwnedSemaphorePermit) {
        let queue = &self.queue;
        let read = match queue.disk.read(turn.number).await {
            Ok(Some(kept)) => match queue.settings(&kept.call.target).await {
                Ok(settings) => Ok((kept, settings)),
                Err(error) => Err(error),
            },
            Ok(None) => return turn.settle(None),
            Err(error) => Err(error),
        };
        let (kept, settings) = match read {
            Ok(read) => read,
            Err(error) => return unreadable(&error),
        };
        let (is_there, settings) = (settings.is_some(), settings.unwrap_or_default());
        queue.index().limit(&kept.call.target.name, settings.concurrency);
        // After a start each function is thought to have room for one.
        queue.wake.notify_one();
        if rule::is_too_old(&kept.progress, &settings, now()) {
            let (why, last) = (rule::too_old(&settings), kept.progress.last.clone());
            let answer = Answer::none(&why);
            let last = last.unwrap_or_else(|| answer.last());
            return self.give_up_on(turn, permit, kept, (&answer, why, last)).await;
        }
        let most = match kept.call.callback {
            Some(_) => usize::try_from(queue.request_body).unwrap_or(usize::MAX),
            None => Answer::least(),
        };
        let started = Instant::now();
        let mut answer = Answer::read(self.gateway.deliver(delivery(&kept)).await, most, started).await;
        if answer.reached == Reached::Nothing && is_there {
            // The gateway follows the store; it will have caught up by the next time.
            answer.reached = Reached::NotYet;
        }
        match rule::judge(&answer.attempt(), &kept.progress, &settings, queue.backoff, now()) {
            Verdict::Again(mut progress) => {
                progress.last = Some(answer.last());
                queue.note(turn.number, &progress);
                queue.figures.queue_retried.add_one();
                turn.settle(Some(State::Waiting { due: progress.due }));
            }
            Verdict::Done => match self.tell(&kept, &answer, &turn, permit).await {
                Told::Arrived => {
                    queue.figures.queue_done.add_one();
                    turn.settle(None);
                }
                Told::Stopped => {}
                Told::Lost(why) => {
                    let last = answer.last();
                    let reason = format!("{}, but the callback did not arrive: {why}", last.reason);
                    queue.bury(turn, counted(kept.progress, &answer), Last { reason, ..last });
                }
            },
            Verdict::Dead(why) => {
                let last = answer.last();
                self.give_up_on(turn, permit, kept, (&answer, why, last)).await;
            }
        }
    }

    /// Tells whoever is called back, and makes the call a dead letter. The last three: what is
    /// told, why it is the end, and what came last.
    async fn give_up_on(
        &self,
        turn: Turn,
        permit: OwnedSemaphorePermit,
        kept: Kept,
        (answer, why, last): (&Answer, String, Last),
    ) {
        let mut reason = format!("{why}: {}", last.reason);
        match self.tell(&kept, answer, &turn, permit).await {
            Told::Arrived => {}
            Told::Stopped => return,
            Told::Lost(why) => reason += &format!("; the callback did not arrive: {why}"),
        }
        self.queue.bury(turn, counted(kept.progress, answer), Last { reason, ..last });
    }

    /// Sends the answer to where the call wants it. The function has room for another call meanwhile.
    async fn tell(&self, kept: &Kept, answer: &Answer, turn: &Turn, permit: OwnedSemaphorePermit) -> Told {
        let Some(url) = &kept.call.callback else { return Told::Arrived };
        let Ok(_place) = self.answers.acquire().await else { return Told::Stopped };
        self.queue.index().set(turn.number, State::Answered);
        self.queue.wake.notify_one();
        drop(permit);
        let callbacks = &self.queue.callbacks;
        let url = match callbacks.check(url) {
            Ok(url) => url,
            Err(error) => return Told::Lost(error.to_string()),
        };
        let (headers, body) = message(kept, answer);
        let mut tries = 0;
        loop {
            tries += 1;
            let Err(error) = callbacks.send(&url, headers.clone(), body.clone()).await else {
                return Told::Arrived;
            };
            if !error.may_pass() || tries >= ATTEMPTS {
                return Told::Lost(error.to_string());
            }
            let wait = tokio::time::sleep(rule::wait(tries, self.queue.backoff));
            if self.stop.run_until_cancelled(wait).await.is_none() {
                return Told::Stopped;
            }
        }
    }
}

/// What became of an answer.
enum Told {
    Arrived,
    Lost(String),
    /// The server stops first: the call is made again after the next start.
    Stopped,
}

fn unreadable(error: &QueueError) {
    tracing::error!(error = error as &dyn std::error::Error, "a call in the queue cannot be made yet");
}

/// The last attempt counts too.
fn counted(progress: Progress, answer: &Answer) -> Progress {
    let reached = u32::from(answer.reached == Reached::Function);
    Progress { attempts: progress.attempts + reached, ..progress }
}

fn delivery(kept: &Kept) -> Delivery {
    let call = &kept.call;
    Delivery {
        target: call.target.clone(),
        method: call.method.clone(),
        path: call.path.clone(),
        headers: call.headers.to_map(),
        id: text(&call.id),
        body: kept.body.clone(),
    }
}

/// What a callback is sent: the answer, with OpenFaaS's headers.
fn message(kept: &Kept, answer: &Answer) -> (HeaderMap, Bytes) {
    let mut headers = answer.headers.clone();
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, SET_COOKIE, DATE, SERVER] {
        headers.remove(name);
    }
    let (mut status, mut body) = (answer.status, answer.body.clone());
    if answer.cut || answer.broken.is_some() {
        status = http::StatusCode::BAD_GATEWAY;
        let told = match &answer.broken {
            Some(why) => ("AnswerBroken", format!("the answer broke off: {why}")),
            None => ("AnswerTooLarge", "the answer is larger than a callback may be".to_string()),
        };
        let problem = serde_json::json!({
            "errorType": told.0, "errorMessage": told.1, "requestId": kept.call.id,
        });
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        body = problem.to_string().into();
    }
    let ours = [
        ("x-call-id", kept.call.id.clone()),
        ("x-function-name", kept.call.target.to_string()),
        ("x-function-status", status.as_u16().to_string()),
        ("x-duration-seconds", format!("{:.6}", answer.took.as_secs_f64())),
    ];
    for (name, value) in ours {
        headers.insert(HeaderName::from_static(name), text(&value));
    }
    (headers, body)
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
