//! Kept-alive connections to replicas, by replica.
//!
//! A connection is put back only after an answer was read to its end, and the one used last is taken first, so that
//! few stay warm and the rest expire.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::body::RequestBody;

/// Shorter than any server's own patience, so that we and not it close a silent connection: a request written into
/// one that is being closed is lost, and may not be sent again.
const IDLE: Duration = Duration::from_secs(3);
/// Within one machine a connection is made at once or not at all.
const CONNECT: Duration = Duration::from_secs(2);
/// No more are kept for one replica.
const KEPT: usize = 256;

pub type Sender = SendRequest<RequestBody>;

/// All replicas' connections.
#[derive(Default)]
pub struct Pools {
    replicas: Mutex<HashMap<Box<str>, Arc<Pool>>>,
}

/// One replica's.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<(Sender, Instant)>>,
}

impl Pools {
    pub fn of(&self, replica: &str) -> Arc<Pool> {
        let mut replicas = lock(&self.replicas);
        if let Some(pool) = replicas.get(replica) {
            return Arc::clone(pool);
        }
        Arc::clone(replicas.entry(replica.into()).or_default())
    }

    /// Closes what is silent for long, and forgets replicas without connections, until the pools are gone.
    pub async fn sweep(pools: Weak<Self>) {
        let mut tick = tokio::time::interval(IDLE);
        loop {
            tick.tick().await;
            let Some(pools) = pools.upgrade() else { return };
            lock(&pools.replicas).retain(|_, pool| {
                let mut idle = lock(&pool.idle);
                idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
                !idle.is_empty() || Arc::strong_count(pool) > 1
            });
        }
    }
}

impl Pool {
    /// A connection that was open when last looked at.
    pub fn take(&self) -> Option<Sender> {
        let mut idle = lock(&self.idle);
        while let Some((sender, since)) = idle.pop() {
            if !sender.is_closed() && since.elapsed() < IDLE {
                return Some(sender);
            }
        }
        None
    }

    pub fn put(&self, sender: Sender) {
        let mut idle = lock(&self.idle);
        if !sender.is_closed() && idle.len() < KEPT {
            idle.push((sender, Instant::now()));
        }
    }
}

pub async fn connect(address: SocketAddr) -> io::Result<Sender> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves at most a connection too many or too few.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
