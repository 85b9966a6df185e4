//! Which functions there are, which version calls go to, and the doors to all of it: [`Replicas`].

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::image::Images;
use super::pool::Pool;
use super::revision::{Admission, Lease, Revision};
use super::start::Starter;
use super::{
    Error, ExecRequest, LogLine, LogQuery, Replica, ReplicaConfig, ReplicaState, ReplicaStatus, Timing, logs,
};
use crate::containerd::{Containerd, Exec};
use crate::function::{FunctionName, FunctionRecord, NewVersion, VersionNumber};
use crate::network::{Network, NetworkConfig};

/// Between two attempts to start while containerd is away.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// How long those who stop replicas wait for them to be gone. Long after the grace has ended in SIGKILL.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// All replicas of this data folder.
pub struct Replicas {
    pub(super) starter: Starter,
    pub(super) scale: super::ScaleSettings,
    routes: RwLock<HashMap<FunctionName, Route>>,
    /// The replicas that this process starts, runs or ends, so that the reconciler leaves them alone.
    owned: Mutex<HashSet<String>>,
    starts: Semaphore,
    pub(super) pool: Pool,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// One function's routing.
struct Route {
    record: FunctionRecord,
    /// What calls that name no version go to.
    serving: Arc<Revision>,
    /// Versions that were called by number, or whose calls still finish.
    others: Vec<Arc<Revision>>,
}

impl Replicas {
    /// Connects, brings the network up, adopts what still runs of `records`' current versions and removes the rest of
    /// what this data folder left behind. Then looks after all of it until [`Replicas::stop`].
    pub async fn start(config: ReplicaConfig, records: Vec<FunctionRecord>) -> Result<Arc<Self>, Error> {
        let containerd = Containerd::connect(&config.socket, &config.namespace).await?;
        let network = Network::start(NetworkConfig {
            folder_id: config.folder.to_string(),
            data_dir: config.data_dir.clone(),
            subnet: config.network.subnet,
            plugins: config.network.plugins,
            egress: config.network.egress,
            dns: config.network.dns,
        });
        let network = network.await?;
        let images = Images::new(containerd.clone(), config.images, config.folder.clone());
        let starter = Starter {
            containerd,
            network,
            images,
            secrets: config.secrets,
            folder: config.folder,
            data_dir: config.data_dir,
            program: config.program,
            walls: config.walls,
            start_timeout: config.scale.start_timeout,
        };
        let routes = records.into_iter().filter_map(|record| {
            let serving = revision(&record, record.current, config.scale.queue)?;
            Some((record.name.clone(), Route { record, serving, others: Vec::new() }))
        });
        let replicas = Arc::new(Self {
            starter,
            scale: config.scale,
            routes: RwLock::new(routes.collect()),
            owned: Mutex::default(),
            starts: Semaphore::new(config.scale.parallel_starts.max(1)),
            pool: Pool::new(config.scale.pool),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        replicas.adopt().await?;
        replicas.tasks.spawn(replicas.clone().look_after());
        replicas.tasks.spawn(replicas.clone().keep_pool());
        Ok(replicas)
    }

    /// Fetches, unpacks and pins a version's image, and looks that the secrets are there which it names: to be done
    /// before its record is written, so that a version is current only when it can start.
    pub async fn prepare(&self, version: &NewVersion) -> Result<(), Error> {
        self.starter.secrets(&version.settings).await?;
        self.starter.images.prepare(version).await.map(drop)
    }

    /// Takes in a record that was written. Ends when calls go to its current version: at once where nothing ran, else
    /// when a replica of it is ready, while the ones before go on answering and then finish their calls.
    pub async fn updated(self: &Arc<Self>, record: &FunctionRecord) -> Result<(), Error> {
        self.take_in(record)?.await;
        Ok(())
    }

    /// The same in two halves. Records are to be taken in in the order that they were written in, which is done when
    /// this returns; the waiting that is left may overlap with a later record's, which cuts it short.
    pub fn take_in(
        self: &Arc<Self>,
        record: &FunctionRecord,
    ) -> Result<impl Future<Output = ()> + Send + use<>, Error> {
        let Some(next) = revision(record, record.current, self.scale.queue) else {
            return Err(Error::UnknownVersion { name: record.name.clone(), version: record.current });
        };
        let before = self.enter(record, &next);
        let (replicas, record) = (self.clone(), record.clone());
        Ok(async move {
            if let Some(before) = before {
                replicas.switch(&record, before, next).await;
            }
        })
    }

    async fn switch(self: &Arc<Self>, record: &FunctionRecord, before: Arc<Revision>, next: Arc<Revision>) {
        if before.is_alive() {
            self.warm(record, &next).await;
        }
        let before = {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            match routes.get_mut(&record.name) {
                // Unless a later record was faster.
                Some(route) if route.record.current == record.current => {
                    route.others.retain(|other| !Arc::ptr_eq(other, &next));
                    let before = std::mem::replace(&mut route.serving, next);
                    route.others.push(before.clone());
                    Some(before)
                }
                _ => None,
            }
        };
        if let Some(before) = before {
            self.forward_waiting(&before).await;
        }
    }

    /// Puts the record into the table; gives the revision to be replaced, if there is one.
    fn enter(&self, record: &FunctionRecord, next: &Arc<Revision>) -> Option<Arc<Revision>> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        match routes.get_mut(&record.name) {
            Some(route) => {
                route.record = record.clone();
                if route.serving.key == next.key {
                    return None;
                }
                // Already among the revisions, so that its replica is not taken for a stray.
                route.others.push(next.clone());
                Some(route.serving.clone())
            }
            None => {
                let route = Route { record: record.clone(), serving: next.clone(), others: Vec::new() };
                routes.insert(record.name.clone(), route);
                None
            }
        }
    }

    /// Starts one replica and waits for it, unless a later record comes. A version that cannot start is switched to all
    /// the same: its calls shall say why, rather than get answers of code that was replaced.
    async fn warm(self: &Arc<Self>, record: &FunctionRecord, revision: &Arc<Revision>) {
        self.start_replicas(revision, revision.shortage(1));
        let is_latest = || {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.get(&record.name).is_some_and(|route| route.record.current == record.current)
        };
        let ready = async {
            while revision.is_alive() && !revision.is_ready() && is_latest() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(self.scale.start_timeout, ready).await;
    }

    /// Calls that wait for the version before keep their places there until its replicas are done with them.
    async fn forward_waiting(self: &Arc<Self>, before: &Arc<Revision>) {
        if before.calls_waiting() > 0 && !before.is_alive() {
            self.start_replicas(before, before.shortage(1));
        }
    }

    /// Stops and forgets a function: containers, images, logs. Calls that wait fail with [`Error::Removed`].
    pub async fn removed(self: &Arc<Self>, name: &FunctionName) -> Result<(), Error> {
        let route = self.routes.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        let Some(route) = route else { return Ok(()) };
        let mut stopping = Vec::new();
        for revision in std::iter::once(&route.serving).chain(&route.others) {
            revision.retire();
            stopping.extend(revision.clear().into_iter().map(|replica| self.stop_replica(replica)));
        }
        futures_util::future::join_all(stopping).await;
        self.sweep_images_of(&route.record).await;
        logs::remove(&self.starter.data_dir, name);
        Ok(())
    }

    /// A replica for one call of the current version, or of the one given; waits until `deadline` for one to be free
    /// or to start.
    ///
    /// # Errors
    /// See [`Error`] for the HTTP status that each stands for.
    pub async fn acquire(
        self: &Arc<Self>,
        name: &FunctionName,
        version: Option<VersionNumber>,
        deadline: Instant,
    ) -> Result<Lease, Error> {
        let asked = Instant::now();
        let revision = self.route(name, version)?;
        let (grant, starts) = match revision.admit()? {
            Admission::Granted(lease) => return Ok(lease),
            Admission::Queued { grant, starts } => (grant, starts),
        };
        self.start_replicas(&revision, starts);
        match tokio::time::timeout_at(deadline.into(), grant).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_)) => Err(Error::Stopping),
            Err(_) => Err(Error::TooSlow { name: name.clone(), waited: asked.elapsed() }),
        }
    }

