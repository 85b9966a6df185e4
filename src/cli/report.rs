//! What build and push say of an image's layers and of where the time went: for people with `-v`, for programs in JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Printer;
use crate::oci::{Descriptor, Digest};
use crate::publish::{Arrival, PackagesReport, Resolved};

/// One layer, lowest first in a list.
#[derive(Serialize)]
pub struct LayerReport {
    digest: Digest,
    /// Bytes, as stored.
    size: u64,
    /// `new`, `mounted` or `present`.
    state: &'static str,
}

pub fn layers<'a>(layers: impl IntoIterator<Item = &'a (Descriptor, Arrival)>) -> Vec<LayerReport> {
    let report = |(layer, arrival): &(Descriptor, Arrival)| LayerReport {
        digest: layer.digest.clone(),
        size: layer.size,
        state: arrival.as_str(),
    };
    layers.into_iter().map(report).collect()
}

/// Milliseconds by step. What was done for each of several platforms is added up.
pub fn times(times: &[(&'static str, Duration)]) -> BTreeMap<&'static str, f64> {
    let mut sums: BTreeMap<_, f64> = BTreeMap::new();
    for (step, took) in times {
        *sums.entry(*step).or_default() += took.as_secs_f64() * 1e3;
    }
    // A microsecond is more than anybody reads.
    sums.values_mut().for_each(|sum| *sum = (*sum * 1e3).round() / 1e3);
    sums
}

pub fn explain_layers(layers: &[LayerReport], printer: &Printer) {
    for LayerReport { digest, size, state } in layers {
        printer.detail(format!("{} {state:>9} {size} bytes", digest.short()));
    }
}

pub fn explain_times(times: &[(&'static str, Duration)], printer: &Printer) {
    for (step, took) in times {
        printer.detail(format!("{step:>9} {:.1} ms", took.as_secs_f64() * 1e3));
    }
}

/// What was not locked is said even without `-v`.
pub fn explain_packages(report: &PackagesReport, printer: &Printer) {
    let packages: Vec<String> =
        report.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    let packages = packages.join(", ");
    match report.resolved {
        Resolved::Before => {}
        Resolved::Locked => printer.detail(format!("packages by requirements.lock: {packages}")),
        Resolved::Kept => {
            printer.status(format!("no requirements.lock; packages as resolved within a day: {packages}"));
        }
        Resolved::Now => printer.status(format!(
            "no requirements.lock; packages resolved now: {packages} (`fnbuild lock` keeps them)"
        )),
    }
}
