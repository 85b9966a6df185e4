//! The HTTP trigger: `ANY /function/NAME[@VERSION][/rest]` → a replica that answers, and back.
//!
//! - A warm call touches memory only: no store, no containerd, no disk.
//! - Bodies are streamed both ways and never held whole.
//! - A call is tried again only while not one byte of it has reached a function.
//! - What is wrong with the platform and what is wrong with the function are told apart: `X-Fnbuild-Error`.
//!
//! It runs on hyper directly: a router and its layers would cost more than everything else here. A connection, what it
//! asks for and the connection to the replica that answers are all of one thread: see [`crate::listen::Workers`].

mod body;
mod door;
mod fault;
mod headers;
mod link;
mod pool;
mod proxy;
mod replicas;
mod route;
mod timing;
mod trace;
mod upgrade;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::function::{FunctionName, Target};

pub use body::AnswerBody;
pub use door::{Doorkeeper, NotAdmitted, NotAdmittedKind};
pub use fault::Whose;
pub use headers::{call_id, forward};
pub use proxy::{Delivered, Delivery, Gateway};
pub use route::{is_later, is_trigger, route_later};

/// Where the replicas are. The pool of real containers is one; tests have their own local servers.
pub trait Replicas: Send + Sync + 'static {
    type Lease: Lease;

    /// A replica with room for one more call: at once where there is one, else as soon as one is up or free. A call that
    /// has shown no token yet is not `admitted`: [`Unavailable::NeedsToken`] where that is what it takes.
    fn acquire(
        &self,
        target: &Target,
        admitted: bool,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Lease, Unavailable>> + Send;
    /// A call was answered for the function, because no replica answered it; `begun`: one had it. To be counted.
    fn refused(&self, _name: &FunctionName, _begun: bool, _status: StatusCode, _took: Duration) {}
}

/// The right to one call at one replica, given back when it is dropped.
pub trait Lease: Send + Sync + Unpin + 'static {
    /// Unique among all replicas that ever were: connections are kept under it.
    fn replica(&self) -> &str;
    fn address(&self) -> SocketAddr;
    /// To the first byte of the answer.
    fn timeout(&self) -> Duration;
    /// Where the time of the start went that this call had to wait for, if it had to.
    fn cold(&self) -> Option<ColdStart>;
    /// How the replica ended, if it did: to be asked after a connection has broken.
    fn cause_of_death(&self) -> impl Future<Output = Option<String>> + Send;
    /// Ends when nothing is left of the replica that an answer could come from. Its connections need not have broken: the
    /// network may be gone before it has carried the news.
    fn gone(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
    /// The call is sent to the replica, for the first time: to be counted.
    fn begun(&self) {}
    /// The replica does not accept connections, or broke one: somebody should look after it.
    fn failed(&self);
    /// The replica answered, so long after the call came: to be counted.
    fn answered(&self, _status: StatusCode, _took: Duration) {}
}

/// The parts of a start. What else a call waited is queueing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ColdStart {
    /// Files and network.
    pub mount: Duration,
    /// The container; nothing where one stood ready.
    pub create: Duration,
    /// The process, until the function is loaded.
    pub import: Duration,
}

/// Why there is no replica for a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unavailable {
    NoFunction,
    NoVersion,
    /// The function answers only who has shown a token.
    NeedsToken,
    /// All replicas and the queue are full.
    Full {
        retry_after: Duration,
    },
    /// Another node may have one.
    Elsewhere {
        retry_after: Duration,
        reason: String,
    },
    /// It was tried and it failed.
    CannotStart {
        whose: Whose,
        reason: String,
    },
    /// The deadline came first.
    TooLate,
}

/// How far a call came: whether it is worth making again, and whether the function may know of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// There is nothing that it could reach, and waiting does not help.
    Nothing,
    /// The function has not begun; the platform could not have it begin yet.
    NotYet,
    /// The function answered, or broke.
    Function,
}

/// The bounds of a call.
#[derive(Clone, Debug)]
pub struct Limits {
    pub request_body: u64,
    /// Of an answer that says its length; streams have none.
    pub response_body: u64,
    /// How long a call waits for a replica.
    pub start_timeout: Duration,
    /// How long a stream may be silent once the answer has begun.
    pub idle_timeout: Duration,
}
