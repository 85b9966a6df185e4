//! Which functions there are, which version calls go to, and the doors to all of it: [`Replicas`].

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cgroup::Cgroup;
use super::image::Images;
use super::lease::Lease;
use super::places::Places;
use super::pool::Pool;
use super::revision::{Admission, Revision, Rules};
use super::series::Series;
use super::serving::Serving;
use super::start::Starter;
use super::survey::Survey;
use super::tally::Tallies;
use super::{Error, Mishaps, ReplicaConfig};
use crate::containerd::Containerd;
use crate::function::{FunctionName, FunctionRecord, NewVersion, VersionNumber};
use crate::network::{Network, NetworkConfig};
use crate::store::FunctionStore;
use crate::telemetry::Figures;

/// How often a call looks again for a route that was forgotten while it came.
const LOOKS: usize = 5;

/// All replicas of this data folder.
pub struct Replicas {
    pub(super) starter: Starter,
    pub(super) scale: super::ScaleSettings,
    pub(super) store: Option<Arc<dyn FunctionStore>>,
    /// Held while a record is read and taken in, so that what was read earlier never comes after what was read later.
    pub(super) taking_in: tokio::sync::Mutex<()>,
    /// The functions that are called or kept up; all others are looked up in the store when they are.
    pub(super) routes: RwLock<HashMap<FunctionName, Route>>,
    pub(super) rules: Arc<Rules>,
    pub(super) series: Series,
    /// Functions that were deleted and of which something still runs; cancelled when nothing does.
    pub(super) leaving: Mutex<HashMap<FunctionName, CancellationToken>>,
    pub(super) survey: Survey,
    /// The replicas that this process starts, runs or ends, so that the reconciler leaves them alone.
    owned: Mutex<HashSet<String>>,
    pub(super) starts: Semaphore,
    /// As many as the machine has room for replicas.
    pub(super) places: Places,
    /// Of each function that had any.
    mishaps: Mutex<HashMap<FunctionName, Mishaps>>,
    pub(super) pool: Pool,
    pub(super) stopping: CancellationToken,
    tasks: TaskTracker,
    /// Where they run. Calls come from threads of their own, which are not to be kept busy.
    runtime: Handle,
}

/// One function's routing.
pub(super) struct Route {
    pub record: FunctionRecord,
    /// What calls that name no version go to.
    pub serving: Serving,
    /// Versions that were called by number, that are to serve next, or whose calls still finish.
    pub others: Vec<Arc<Revision>>,
    /// Cancelled when calls go by `record`, or a later one has come.
    pub switching: Option<CancellationToken>,
}

impl Route {
    /// All revisions, those that serve first.
    pub fn revisions(&self) -> impl Iterator<Item = &Arc<Revision>> {
        self.serving.revisions().chain(&self.others)
    }
}

impl Replicas {
    /// Connects, brings the network up, adopts what still runs of the store's current versions and removes the rest of
    /// what this data folder left behind. Then follows the store and looks after all of it until [`Replicas::stop`].
    pub async fn start(config: ReplicaConfig) -> Result<Arc<Self>, Error> {
        Network::check(&config.network.plugins)?;
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
        let replicas = Arc::new(Self {
            starter,
            scale: config.scale,
            store: config.store,
            taking_in: tokio::sync::Mutex::default(),
            routes: RwLock::default(),
            rules: Arc::new(Rules {
                queue: config.scale.queue,
                cluster: config.cluster,
                tallies: Tallies::default(),
                figures: config.figures,
            }),
            series: Series::default(),
            leaving: Mutex::default(),
            survey: Survey::default(),
            owned: Mutex::default(),
            starts: Semaphore::new(config.scale.parallel_starts.max(1)),
            places: Places::new(config.scale.max_replicas),
            mishaps: Mutex::default(),
            pool: Pool::new(config.scale.pool),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        });
        let changes = replicas.changes().await?;
        replicas.adopt().await?;
        replicas.spawn(replicas.clone().follow(changes));
        replicas.spawn(replicas.clone().keep_surveying());
        replicas.spawn(replicas.clone().look_after());
        replicas.spawn(replicas.clone().keep_pool());
        replicas.spawn(replicas.clone().keep_sampling());
        Ok(replicas)
    }

    pub fn figures(&self) -> &Figures {
        &self.rules.figures
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
        self.acquire_for(name, version, true, deadline).await
    }

