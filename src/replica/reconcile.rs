//! Making what is there what should be there: at start, every second, every minute.
//!
//! Containers, namespaces, addresses, snapshots, leases and images that carry this data folder's ID and that nothing
//! in the table stands for are removed. Nothing else is ever touched.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::cgroup;
use super::image::FOLDER_LABEL;
use super::revision::Revision;
use super::start::{ADDRESS_LABEL, FUNCTION_LABEL, REVISION_LABEL};
use super::{Error, Replica, Replicas};
use crate::containerd::{ContainerInfo, TaskState};
use crate::function::FunctionName;

/// How often idle replicas are looked for, and missing ones.
const TICK: Duration = Duration::from_secs(1);

/// Ticks between two reconciliations. After one that failed the next comes sooner: what resisted, as a mount does that
/// the kernel has not let go of yet, mostly resists for a moment.
const RECONCILE: u32 = 60;

impl Replicas {
    /// At start: running replicas of current versions go on, everything else of this data folder goes away.
    pub(super) async fn adopt(self: &Arc<Self>) -> Result<(), Error> {
        let folder = self.starter.folder.as_str();
        let containers = self.starter.containerd.containers_labelled(FOLDER_LABEL, folder).await?;
        for container in containers {
            if let Some((replica, revision)) = self.adoptable(&container).await? {
                tracing::info!(replica = %replica.id, pid = replica.pid, "replica adopted");
                // Where there are more than there is room for, none is ended for it.
                let place = self.places.free_one();
                self.watch(replica.clone(), revision.clone(), place);
                let _ = revision.join(&replica, None);
            }
        }
        for lease in self.starter.containerd.leases_labelled(FOLDER_LABEL, folder).await? {
            self.starter.containerd.remove_lease(&lease, false).await?;
        }
        // What resists now is tried again by `look_after`, soon; it keeps nobody from being served.
        if let Err(error) = self.remove_strays().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "removing what was left of replicas");
        }
        Ok(())
    }

    async fn adoptable(
        &self,
        container: &ContainerInfo,
    ) -> Result<Option<(Arc<Replica>, Arc<Revision>)>, Error> {
        let label = |key: &str| container.labels.get(key);
        let name = label(FUNCTION_LABEL).and_then(|name| name.parse::<FunctionName>().ok());
        let address = label(ADDRESS_LABEL).and_then(|address| address.parse::<SocketAddr>().ok());
        let (Some(name), Some(address)) = (name, address) else { return Ok(None) };
        match self.look_up(&name).await {
            Ok(()) => {}
            Err(Error::UnknownFunction { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let revisions = self.revisions(&name);
        let key = label(REVISION_LABEL);
        let revision = revisions.into_iter().find(|r| key.is_some_and(|key| *key == r.key.to_string()));
        let Some(revision) = revision else { return Ok(None) };
        let ours = matches!(address.ip(), IpAddr::V4(ip) if self.starter.network.subnet().contains(ip));
        let task = self.starter.containerd.task(&container.id).await?;
        let Some(task) = task.filter(|task| ours && task.state == TaskState::Running) else {
            return Ok(None);
        };
        let (fate, _) = watch::channel(None);
        let version = revision.version.number;
        let (id, pid, gone) = (container.id.clone(), task.pid, Default::default());
        let replica = Replica { id, function: name, version, address, pid, fate, gone };
        Ok(Some((Arc::new(replica), revision)))
    }

    /// Removes what carries this data folder's ID and is nobody's.
    pub(super) async fn remove_strays(&self) -> Result<(), Error> {
        self.strays(true).await.map(drop)
    }

    /// What carries this data folder's ID and is nobody's; with `remove` it is there no more.
    pub async fn strays(&self, remove: bool) -> Result<Vec<String>, Error> {
        let folder = self.starter.folder.as_str();
        let containerd = &self.starter.containerd;
        let mut found: BTreeSet<String> = self.starter.network.attached()?;
        found.extend(containerd.containers_labelled(FOLDER_LABEL, folder).await?.into_iter().map(|c| c.id));
        found.extend(containerd.snapshots_labelled(FOLDER_LABEL, folder).await?);
        let folders = std::fs::read_dir(self.starter.data_dir.join("replicas"));
        found
            .extend(folders.into_iter().flatten().flatten().filter_map(|f| f.file_name().into_string().ok()));
        found.extend(cgroup::children(&self.starter.cgroups()));
        // Asked after the lists were made: what was started meanwhile is in here too.
        let owned: HashSet<String> = self.owned().clone();
        let strays: Vec<String> = found.into_iter().filter(|id| !owned.contains(id)).collect();
        let mut cleaned = Ok(());
        for stray in strays.iter().filter(|_| remove) {
            tracing::info!(replica = %stray, "removing what was left of a replica");
            // One that resists must not keep the others.
            cleaned = cleaned.and(self.starter.clean(stray).await);
        }
        cleaned.map(|()| strays)
    }

    /// The digests of all versions that have an image record in this node's containerd.
    pub async fn pinned_images(&self) -> Result<HashSet<String>, Error> {
        self.starter.images.pinned().await
    }

    /// Those that nothing needs and that are no part of a push that goes on; with `remove` they are there no more.
    pub async fn unneeded_images(
        &self,
        needed: &HashSet<String>,
        remove: bool,
    ) -> Result<Vec<String>, Error> {
        let images = &self.starter.images;
        let pinned = images.pinned().await?;
        let unneeded: BTreeSet<String> = pinned
            .into_iter()
            .filter(|digest| !needed.contains(digest) && !images.is_fresh(digest))
            .collect();
        if remove && !unneeded.is_empty() {
            images.sweep(|digest| !unneeded.contains(digest)).await?;
        }
        Ok(unneeded.into_iter().collect())
    }

    /// Scales in, keeps `min_scale`, reconciles. Ends when the server stops.
    pub(super) async fn look_after(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first soon after the start, which may have left something.
        let (mut pause, mut left) = (1, 1);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stopping.cancelled() => return,
            }
            self.scale_all();
            left -= 1;
            if left > 0 {
                continue;
            }
            pause = match self.reconcile().await {
                Ok(()) => RECONCILE,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "reconciling");
                    if pause == RECONCILE { 1 } else { (2 * pause).min(RECONCILE - 1) }
                }
            };
            left = pause;
        }
    }

    async fn reconcile(&self) -> Result<(), Error> {
        self.starter.network.repair().await?;
        self.remove_strays().await
    }

    fn scale_all(self: &Arc<Self>) {
        for (revision, serves) in self.each_revision() {
            if serves {
                self.size(&revision);
            } else {
                // It ends soon after its calls have; not at once, because it may be the next to serve.
                self.end_surplus(&revision, TICK, 0);
            }
        }
        self.forget_finished();
    }

    fn size(self: &Arc<Self>, revision: &Arc<Revision>) {
        let (idle, least) = (revision.idle_time(self.scale.idle), revision.least());
        let Some(level) = revision.level() else {
            self.end_surplus(revision, idle, least);
            return self.start_replicas(revision, revision.shortage(least));
        };
        // What the rate asks for no more goes at once, but for the last one: that waits for a call as any other does.
        self.end_surplus(revision, Duration::ZERO, level.max(1));
        self.end_surplus(revision, idle, level);
        self.start_replicas(revision, revision.shortage(least));
        // More than the least is worth no other function's replica: each has its place before it is begun.
        while level > least
            && self.has_room()
            && let Some(place) = self.places.free_one()
            && revision.is_short_of_one(level)
        {
            self.start_at(revision, place);
        }
    }

    fn end_surplus(self: &Arc<Self>, revision: &Revision, idle: Duration, least: u32) {
        for replica in revision.surplus(idle, least) {
            self.spawn(self.stop_replica(replica));
        }
    }
}
