//! The pool: for each base in use a few containers that wait for a function, so that a first call waits for no start.
//!
//! It is filled in the background, one container at a time, and never while a call waits for a start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::image::{Base, Unpacked};
use super::revision::Revision;
use super::warm::{Warm, starts_alone};
use super::{Error, Replica, Replicas, Timing};
use crate::function::Memory;
use crate::oci::Digest;

/// How many bases are kept warm; functions on others start the plain way.
const MAX_BASES: usize = 8;

/// How often it is looked whether all of them still wait.
const TICK: Duration = Duration::from_secs(1);

/// From a taken container to the start of the next: the call that took it shall have the processors.
const SETTLE: Duration = Duration::from_millis(100);

/// Between two attempts to learn the layers of a base whose image could not be fetched.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// The longest pause between two attempts to start a container of a base that fails to.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// The containers that wait.
pub(super) struct Pool {
    /// For each base.
    size: usize,
    shelves: Mutex<HashMap<Digest, Shelf>>,
    taken: Notify,
}

/// Those of one base.
struct Shelf {
    base: Arc<Base>,
    waiting: VecDeque<Warm>,
    coming: Coming,
    /// Bytes that the last one held that came; each holds about as much.
    held: u64,
    /// Starts that failed in a row.
    failures: u32,
    not_before: Instant,
}

/// The container of a base that is being started.
enum Coming {
    Nothing,
    /// For whoever asks first.
    Unclaimed,
    /// For a replica that found none waiting. Another start beside this one would only make both slower.
    Claimed(oneshot::Sender<Warm>),
}

impl Shelf {
    fn new(base: Arc<Base>) -> Self {
        let (waiting, coming, not_before) = (VecDeque::new(), Coming::Nothing, Instant::now());
        Self { base, waiting, coming, held: 0, failures: 0, not_before }
    }

    fn arrived(&mut self) -> Coming {
        std::mem::replace(&mut self.coming, Coming::Nothing)
    }
}