    /// The same for a caller who has shown a token or has not (`admitted`): [`Error::NeedsToken`] if that is what it
    /// takes, before anything is started.
    pub async fn acquire_for(
        self: &Arc<Self>,
        name: &FunctionName,
        version: Option<VersionNumber>,
        admitted: bool,
        deadline: Instant,
    ) -> Result<Lease, Error> {
        let asked = Instant::now();
        for _ in 0..LOOKS {
            let revision = self.find(name, version, admitted).await?;
            if self.rules.cluster.has_others() && !revision.is_alive() && self.is_full() {
                return Err(Error::NoRoom { name: name.clone() });
            }
            let (grant, starts) = match revision.admit() {
                Ok(Admission::Granted(lease)) => return Ok(lease),
                Ok(Admission::Queued { grant, starts }) => (grant, starts),
                // Forgotten for want of calls, or deleted: the store knows.
                Err(Error::Removed { .. }) => continue,
                Err(error) => return Err(error),
            };
            self.start_replicas(&revision, starts);
            match tokio::time::timeout_at(deadline.into(), grant).await {
                Ok(Ok(Err(Error::Removed { .. }))) => {}
                Ok(Ok(granted)) => return granted,
                Ok(Err(_)) => return Err(Error::Stopping),
                Err(_) => return Err(revision.too_slow(asked.elapsed())),
            }
        }
        Err(Error::Removed { name: name.clone() })
    }

    /// The revision for a call: from memory where the function is called often, else by its record.
    pub(super) async fn find(
        &self,
        name: &FunctionName,
        version: Option<VersionNumber>,
        admitted: bool,
    ) -> Result<Arc<Revision>, Error> {
        match self.route(name, version, admitted) {
            Err(Error::UnknownFunction { .. }) => {
                self.look_up(name).await?;
                self.route(name, version, admitted)
            }
            found => found,
        }
    }

    fn route(
        &self,
        name: &FunctionName,
        version: Option<VersionNumber>,
        admitted: bool,
    ) -> Result<Arc<Revision>, Error> {
        let unknown = || Error::UnknownFunction { name: name.clone() };
        {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            let route = routes.get(name).ok_or_else(unknown)?;
            if route.record.require_token && !admitted {
                return Err(Error::NeedsToken { name: name.clone() });
            }
            let Some(number) = version else { return Ok(route.serving.pick().clone()) };
            if let Some(known) = route.revisions().find(|known| known.version.number == number) {
                return Ok(known.clone());
            }
        }
        let number = version.unwrap_or_default();
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get_mut(name).ok_or_else(unknown)?;
        if let Some(known) = route.revisions().find(|known| known.version.number == number) {
            return Ok(known.clone());
        }
        let found = route.record.version(number);
        let found = found.ok_or_else(|| Error::UnknownVersion { name: name.clone(), version: number })?;
        let made = Revision::new(name.clone(), found.clone(), self.rules.clone());
        route.others.push(made.clone());
        Ok(made)
    }

    /// Does it in the background; [`Replicas::stop`] waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    /// Ends the looking after. Replicas live on and are adopted by the next server.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends and removes everything of this data folder: containers, images, network.
    pub async fn remove_all(self: Arc<Self>) -> Result<(), Error> {
        let routes: Vec<_> = {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.drain().map(|(_, route)| route).collect()
        };
        for route in routes {
            self.dismiss(&route).await;
        }
        self.stop().await;
        // A survey or a call may have brought a route back meanwhile, and a start may have ended well: nobody looks after
        // those replicas any more either.
        self.owned().clear();
        self.remove_strays().await?;
        self.starter.images.sweep(|_| false).await?;
        Cgroup(&self.starter.cgroups()).remove();
        Ok(self.starter.network.remove().await?)
    }

    pub(super) fn mishaps(&self) -> MutexGuard<'_, HashMap<FunctionName, Mishaps>> {
        self.mishaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn owned(&self) -> MutexGuard<'_, HashSet<String>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every revision, and whether calls that name no version go to it.
    pub(super) fn each_revision(&self) -> Vec<(Arc<Revision>, bool)> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let each = routes.values().flat_map(|route| {
            let serving = route.serving.revisions().map(|revision| (revision.clone(), true));
            serving.chain(route.others.iter().map(|other| (other.clone(), false)))
        });
        each.collect()
    }

    /// The function's revisions, those that serve first.
    pub(super) fn revisions(&self, name: &FunctionName) -> Vec<Arc<Revision>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes.get(name).into_iter().flat_map(Route::revisions).cloned().collect()
    }

    /// Forgets revisions that serve no more and have nothing left, and functions that nobody calls.
    pub(super) fn forget_finished(&self) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|_, route| {
            let is_next = route.switching.as_ref().is_some_and(|switching| !switching.is_cancelled());
            if !is_next {
                route.others.retain(|other| other.is_alive() || other.calls_waiting() > 0);
            }
            let kept_up = |revision: &Arc<Revision>| revision.version.image.settings.min_scale > 0;
            let is_used = |revision: &Arc<Revision>| kept_up(revision) || !revision.is_quiet();
            let stays = is_next || !route.others.is_empty() || route.serving.revisions().any(is_used);
            if !stays {
                // A call that found it a moment ago is told to look again.
                route.serving.revisions().for_each(|revision| revision.retire());
            }
            stays
        });
    }
}
