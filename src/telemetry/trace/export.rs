//! The way of spans out of this process: a bounded queue, and a task that sends what is in it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::otlp::{self, Response};
use super::{Context, Span};
use crate::telemetry::Figures;

/// Spans that wait to be sent: a few megabytes.
const QUEUE: usize = 4096;
/// Spans in one request.
const BATCH: usize = 512;
/// How long a span waits for others to come along.
const GATHER: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries at first, doubled with each further one; the receiver may say better.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const TRIES: u32 = 5;
/// How long a server that stops waits for its last spans to arrive.
const LAST: Duration = Duration::from_secs(3);

/// Where to, and what of.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The whole of it, path included.
    pub endpoint: Url,
    /// Brought with each request.
    pub headers: HeaderMap,
    /// Of traces that begin here, from 0 to 1.
    pub share: f64,
    /// What describes this process: `service.name` and its like.
    pub resource: Vec<(String, String)>,
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("cannot set up the sending of traces")]
    Client(#[source] reqwest::Error),
}

/// Takes spans.
#[derive(Debug)]
pub struct Tracer {
    share: f64,
    queue: mpsc::Sender<Span>,
    figures: Arc<Figures>,
}

/// The task that sends them.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Tracer {
    /// Must be called within a runtime.
    pub fn start(
        settings: TraceSettings,
        figures: Arc<Figures>,
    ) -> Result<(Arc<Self>, Exporter), TraceError> {
        // Somebody else may have installed one already; which one does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(TraceError::Client)?;
        let (queue, spans) = mpsc::channel(QUEUE);
        let (stop, share) = (CancellationToken::new(), settings.share);
        let sink = Sink { client, settings, figures: Arc::clone(&figures), is_away: false };
        let task = tokio::spawn(sink.run(spans, stop.clone()));
        Ok((Arc::new(Self { share, queue, figures }), Exporter { stop, task }))
    }

    /// A new span's context: of its caller's trace, else of a new one.
    pub fn begin(&self, parent: Option<&Context>) -> Context {
        parent.map_or_else(|| Context::root(self.share), Context::child)
    }

    pub fn record(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.figures.spans_lost.add_one();
        }
    }
}

impl Exporter {
    /// Sends what is there.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(LAST, self.task).await;
    }
}

struct Sink {
    client: reqwest::Client,
    settings: TraceSettings,
    figures: Arc<Figures>,
    /// Said in the log once, until it is there again.
    is_away: bool,
}

/// Why a request was not taken.
struct NotTaken {
    why: String,
    /// `None`: another try would not help.
    again: Option<Option<Duration>>,
}

impl Sink {
    async fn run(mut self, mut spans: mpsc::Receiver<Span>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let more = async {
                if spans.recv_many(&mut batch, BATCH).await == 0 {
                    return false;
                }
                let fill = async {
                    loop {
                        let room = BATCH - batch.len();
                        if room == 0 || spans.recv_many(&mut batch, room).await == 0 {
                            break;
                        }
                    }
                };
                let _ = tokio::time::timeout(GATHER, fill).await;
                true
            };
            if stop.run_until_cancelled(more).await == Some(true) {
                self.send(std::mem::take(&mut batch), &stop).await;
                continue;
            }
            // The end: what is there goes out, in one try.
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
            }
            if !batch.is_empty() {
                self.send(batch, &stop).await;
            }
            return;
        }
    }

    async fn send(&mut self, batch: Vec<Span>, stop: &CancellationToken) {
        let count = batch.len() as u64;
        let body = bytes::Bytes::from(otlp::request(&self.settings.resource, batch));
        let mut pause = PAUSE;
        for attempt in 1.. {
            let NotTaken { why, again } = match self.post(body.clone()).await {
                Ok(rejected) => {
                    self.is_away = false;
                    self.figures.spans_lost.add(rejected.min(count));
                    return self.figures.spans_sent.add(count - rejected.min(count));
                }
                Err(not_taken) => not_taken,
            };
            if !std::mem::replace(&mut self.is_away, true) {
                let collector = self.settings.endpoint.host_str();
                tracing::warn!(collector, error = why, "traces are not taken");
            }
            let Some(wait) = again.filter(|_| attempt < TRIES) else { break };
            let wait = wait.unwrap_or(pause).min(LONGEST_PAUSE);
            pause *= 2;
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        self.figures.spans_lost.add(count);
    }

    /// How many spans were rejected for good, though the request was taken.
    async fn post(&self, body: bytes::Bytes) -> Result<u64, NotTaken> {
        // Not with the URL, which may hold a password.
        let away = |error: reqwest::Error| NotTaken { why: chain(&error.without_url()), again: Some(None) };
        let request = self.client.post(self.settings.endpoint.clone()).headers(self.settings.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        if status.is_success() {
            // It has them, whatever became of its answer.
            let body = response.bytes().await.unwrap_or_default();
            let told = Response::decode(body).unwrap_or_default().partial_success.unwrap_or_default();
            if told.rejected_spans > 0 {
                tracing::warn!(spans = told.rejected_spans, error = told.error_message, "spans are rejected");
            }
            return Ok(u64::try_from(told.rejected_spans).unwrap_or_default());
        }
        // Those that OTLP names.
        let may_pass = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let again = may_pass.then(|| wait.map(Duration::from_secs));
        Err(NotTaken { why: format!("it answers {status}"), again })
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
