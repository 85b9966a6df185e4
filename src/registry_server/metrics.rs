//! Counters for `/metrics`, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::store::Totals;

/// The words of [`super::route::Route::kind`], and one for what was no route.
const KINDS: [&str; 11] = [
    "version",
    "catalog",
    "tags",
    "manifest",
    "blob",
    "upload",
    "referrers",
    "metrics",
    "health",
    "other",
    "denied",
];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Default)]
pub struct Metrics {
    requests: [[AtomicU64; CLASSES.len()]; KINDS.len()],
    microseconds: [AtomicU64; KINDS.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl Metrics {
    /// One request was answered. `took` ends with the first byte of the answer.
    pub fn answered(&self, kind: &str, status: u16, took: Duration) {
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 2);
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[kind][class].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds[kind].fetch_add(micros, Ordering::Relaxed);
    }

    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn text(&self, totals: Totals, uploads: usize, connections: usize) -> String {
        let mut text = String::new();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.push_str("# HELP fnbuild_registry_requests_total Requests answered.\n");
        text.push_str("# TYPE fnbuild_registry_requests_total counter\n");
        for (kind, classes) in KINDS.iter().zip(&self.requests) {
            for (class, count) in CLASSES.iter().zip(classes).filter(|(_, count)| load(count) > 0) {
                let count = load(count);
                let _ = writeln!(
                    text,
                    "fnbuild_registry_requests_total{{kind=\"{kind}\",status=\"{class}\"}} {count}"
                );
            }
        }
        text.push_str("# HELP fnbuild_registry_request_seconds_total Time until the answer began.\n");
        text.push_str("# TYPE fnbuild_registry_request_seconds_total counter\n");
        for (kind, micros) in KINDS.iter().zip(&self.microseconds).filter(|(_, micros)| load(micros) > 0) {
            let micros = load(micros);
            let _ = writeln!(
                text,
                "fnbuild_registry_request_seconds_total{{kind=\"{kind}\"}} {}.{:06}",
                micros / 1_000_000,
                micros % 1_000_000
            );
        }
        for (name, kind, help, value) in [
            ("received_bytes_total", "counter", "Bytes of blobs received.", load(&self.received)),
            ("sent_bytes_total", "counter", "Bytes of answers begun.", load(&self.sent)),
            ("connections", "gauge", "Open connections.", connections as u64),
            ("repositories", "gauge", "Repositories.", totals.repositories as u64),
            ("blobs", "gauge", "Blobs and manifests stored.", totals.blobs as u64),
            ("blob_bytes", "gauge", "Their size.", totals.bytes),
            ("uploads", "gauge", "Uploads that are not complete.", uploads as u64),
        ] {
            let _ = writeln!(
                text,
                "# HELP fnbuild_registry_{name} {help}\n# TYPE fnbuild_registry_{name} {kind}\n\
                 fnbuild_registry_{name} {value}"
            );
        }
        text
    }
}
