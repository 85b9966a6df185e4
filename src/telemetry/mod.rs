//! What a server tells of itself: numbers for Prometheus here, traces for OpenTelemetry in [`trace`].
//!
//! What is counted on the way of a call is a relaxed addition to memory that the call has at hand; labels, names and text
//! are made when somebody asks. What can be asked for then (replicas, queues) is not counted at all. A library for this
//! would look each sample up by its labels, and knows nothing that the few lines of [`Text`] do not.

mod counter;
mod process;
mod text;
pub mod trace;

pub use counter::{BOUNDS, Buckets, Counter, Histogram, Times};
pub use process::write as write_process;
pub use text::Text;

/// The numbers of a server beside those of its calls.
#[derive(Default, Debug)]
pub struct Figures {
    /// Replicas that took over a container of the pool.
    pub starts_from_pool: Histogram,
    /// Replicas whose container was made for them.
    pub starts_of_containers: Histogram,
    pub failed_starts: Counter,
    /// Replicas that ended without being asked to.
    pub deaths: Counter,
    /// Sources that the server built and pushed.
    pub builds: Histogram,
    /// The part of it from the first byte to the registry to the last.
    pub pushes: Histogram,
    /// Sources whose image was in the registry already.
    pub builds_of_nothing: Counter,
    pub failed_builds: Counter,
    /// Asynchronous calls that were acknowledged, those of schedules among them.
    pub queued: Counter,
    /// Those that have had their final answer.
    pub queue_done: Counter,
    /// Attempts that are made again.
    pub queue_retried: Counter,
    /// Calls that became dead letters.
    pub queue_buried: Counter,
    /// Spans that a collector has taken.
    pub spans_sent: Counter,
    /// Those that found the queue full, or no collector.
    pub spans_lost: Counter,
}

impl Figures {
    pub fn write(&self, text: &mut Text) {
        self.write_starts(text);
        self.write_builds(text);
        for (name, help, counter) in [
            ("fnbuild_queue_accepted_total", "Asynchronous calls that were acknowledged.", &self.queued),
            ("fnbuild_queue_done_total", "Asynchronous calls that had their final answer.", &self.queue_done),
            ("fnbuild_queue_retries_total", "Attempts that are made again.", &self.queue_retried),
            ("fnbuild_queue_dead_total", "Asynchronous calls that became dead letters.", &self.queue_buried),
        ] {
            text.single(name, "counter", help, counter.get());
        }
        text.family("fnbuild_trace_spans_total", "counter", "Spans of traces, by what became of them.");
        for (outcome, counter) in [("sent", &self.spans_sent), ("lost", &self.spans_lost)] {
            text.sample("fnbuild_trace_spans_total", &[("outcome", outcome)], counter.get());
        }
    }

    fn write_starts(&self, text: &mut Text) {
        let starts = [("pool", &self.starts_from_pool), ("container", &self.starts_of_containers)];
        let starts = starts.map(|(from, histogram)| (from, histogram.times()));
        text.family("fnbuild_cold_starts_total", "counter", "Replicas started, by what they were made of.");
        for (from, times) in &starts {
            text.sample("fnbuild_cold_starts_total", &[("from", from)], times.count());
        }
        text.family("fnbuild_cold_start_seconds", "histogram", "Time from its turn until a replica answers.");
        for (from, times) in &starts {
            text.times("fnbuild_cold_start_seconds", &[("from", from)], times);
        }
        for (name, help, counter) in [
            ("fnbuild_failed_starts_total", "Replicas that did not start.", &self.failed_starts),
            ("fnbuild_replica_deaths_total", "Replicas that ended without being asked to.", &self.deaths),
        ] {
            text.single(name, "counter", help, counter.get());
        }
    }

    fn write_builds(&self, text: &mut Text) {
        let (builds, pushes) = (self.builds.times(), self.pushes.times());
        text.family("fnbuild_builds_total", "counter", "Sources that the server was sent.");
        for (outcome, count) in [
            ("pushed", builds.count()),
            ("unchanged", self.builds_of_nothing.get()),
            ("failed", self.failed_builds.get()),
        ] {
            text.sample("fnbuild_builds_total", &[("outcome", outcome)], count);
        }
        for (name, help, times) in [
            ("fnbuild_build_seconds", "Time from a source to its image in the registry.", &builds),
            ("fnbuild_push_seconds", "The part of it that the registry took.", &pushes),
        ] {
            text.family(name, "histogram", help);
            text.times(name, &[], times);
        }
    }
}
