//! Traces for OpenTelemetry, by OTLP over HTTP in its binary form.
//!
//! - Without an endpoint there is no [`Tracer`], and nobody does anything for it.
//! - Whether a trace is sampled is its first one's to decide; where a call brings no trace, the tracer's.
//! - Whoever is traced never waits: a span that finds the queue full is counted and lost.
//!
//! It is written out, as the libraries for it keep a span's state where any code may find it, and their exporters bring a
//! client of their own; the messages are a page, and their encoding is linked already.

mod context;
mod export;
mod otlp;
mod span;

pub use context::{Context, TRACEPARENT, TRACESTATE, state_of};
pub use export::{Exporter, TraceError, TraceSettings, Tracer};
pub use span::{Attributes, Clock, Kind, Span, Value};
