//! The connections to etcd's members: every request through one of them, and through another when that one fails.
//!
//! One multiplexed connection serves all; a balancer over all members would make each of their failures visible.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, GetOptions, GetResponse, Txn, TxnResponse, WatchOptions, WatchStream,
};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::options::EtcdOptions;
use crate::store::StoreError;

/// How long one member may take, and all of them together: the client has no time limit of its own.
#[derive(Clone, Copy)]
struct Limits {
    one: Duration,
    all: Duration,
}

/// Long enough for an election, which etcd's default settings let take one to two seconds.
const USUAL: Limits = Limits { one: Duration::from_secs(2), all: Duration::from_secs(5) };
/// For what is asked again soon.
const BRIEF: Limits = Limits { one: Duration::from_secs(2), all: Duration::from_secs(2) };
/// For who must have an answer, good or bad, before a health check gives up. The members divide it among them.
const GLANCE: Duration = Duration::from_millis(1600);
const PAUSE: Duration = Duration::from_millis(50);
/// A page of a listing, or what stands where many writes were refused: 512 records of etcd's largest size would not be
/// larger.
const LARGEST_ANSWER: usize = 768 << 20;

pub struct Members {
    /// Lazy: connecting as a user already asks the member for a token.
    members: Vec<(String, OnceCell<Client>)>,
    options: ConnectOptions,
    /// The member that requests go to, as an index; counted on and on, so always modulo their number.
    current: AtomicUsize,
    place: String,
}

/// An answer, and whether an earlier attempt may have been carried out without an answer.
pub struct Attempted<T> {
    pub answer: T,
    pub repeated: bool,
}

impl Members {
    pub fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let members = options.endpoints.iter().map(|endpoint| (endpoint.clone(), OnceCell::new())).collect();
        let place = options.endpoints.join(",");
        Ok(Self { members, options: options.connect_options()?, current: AtomicUsize::new(0), place })
    }

    /// All endpoints, for errors.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub async fn txn(&self, step: &'static str, txn: Txn) -> Result<TxnResponse, StoreError> {
        Ok(self.txn_until(step, txn, Instant::now() + USUAL.all).await?.answer)
    }

    pub async fn txn_until(
        &self,
        step: &'static str,
        txn: Txn,
        deadline: Instant,
    ) -> Result<Attempted<TxnResponse>, StoreError> {
        let limits = Limits { all: deadline.saturating_duration_since(Instant::now()), ..USUAL };
        self.attempt(step, limits, |client| {
            let txn = txn.clone();
            async move { client.kv_client().max_decoding_message_size(LARGEST_ANSWER).txn(txn).await }
        })
        .await
    }

    pub async fn get(&self, key: &str, options: GetOptions) -> Result<GetResponse, StoreError> {
        let attempted = self.attempt("read", USUAL, |client| {
            let options = options.clone();
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(LARGEST_ANSWER);
                kv.get(key, Some(options)).await
            }
        });
        Ok(attempted.await?.answer)
    }

    /// A read that gives up early: for readiness.
    pub async fn glance(&self, key: &str) -> Result<GetResponse, StoreError> {
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX).max(1);
        let limits = Limits { one: GLANCE / members, all: GLANCE };
        let attempted =
            self.attempt("read", limits, |client| async move { client.kv_client().get(key, None).await });
        Ok(attempted.await?.answer)
    }

    pub async fn watch(&self, key: &str, options: WatchOptions) -> Result<WatchStream, StoreError> {
        let attempted = self.attempt("watch", USUAL, |client| {
            let options = options.clone();
            async move {
                let mut watch = client.watch_client().max_decoding_message_size(LARGEST_ANSWER);
                watch.watch(key, Some(options)).await
            }
        });
        Ok(attempted.await?.answer)
    }

    /// For so many seconds; gives its ID.
    pub async fn begin_lease(&self, seconds: i64) -> Result<i64, StoreError> {
        let attempted = self.attempt("begin a lease", BRIEF, |client| async move {
            client.lease_client().grant(seconds, None).await
        });
        Ok(attempted.await?.answer.id())
    }

    /// `false`: it has run out.
    pub async fn renew_lease(&self, id: i64) -> Result<bool, StoreError> {
        let attempted = self.attempt("renew a lease", BRIEF, |client| async move {
            // The first answer is read here already, and that there is no such lease comes as an error.
            match client.lease_client().keep_alive(id).await {
                Ok(_) => Ok(true),
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        });
        Ok(attempted.await?.answer)
    }

    pub async fn end_lease(&self, id: i64) -> Result<(), StoreError> {
        let attempted = self
            .attempt("end a lease", BRIEF, |client| async move { client.lease_client().revoke(id).await });
        attempted.await.map(drop)
    }

    /// Tells that what ran through the current member broke, so that the next request takes another.
    pub fn rotate(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    pub fn away(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Away { place: self.place.clone(), source: source.into().into() }
    }

    async fn attempt<T, F>(
        &self,
        step: &'static str,
        limits: Limits,
        request: impl Fn(Client) -> F,
    ) -> Result<Attempted<T>, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + limits.all;
        let mut repeated = false;
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let attempt = async { request(self.client(index).await?).await };
            let left = deadline.saturating_duration_since(Instant::now());
            let failure = match timeout(limits.one.min(left), attempt).await {
                Ok(Ok(answer)) => return Ok(Attempted { answer, repeated }),
                Ok(Err(error)) if !is_passing(&error) => {
                    return Err(StoreError::Refused {
                        step,
                        place: self.place.clone(),
                        source: told(error).into(),
                    });
                }
                Ok(Err(error)) => self.away(told(error)),
                Err(elapsed) => self.away(elapsed),
            };
            repeated = true;
            // Of many requests that fail together only the first moves on.
            let next = index.wrapping_add(1);
            let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            if Instant::now() + PAUSE >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn client(&self, index: usize) -> Result<Client, etcd_client::Error> {
        let Some((endpoint, client)) = self.members.get(index % self.members.len().max(1)) else {
            return Err(etcd_client::Error::InvalidArgs("no endpoint is given".into()));
        };
        let connect = || Client::connect([endpoint], Some(self.options.clone()));
        client.get_or_try_init(connect).await.cloned()
    }
}

/// What etcd answered, or why no answer came, as a person reads it: tonic's own text tells a developer how it is made inside.
fn told(error: etcd_client::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.into() };
    // Every layer below has wrapped the one cause, and says less than it.
    let causes = std::iter::successors(std::error::Error::source(&status), |cause| cause.source());
    match (causes.last(), status.message()) {
        (Some(cause), _) => cause.to_string().into(),
        (None, "") => status.code().description().into(),
        (None, message) => message.into(),
    }
}

/// Whether another member, or the same one a moment later, may do better.
fn is_passing(error: &etcd_client::Error) -> bool {
    use tonic::Code;
    match error {
        etcd_client::Error::GRpcStatus(status) => matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
        ),
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        _ => false,
    }
}