impl Pool {
    pub fn new(size: usize) -> Self {
        Self { size, shelves: Mutex::default(), taken: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has waited longest, of those that can be held to so much memory.
    fn take(&self, key: &Digest, limit: Memory) -> Option<Warm> {
        let mut shelves = self.lock();
        let waiting = &mut shelves.get_mut(key)?.waiting;
        let fitting = waiting.iter().position(|warm| warm.fits(limit));
        self.taken.notify_one();
        waiting.remove(fitting?)
    }

    /// The one that is being started, where nobody else waits for it and it is not known to be too large. It never comes
    /// if its start fails.
    fn claim(&self, key: &Digest, limit: Memory) -> Option<oneshot::Receiver<Warm>> {
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(key)?;
        if !matches!(shelf.coming, Coming::Unclaimed) || shelf.held >= limit.0 {
            return None;
        }
        let (sender, coming) = oneshot::channel();
        shelf.coming = Coming::Claimed(sender);
        Some(coming)
    }

    /// Takes one back that was claimed and is too large; gives it back if its base is kept warm no more.
    fn return_unused(&self, key: &Digest, warm: Warm) -> Option<Warm> {
        match self.lock().get_mut(key) {
            Some(shelf) => shelf.waiting.push_front(warm),
            None => return Some(warm),
        }
        None
    }

    /// There is, or may be, something to do.
    pub fn wake(&self) {
        self.taken.notify_one();
    }

    pub fn waiting(&self) -> usize {
        self.lock().values().map(|shelf| shelf.waiting.len()).sum()
    }

    /// Keeps these bases warm and no others. Gives what is to be removed: of other bases, or dead.
    fn keep(&self, bases: &HashMap<Digest, Arc<Base>>) -> Vec<Warm> {
        let mut shelves = self.lock();
        for (key, base) in bases {
            if shelves.len() < MAX_BASES && !shelves.contains_key(key) {
                shelves.insert(key.clone(), Shelf::new(base.clone()));
            }
        }
        let mut unwanted = Vec::new();
        for (key, shelf) in shelves.iter_mut() {
            let kept = bases.contains_key(key);
            let (stay, go) = shelf.waiting.drain(..).partition(|warm| kept && warm.waits());
            shelf.waiting = stay;
            unwanted.extend::<VecDeque<Warm>>(go);
        }
        shelves.retain(|key, _| bases.contains_key(key));
        unwanted
    }

    /// A base that has too few.
    fn short(&self) -> Option<Arc<Base>> {
        let shelves = self.lock();
        let short = |shelf: &&Shelf| shelf.waiting.len() < self.size && shelf.not_before <= Instant::now();
        shelves.values().filter(short).min_by_key(|shelf| shelf.waiting.len()).map(|shelf| shelf.base.clone())
    }

    fn begin(&self, base: &Base) {
        if let Some(shelf) = self.lock().get_mut(&base.key) {
            shelf.coming = Coming::Unclaimed;
        }
    }

    /// Takes in one that was started; gives it back if its base is kept warm no more.
    fn put(&self, base: &Base, warm: Warm) -> Option<Warm> {
        match self.lock().get_mut(&base.key) {
            Some(shelf) => {
                shelf.failures = 0;
                shelf.held = warm.held;
                let left = match shelf.arrived() {
                    Coming::Claimed(sender) => sender.send(warm).err(),
                    Coming::Unclaimed | Coming::Nothing => Some(warm),
                };
                shelf.waiting.extend(left);
                None
            }
            None => Some(warm),
        }
    }

    /// A start has failed: the next comes after a pause that doubles.
    fn failed(&self, base: &Base) {
        if let Some(shelf) = self.lock().get_mut(&base.key) {
            shelf.arrived();
            let pause = Duration::from_secs(1 << shelf.failures.min(10)).min(MAX_PAUSE);
            shelf.failures += 1;
            shelf.not_before = Instant::now() + pause;
        }
    }

    fn drain(&self) -> Vec<Warm> {
        self.lock().drain().flat_map(|(_, shelf)| shelf.waiting).collect()
    }
}

impl Replicas {
    /// How many containers wait for a function.
    pub fn warm_containers(&self) -> usize {
        self.pool.waiting()
    }

    /// A replica from the pool. `None`: none waits that fits, so a plain start is due.
    pub(super) async fn start_warm(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
    ) -> Option<(Arc<Replica>, Timing)> {
        let version = &revision.version.image;
        if self.pool.size == 0 || starts_alone(&version.settings) {
            return None;
        }
        let asked = Instant::now();
        // What fails here fails again, and is told, in the plain start.
        let prepared = self.starter.images.prepare(version);
        let image = self.stopping.run_until_cancelled(prepared).await?.ok()?;
        let code = image.code.as_ref()?;
        let queue = asked.elapsed();
        loop {
            let secrets = self.starter.secrets(&version.settings).await.ok()?;
            let (key, limit) = (&code.base.key, version.settings.memory);
            let warm = match self.pool.take(key, limit) {
                Some(warm) => warm,
                None => {
                    let coming = self.pool.claim(key, limit)?;
                    self.stopping.run_until_cancelled(coming).await?.ok()?
                }
            };
            let id = warm.id.clone();
            if !warm.fits(limit) {
                if self.pool.return_unused(key, warm).is_some() {
                    self.discard(id);
                }
                return None;
            }
            match self.starter.hand_over(warm, revision, (&image, code), secrets).await {
                Ok((replica, timing)) => {
                    self.record_in_background(replica.clone(), revision.clone(), image.clone());
                    return Some((replica, Timing { queue, ..timing }));
                }
                Err(error) => {
                    tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "hand-over failed");
                    self.discard(id);
                    // The function's own doing: another container would end like this one.
                    if error.is_of_the_function() {
                        return None;
                    }
                }
            }
        }
    }

    /// Until it is done a crash of the server costs this replica: the next server finds it to be nobody's.
    fn record_in_background(
        self: &Arc<Self>,
        replica: Arc<Replica>,
        revision: Arc<Revision>,
        image: Arc<Unpacked>,
    ) {
        let replicas = self.clone();
        self.spawn(async move {
            while let Err(error) = replicas.starter.record(&replica, &revision, &image).await {
                if !error.is_away() || replicas.stopping.is_cancelled() {
                    tracing::warn!(replica = %replica.id, error = &error as &dyn std::error::Error, "recording");
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        });
    }

    fn discard(self: &Arc<Self>, id: String) {
        let replicas = self.clone();
        self.spawn(async move { replicas.remove_warm(&id).await });
    }

    async fn remove_warm(&self, id: &str) {
        if let Err(error) = self.starter.clean(id).await {
            // The reconciler, or the next server, tries again.
            tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "cleaning up");
        }
        self.owned().remove(id);
    }

    /// Keeps the pool full until the server stops; then empties it.
    pub(super) async fn keep_pool(self: Arc<Self>) {
        if self.pool.size == 0 {
            return;
        }
        let mut asked = HashMap::new();
        let stopping = &self.stopping;
        while let Some(bases) = stopping.run_until_cancelled(self.bases_in_use(&mut asked)).await {
            for warm in self.pool.keep(&bases) {
                self.discard(warm.id.clone());
            }
            while !self.is_starting()
                && self.has_room()
                && !stopping.is_cancelled()
                && let Some(base) = self.pool.short()
            {
                self.fill(&base).await;
            }
            let pause = async {
                if tokio::time::timeout(TICK, self.pool.taken.notified()).await.is_ok() {
                    tokio::time::sleep(SETTLE).await;
                }
            };
            stopping.run_until_cancelled(pause).await;
        }
        let waiting = self.pool.drain();
        futures_util::future::join_all(waiting.iter().map(|warm| self.remove_warm(&warm.id))).await;
    }

    async fn fill(self: &Arc<Self>, base: &Base) {
        let id = format!("pool-{:08x}", getrandom::u32().unwrap_or_default());
        self.owned().insert(id.clone());
        self.pool.begin(base);
        let started = tokio::select! {
            started = self.starter.warm(base, &id) => started,
            () = self.stopping.cancelled() => Err(Error::Stopping),
        };
        let unwanted = match started {
            Ok(warm) => {
                tracing::debug!(replica = %id, "waits for a function");
                self.pool.put(base, warm).is_some()
            }
            Err(error) => {
                if !matches!(error, Error::Stopping) {
                    tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "the pool stays short");
                }
                self.pool.failed(base);
                true
            }
        };
        if unwanted {
            self.remove_warm(&id).await;
        }
    }

    /// The bases of the versions that calls go to. Of each base whose layers nobody has asked for yet, one version's
    /// image is.
    async fn bases_in_use(&self, asked: &mut HashMap<Digest, Instant>) -> HashMap<Digest, Arc<Base>> {
        let mut bases = HashMap::new();
        let (mut known, mut unknown) = (HashSet::new(), HashMap::new());
        let mut add = |image: &Unpacked| {
            if let Some(code) = &image.code {
                bases.insert(code.base.key.clone(), code.base.clone());
            }
        };
        let serving = self.each_revision().into_iter().filter(|(_, serves)| *serves);
        let serving = serving.map(|(revision, _)| revision.version.image.clone());
        for version in serving.chain(self.survey.of_each_base()) {
            match (self.starter.images.known(&version.digest), &version.base) {
                (Some(image), base) => {
                    known.extend(base.clone());
                    add(&image);
                }
                (None, Some(base)) => {
                    unknown.insert(base.clone(), version);
                }
                (None, None) => {}
            }
        }
        asked.retain(|base, at| unknown.contains_key(base) && at.elapsed() < ASK_AGAIN);
        for (base, version) in unknown {
            if !known.contains(&base) && !asked.contains_key(&base) {
                match self.starter.images.prepare(&version).await {
                    Ok(image) => add(&image),
                    Err(_) => drop(asked.insert(base, Instant::now())),
                }
            }
        }
        bases
    }
}
