//! Which functions there are, which version calls go to, and the doors to all of it: [`Replicas`].

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cgroup::Cgroup;
use super::image::Images;
use super::places::Places;
use super::pool::Pool;
use super::revision::{Admission, Lease, Revision};
use super::start::Starter;
use super::{Death, Error, ReplicaConfig};
use crate::containerd::Containerd;
use crate::function::{FunctionName, FunctionRecord, NewVersion, VersionNumber};
use crate::network::{Network, NetworkConfig};

/// All replicas of this data folder.
pub struct Replicas {
    pub(super) starter: Starter,
    pub(super) scale: super::ScaleSettings,
    pub(super) routes: RwLock<HashMap<FunctionName, Route>>,
    /// The replicas that this process starts, runs or ends, so that the reconciler leaves them alone.
    owned: Mutex<HashSet<String>>,
    pub(super) starts: Semaphore,
    /// As many as the machine has room for replicas.
    pub(super) places: Places,
    /// The last replica of each function that ended without being asked to.
    pub(super) deaths: Mutex<HashMap<FunctionName, Death>>,
    pub(super) pool: Pool,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// One function's routing.
pub(super) struct Route {
    pub record: FunctionRecord,
    /// What calls that name no version go to.
    pub serving: Arc<Revision>,
    /// Versions that were called by number, or whose calls still finish.
    pub others: Vec<Arc<Revision>>,
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
            open_port: config.network.trigger,
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
            trigger: config.network.trigger,
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
            places: Places::new(config.scale.max_replicas),
            deaths: Mutex::default(),
            pool: Pool::new(config.scale.pool),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        replicas.adopt().await?;
        replicas.tasks.spawn(replicas.clone().look_after());
        replicas.tasks.spawn(replicas.clone().keep_pool());
        Ok(replicas)
    }

    /// The host's address in the containers' network.
    pub fn gateway(&self) -> Ipv4Addr {
        self.starter.network.subnet().gateway()
    }

    /// Fetches, unpacks and pins a version's image, and looks that the secrets are there which it names: to be done
    /// before its record is written, so that a version is current only when it can start.
    pub async fn prepare(&self, version: &NewVersion) -> Result<(), Error> {
        self.starter.secrets(&version.settings).await?;
        self.starter.images.prepare(version).await.map(drop)
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

    pub(super) fn route(
        &self,
        name: &FunctionName,
        version: Option<VersionNumber>,
    ) -> Result<Arc<Revision>, Error> {
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
        Cgroup(&self.starter.cgroups()).remove();
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

/// A version of a record as calls see it; `None` where the record does not have it.
pub(super) fn revision(
    record: &FunctionRecord,
    number: VersionNumber,
    queue: usize,
) -> Option<Arc<Revision>> {
    let version = record.version(number)?.clone();
    Some(Revision::new(record.name.clone(), version, queue))
}
