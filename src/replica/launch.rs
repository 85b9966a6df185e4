//! From the wish for a replica to one that is watched, and to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::revision::Revision;
use super::table::Replicas;
use super::{Error, FailedStart, Replica, Timing, logs};
use crate::telemetry::Figures;

/// Between two attempts to start while containerd or the registry is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// How long those who stop replicas wait for them to be gone. Long after the grace has ended in SIGKILL.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A connection breaks before containerd tells of the death behind it.
const NEWS: Duration = Duration::from_secs(1);

impl Replicas {
    /// Starts replicas in the background; the revision has counted them already.
    pub(super) fn start_replicas(self: &Arc<Self>, revision: &Arc<Revision>, count: u32) {
        for _ in 0..count {
            let (replicas, revision) = (self.clone(), revision.clone());
            self.spawn(async move { replicas.start_replica(&revision, None).await });
        }
    }

    /// The same for one that has its place.
    pub(super) fn start_at(self: &Arc<Self>, revision: &Arc<Revision>, place: OwnedSemaphorePermit) {
        let (replicas, revision) = (self.clone(), revision.clone());
        self.spawn(async move { replicas.start_replica(&revision, Some(place)).await });
    }

    async fn start_replica(self: &Arc<Self>, revision: &Arc<Revision>, place: Option<OwnedSemaphorePermit>) {
        let asked = Instant::now();
        // Before it takes a place or a turn: who waits for the registry keeps nobody else from starting.
        if let Err(error) = self.fetched(revision, asked).await {
            tracing::warn!(function = %revision.name, error = &error as &dyn std::error::Error, "no image to start");
            return self.start_failed(revision, error);
        }
        let place = match place {
            Some(place) => place,
            None => match self.place_for(revision).await {
                Some(place) => place,
                None => return,
            },
        };
        if let Some((replica, timing)) = self.start_warm(revision).await {
            return self.started(revision, (replica, timing), place).await;
        }
        let Ok(_turn) = self.starts.acquire().await else { return };
        let waited = asked.elapsed();
        let mut id = self.starter.new_id(revision);
        let started = loop {
            self.owned().insert(id.clone());
            let started = tokio::select! {
                started = self.starter.start(revision, &id) => started,
                () = self.stopping.cancelled() => Err(Error::Stopping),
            };
            match started {
                Err(error) if error.is_away() && asked.elapsed() < self.scale.start_timeout => {
                    revision.hindered(error);
                    tokio::time::sleep(AWAY_PAUSE).await;
                    // What the attempt left could not be removed without containerd either: the reconciler finds it
                    // under the ID that nobody owns any more.
                    self.owned().remove(&std::mem::replace(&mut id, self.starter.new_id(revision)));
                }
                other => break other,
            }
        };
        match started {
            Ok((replica, mut timing)) => {
                timing.queue += waited;
                self.started(revision, (replica, timing), place).await;
            }
            Err(error) => {
                tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "replica did not start");
                self.owned().remove(&id);
                self.start_failed(revision, error);
            }
        }
    }

    fn start_failed(&self, revision: &Revision, error: Error) {
        self.figures().failed_starts.add_one();
        let error = Arc::new(error);
        if !matches!(*error, Error::Stopping) {
            let (time, version) = (jiff::Timestamp::now(), revision.version.number);
            let failed = FailedStart { time, version, error: Arc::clone(&error) };
            // Held while it is looked whose it is, so that a deletion forgets it or has happened. The next function of that
            // name has a history of its own.
            let mut mishaps = self.mishaps();
            if self.revisions(&revision.name).iter().any(|known| std::ptr::eq(&**known, revision)) {
                mishaps.entry(revision.name.clone()).or_default().failed_start = Some(failed);
            }
        }
        revision.start_failed(error);
    }

    /// Sees to it that the image is there; while what it comes from is away, waits for as long as a start may take.
    async fn fetched(&self, revision: &Revision, asked: Instant) -> Result<(), Error> {
        loop {
            let prepared = self.starter.images.prepare(&revision.version.image);
            let error = match self.stopping.run_until_cancelled(prepared).await {
                None => return Err(Error::Stopping),
                Some(Ok(_)) => return Ok(()),
                Some(Err(error)) => error,
            };
            if !error.is_away() || asked.elapsed() >= self.scale.start_timeout {
                return Err(error);
            }
            let told = format!("{error}");
            if revision.hindered(error) {
                tracing::warn!(function = %revision.name, error = told, "a start waits for its image");
            }
            tokio::time::sleep(AWAY_PAUSE).await;
        }
    }

    async fn started(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        (replica, timing): (Arc<Replica>, Timing),
        place: OwnedSemaphorePermit,
    ) {
        let Figures { starts_from_pool, starts_of_containers, .. } = self.figures();
        let made_of = if timing.create.is_zero() { starts_from_pool } else { starts_of_containers };
        // Its base may be one that nobody used before.
        self.pool.wake();
        made_of.add(timing.prepare + timing.create + timing.boot);
        let Timing { queue, prepare, create, boot } = timing;
        tracing::info!(
            replica = %replica.id,
            address = %replica.address,
            queue_ms = milliseconds(queue),
            prepare_ms = milliseconds(prepare),
            create_ms = milliseconds(create),
            boot_ms = milliseconds(boot),
            "replica started"
        );
        self.watch(replica.clone(), revision.clone(), Some(place));
        if let Err(unwanted) = revision.join(&replica, Some(timing)) {
            self.stop_replica(unwanted).await;
        }
    }

    /// Whether a call waits for a plain start.
    pub(super) fn is_starting(&self) -> bool {
        self.starts.available_permits() < self.scale.parallel_starts.max(1)
    }

    /// Waits in the background until the replica has ended, then takes it out of the routes, cleans up, and gives its
    /// place to another.
    pub(super) fn watch(
        self: &Arc<Self>,
        replica: Arc<Replica>,
        revision: Arc<Revision>,
        place: Option<OwnedSemaphorePermit>,
    ) {
        self.owned().insert(replica.id.clone());
        let replicas = self.clone();
        self.spawn(async move {
            let fate = tokio::select! {
                fate = replicas.starter.ended(&replica) => fate,
                // It lives on, for the next server.
                () = replicas.stopping.cancelled() => return,
            };
            // One that was to end has left the routes before.
            if let Some(starts) = revision.leave(&replica.id) {
                replicas.died(&replica, &fate, &revision.version.image.settings);
                replicas.start_replicas(&revision, starts);
            }
            // Told before the cleaning up: calls whose connection has broken wait for it.
            replica.fate.send_replace(Some(fate));
            if let Err(error) = replicas.starter.clean(&replica.id).await {
                // The reconciler tries again.
                tracing::warn!(replica = %replica.id, error = &error as &dyn std::error::Error, "cleaning up");
            }
            replicas.owned().remove(&replica.id);
            let alive = |id: &str| replicas.owned().contains(id);
            logs::prune(&replicas.starter.data_dir, &replica.function, alive);
            replica.gone.cancel();
            drop(place);
        });
    }

    /// The gateway could not connect to it: no more calls go there, and it is ended if it has not ended itself.
    pub fn report_dead(self: &Arc<Self>, replica: &Arc<Replica>) {
        let Some(revision) =
            self.revisions(&replica.function).into_iter().find(|r| r.version.number == replica.version)
        else {
            return;
        };
        // Whoever takes it out of the routes ends it: many calls report the same death.
        if let Some(starts) = revision.leave(&replica.id) {
            self.start_replicas(&revision, starts);
            let (replicas, replica) = (self.clone(), replica.clone());
            self.spawn(async move {
                if let Some(fate) = replica.fate(NEWS).await {
                    replicas.died(&replica, &fate, &revision.version.image.settings);
                }
                replicas.stop_replica(replica).await;
            });
        }
    }

    /// Ends a replica that is out of the routes, and waits until it is gone.
    pub(super) fn stop_replica(
        self: &Arc<Self>,
        replica: Arc<Replica>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let replicas = self.clone();
        async move {
            if let Err(error) = replicas.starter.end(&replica.id).await {
                tracing::warn!(replica = %replica.id, error = &error as &dyn std::error::Error, "stopping");
            }
            tokio::select! {
                _ = tokio::time::timeout(STOP_PATIENCE, replica.gone.cancelled()) => {}
                // Nobody watches any more: the next server removes it.
                () = replicas.stopping.cancelled() => {}
            }
        }
    }
}

/// For a log: to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
