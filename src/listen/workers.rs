//! The threads that connections are served on: each connection stays on the one that it was given to.
//!
//! In every request hyper's halves wake each other a few times. A scheduler that moves tasks between threads answers each
//! of that by waking another thread, which finds the work done and sleeps again: on two cores that took longer than all
//! else that the trigger does. Only short work belongs here. Starts, builds and the management API stay with the runtime
//! that moves tasks, and waiting for a disk goes to blocking threads: a thread that is kept busy keeps all its connections
//! waiting.

use std::net::SocketAddr;

use tokio_util::task::LocalPoolHandle;

/// Where a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// Whether it came by TLS.
    pub encrypted: bool,
    /// The number of the thread that serves it.
    pub worker: usize,
}

/// A thread for each core. They end with the last handle.
#[derive(Clone)]
pub struct Workers(LocalPoolHandle);

impl Workers {
    pub fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(LocalPoolHandle::new(cores))
    }

    pub fn count(&self) -> usize {
        self.0.num_threads()
    }

    /// Runs what `work` makes on the thread that has the least to do, and tells it the thread's number.
    pub(super) fn run<F>(&self, work: impl FnOnce(usize) -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let loads = self.0.get_task_loads_for_each_worker().into_iter().enumerate();
        let worker = loads.min_by_key(|(_, load)| *load).map_or(0, |(worker, _)| worker);
        drop(self.0.spawn_pinned_by_idx(move || work(worker), worker));
    }

    /// Runs what `work` makes on every thread.
    pub fn run_on_each<F>(&self, work: impl Fn(usize) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        for worker in 0..self.count() {
            let work = work.clone();
            drop(self.0.spawn_pinned_by_idx(move || work(worker), worker));
        }
    }
}
