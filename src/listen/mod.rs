//! From a listener's socket to a service that answers: connections on threads that keep them, TLS, an orderly end.
//!
//! The trigger with the management API and the embedded registry are such services.

mod accept;
mod tls;
mod workers;

pub use accept::Listener;
pub use tls::{Plain, Tls, TlsError};
pub use workers::{Connection, Workers};
