//! `GET /metrics`, in Prometheus' text form: what was counted, and what is so at this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::header;

use super::description::Reads;
use super::{Api, ApiError};
use crate::function::{FunctionName, NAMESPACE};
use crate::telemetry::{Text, write_process};

const FUNCTION: &str = "function_name";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What was counted, and what is so at this moment.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics",
    responses((status = 200, body = String, content_type = "text/plain"), Reads)
)]
pub async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, ApiError> {
    let mut text = Text::default();
    text.family("fnbuild_info", "gauge", "The version of fnbuild.");
    text.sample("fnbuild_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    api.write_calls(&mut text);
    api.write_replicas(&mut text).await?;
    api.figures.write(&mut text);
    api.write_queue(&mut text);
    if let Some(registry) = &api.registry_figures {
        text.append(&registry());
    }
    write_process(&mut text);
    Ok(([(header::CONTENT_TYPE, TEXT)], text.into_string()))
}

/// As OpenFaaS writes it: what reads its gateway's metrics reads ours.
fn labelled(name: &FunctionName) -> String {
    format!("{name}.{NAMESPACE}")
}

impl Api {
    /// The calls of each function that was called since the server started, under OpenFaaS's names.
    fn write_calls(&self, text: &mut Text) {
        let tallies = self.replicas.tallies();
        let all: Vec<_> = tallies.iter().map(|(name, tally)| (labelled(name), tally.counts())).collect();
        const STARTED: &str = "gateway_function_invocation_started";
        text.family(STARTED, "counter", "Calls that were begun.");
        for (name, counts) in &all {
            text.sample(STARTED, &[(FUNCTION, name)], counts.begun);
        }
        const TOTAL: &str = "gateway_function_invocation_total";
        text.family(TOTAL, "counter", "Calls that were answered.");
        const SECONDS: &str = "gateway_functions_seconds";
        let mut seconds = Text::default();
        seconds.family(SECONDS, "histogram", "Time until the head of the answer.");
        for (name, counts) in &all {
            for (status, times) in &counts.answers {
                let code = status.to_string();
                let labels = [(FUNCTION, name.as_str()), ("code", code.as_str())];
                text.sample(TOTAL, &labels, times.count());
                seconds.times(SECONDS, &labels, times);
            }
        }
        text.append(&seconds.into_string());
        const COLD: &str = "fnbuild_cold_calls_total";
        text.family(COLD, "counter", "Calls that had to wait for a start.");
        for (name, counts) in &all {
            text.sample(COLD, &[(FUNCTION, name)], counts.cold);
        }
    }

    async fn write_replicas(&self, text: &mut Text) -> Result<(), ApiError> {
        let (capacity, load, replicas) = self.replicas.overview();
        let records = self.changes.all().await?;
        let functions = records.len();
        let mut counts: BTreeMap<_, u64> =
            records.into_iter().map(|record| (labelled(&record.name), 0)).collect();
        for replica in &replicas {
            *counts.entry(labelled(&replica.function)).or_default() += 1;
        }
        text.family("gateway_service_count", "gauge", "Replicas of each function on this node.");
        for (name, count) in counts {
            text.sample("gateway_service_count", &[(FUNCTION, &name)], count);
        }
        for (name, help, value) in [
            ("fnbuild_functions", "Functions that are recorded.", functions as u64),
            ("fnbuild_replicas", "Replicas on this node.", replicas.len() as u64),
            ("fnbuild_replicas_limit", "The most replicas that this node runs.", capacity.replicas.into()),
            ("fnbuild_calls_in_flight", "Calls that are being answered.", load.in_flight.into()),
            ("fnbuild_calls_waiting", "Calls that wait for a replica.", self.replicas.calls_waiting() as u64),
            (
                "fnbuild_pool_containers",
                "Containers that wait for a function.",
                self.replicas.warm_containers() as u64,
            ),
        ] {
            text.single(name, "gauge", help, value);
        }
        Ok(())
    }

    fn write_queue(&self, text: &mut Text) {
        let (counts, bytes) = self.queue.census();
        text.family("fnbuild_queue_calls", "gauge", "Asynchronous calls that this node keeps.");
        for (state, count) in counts {
            text.sample("fnbuild_queue_calls", &[("state", state)], count);
        }
        text.single("fnbuild_queue_bytes", "gauge", "What they take.", bytes);
    }
}
