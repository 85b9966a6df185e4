//! Kept-alive connections to replicas, by replica; each thread has its own.
//!
//! A connection is put back only after an answer was read to its end, and the one used last is taken first, so that
//! few stay warm and the rest expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::link::Link;

/// Shorter than any server's own patience, so that we and not it close a silent connection: a request written into
/// one that is being closed is lost, and may not be sent again.
const IDLE: Duration = Duration::from_secs(3);
/// No more are kept for one replica.
const KEPT: usize = 256;

/// All replicas' connections of one thread.
#[derive(Default)]
pub struct Pools {
    replicas: Mutex<HashMap<Box<str>, Arc<Pool>>>,
}

/// One replica's.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<(Link, Instant)>>,
}

impl Pools {
    pub fn of(&self, replica: &str) -> Arc<Pool> {
        let mut replicas = lock(&self.replicas);
        if let Some(pool) = replicas.get(replica) {
            return Arc::clone(pool);
        }
        Arc::clone(replicas.entry(replica.into()).or_default())
    }

    /// Closes what is silent for long, and forgets replicas without connections, on the thread whose pools they are,
    /// until the pools are gone.
    ///
    /// A runtime that is about to wait for this tick is not woken for each of the longer times that a call sets.
    pub async fn sweep(pools: Weak<[Self]>, worker: usize) {
        let mut tick = tokio::time::interval(IDLE);
        loop {
            tick.tick().await;
            let Some(pools) = pools.upgrade() else { return };
            let Some(pools) = pools.get(worker) else { return };
            lock(&pools.replicas).retain(|_, pool| {
                let mut idle = lock(&pool.idle);
                idle.retain_mut(|(link, since)| since.elapsed() < IDLE && link.is_open());
                !idle.is_empty() || Arc::strong_count(pool) > 1
            });
        }
    }
}

impl Pool {
    /// A connection that was open when last looked at.
    pub fn take(&self) -> Option<Link> {
        let mut idle = lock(&self.idle);
        while let Some((mut link, since)) = idle.pop() {
            if since.elapsed() < IDLE && link.is_open() {
                return Some(link);
            }
        }
        None
    }

    pub fn put(&self, link: Link) {
        let mut idle = lock(&self.idle);
        if idle.len() < KEPT {
            idle.push((link, Instant::now()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held leaves at most a connection too many or too few.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