    fn route(&self, name: &FunctionName, version: Option<VersionNumber>) -> Result<Arc<Revision>, Error> {
        let unknown = || Error::UnknownFunction { name: name.clone() };
        {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            let route = routes.get(name).ok_or_else(unknown)?;
            match version {
                Some(number) if number != route.serving.version.number => {}
                _ => return Ok(route.serving.clone()),
            }
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get_mut(name).ok_or_else(unknown)?;
        let number = version.unwrap_or(route.record.current);
        if let Some(known) = route.others.iter().find(|other| other.version.number == number) {
            return Ok(known.clone());
        }
        let made = revision(&route.record, number, self.scale.queue);
        let made = made.ok_or_else(|| Error::UnknownVersion { name: name.clone(), version: number })?;
        route.others.push(made.clone());
        Ok(made)
    }

    /// Starts replicas in the background; the revision has counted them already.
    pub(super) fn start_replicas(self: &Arc<Self>, revision: &Arc<Revision>, count: u32) {
        for _ in 0..count {
            let (replicas, revision) = (self.clone(), revision.clone());
            self.tasks.spawn(async move { replicas.start_replica(&revision).await });
        }
    }

    async fn start_replica(self: &Arc<Self>, revision: &Arc<Revision>) {
        if let Some((replica, timing)) = self.start_warm(revision).await {
            return self.started(revision, replica, timing).await;
        }
        let asked = Instant::now();
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
                self.started(revision, replica, timing).await;
            }
            Err(error) => {
                tracing::warn!(replica = %id, error = &error as &dyn std::error::Error, "replica did not start");
                self.owned().remove(&id);
                revision.start_failed(error);
            }
        }
    }

    async fn started(self: &Arc<Self>, revision: &Arc<Revision>, replica: Arc<Replica>, timing: Timing) {
        tracing::info!(replica = %replica.id, address = %replica.address, ?timing, "replica started");
        self.watch(replica.clone(), revision.clone());
        if let Err(unwanted) = revision.join(&replica, Some(timing)) {
            self.stop_replica(unwanted).await;
        }
    }

    /// Whether a call waits for a plain start.
    pub(super) fn is_starting(&self) -> bool {
        self.starts.available_permits() < self.scale.parallel_starts.max(1)
    }

    /// Waits in the background until the replica has ended, then takes it out of the routes and cleans up.
    pub(super) fn watch(self: &Arc<Self>, replica: Arc<Replica>, revision: Arc<Revision>) {
        self.owned().insert(replica.id.clone());
        let replicas = self.clone();
        self.tasks.spawn(async move {
            let fate = tokio::select! {
                fate = replicas.starter.ended(&replica) => fate,
                // It lives on, for the next server.
                () = replicas.stopping.cancelled() => return,
            };
            let starts = revision.leave(&replica.id).unwrap_or(0);
            replicas.start_replicas(&revision, starts);
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
            self.tasks.spawn(async move { replicas.stop_replica(replica).await });
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

    /// The replicas of a function; none if there is no such function.
    pub fn list(&self, name: &FunctionName) -> Vec<ReplicaStatus> {
        let serving = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let serving = serving.get(name).map(|route| route.serving.clone());
        let status = |revision: &Arc<Revision>, (replica, in_flight): (Arc<Replica>, u32)| {
            let strain = self.starter.strain(&replica.id);
            let current = serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, revision));
            ReplicaStatus {
                id: replica.id.clone(),
                container: replica.id.clone(),
                version: replica.version,
                address: replica.address.ip(),
                port: replica.address.port(),
                state: if current { ReplicaState::Ready } else { ReplicaState::Draining },
                pid: replica.pid,
                in_flight,
                out_of_memory: strain.out_of_memory,
                out_of_pids: strain.out_of_pids,
            }
        };
        let revisions = self.revisions(name);
        revisions.iter().flat_map(|r| r.replicas().into_iter().map(|member| status(r, member))).collect()
    }

    /// Starts replicas of the current version up to `count`, or ends idle ones down to it. Calls and idleness go on
    /// deciding afterwards: what shall stay is `min_scale`.
    pub async fn scale(self: &Arc<Self>, name: &FunctionName, count: u32) -> Result<(), Error> {
        let revision = self.route(name, None)?;
        self.start_replicas(&revision, revision.shortage(count));
        let surplus = revision.surplus(Duration::ZERO, count);
        futures_util::future::join_all(surplus.into_iter().map(|replica| self.stop_replica(replica))).await;
        Ok(())
    }

    /// What a function printed, across its replicas.
    pub fn logs(&self, name: &FunctionName, query: LogQuery) -> mpsc::Receiver<Result<LogLine, Error>> {
        logs::read(&self.starter.data_dir, name, query)
    }

    /// Runs a command in a replica, the function's first one where `replica` is `None`.
    pub async fn exec(
        &self,
        name: &FunctionName,
        replica: Option<&str>,
        request: &ExecRequest,
    ) -> Result<Exec, Error> {
        let all = self.revisions(name).into_iter().flat_map(|revision| revision.replicas());
        let found = all.map(|(replica, _)| replica).find(|r| replica.is_none_or(|id| r.id == id));
        let id = || replica.map_or_else(|| format!("of {name}"), str::to_string);
        let found = found.ok_or_else(|| Error::UnknownReplica { id: id() })?;
        let folder = self.starter.folder_of(&found.id);
        Ok(self.starter.containerd.exec(&found.id, request, folder).await?)
    }

    /// Whether containerd answers: for readiness.
    pub async fn check(&self) -> Result<(), Error> {
        Ok(self.starter.containerd.version().await.map(drop)?)
    }

    /// Ends the looking after. Replicas live on and are adopted by the next server.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends and removes everything of this data folder: containers, images, network.
    pub async fn remove_all(self: Arc<Self>) -> Result<(), Error> {
        let names: Vec<_> = self.records().into_iter().map(|record| record.name).collect();
        for name in names {
            self.removed(&name).await?;
        }
        self.stop().await;
        self.remove_strays().await?;
        self.starter.images.sweep(|_| false).await?;
        Ok(self.starter.network.remove().await?)
    }

    pub(super) fn owned(&self) -> MutexGuard<'_, HashSet<String>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn records(&self) -> Vec<FunctionRecord> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.record.clone()).collect()
    }

    /// What calls go to that name no version.
    pub(super) fn serving(&self) -> Vec<Arc<Revision>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.serving.clone()).collect()
    }

    /// The function's revisions, the serving one first.
    pub(super) fn revisions(&self, name: &FunctionName) -> Vec<Arc<Revision>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get(name).into_iter();
        route.flat_map(|route| std::iter::once(&route.serving).chain(&route.others).cloned()).collect()
    }

    /// Forgets revisions that serve no more and have nothing left.
    pub(super) fn forget_finished(&self) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        for route in routes.values_mut() {
            route.others.retain(|other| other.is_alive() || other.calls_waiting() > 0);
        }
    }
}

fn revision(record: &FunctionRecord, number: VersionNumber, queue: usize) -> Option<Arc<Revision>> {
    let version = record.version(number)?.clone();
    Some(Revision::new(record.name.clone(), version, queue))
}
