//! What people ask of a function's replicas: which there are, what they printed, to run a command in one.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::revision::Revision;
use super::table::Replicas;
use super::tally::Tally;
use super::{
    Death, Error, ExecRequest, Fate, LogLine, LogQuery, Mishaps, Replica, ReplicaState, ReplicaStatus, logs,
    places,
};
use crate::cluster::{Capacity, Load, NodeReplica};
use crate::containerd::{self, Exec};
use crate::function::{FunctionName, Settings};

impl Replicas {
    /// The replicas of a function; none if there is no such function.
    pub fn list(&self, name: &FunctionName) -> Vec<ReplicaStatus> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = routes.get(name) else { return Vec::new() };
        let status = |revision: &Arc<Revision>, (replica, in_flight): (Arc<Replica>, u32)| {
            let strain = self.starter.strain(&replica.id);
            let current = route.serving.contains(revision);
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
        let members = route.revisions().map(|r| r.replicas().into_iter().map(|member| status(r, member)));
        members.flatten().collect()
    }

    /// What this node has, what of it is in use, and all its replicas.
    pub fn overview(&self) -> (Capacity, Load, Vec<NodeReplica>) {
        let mut load = Load { memory: places::memory_in_use(), ..Load::default() };
        let mut replicas = Vec::new();
        for (revision, serves) in self.each_revision() {
            for (replica, in_flight) in revision.replicas() {
                load.replicas += 1;
                load.in_flight += in_flight;
                replicas.push(NodeReplica {
                    function: replica.function.clone(),
                    id: replica.id.clone(),
                    version: replica.version,
                    address: replica.address.ip().to_string(),
                    port: replica.address.port(),
                    state: if serves { "ready".into() } else { "draining".into() },
                });
            }
        }
        let capacity = Capacity {
            cpus: std::thread::available_parallelism()
                .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1)),
            memory: places::memory_of_this_machine(),
            replicas: u32::try_from(self.scale.max_replicas).unwrap_or(u32::MAX),
        };
        (capacity, load, replicas)
    }

    /// A call was answered for the function, with this status, because no replica did; `begun`: one had it.
    pub fn refused(&self, name: &FunctionName, begun: bool, status: u16, took: Duration) {
        if let Some(tally) = self.rules.tallies.get(name) {
            if !begun {
                tally.begun();
            }
            tally.answered(status, took);
        }
    }

    /// What the calls of each function came to that was called here since the server started.
    pub fn tallies(&self) -> Vec<(FunctionName, Arc<Tally>)> {
        self.rules.tallies.all()
    }

    /// How often a function was called here since the server started.
    pub fn calls_of(&self, name: &FunctionName) -> u64 {
        self.rules.tallies.get(name).map_or(0, |tally| tally.counts().calls())
    }

    /// Calls that are being answered.
    pub fn calls_in_flight(&self) -> u32 {
        let members = self.each_revision().into_iter().flat_map(|(revision, _)| revision.replicas());
        members.map(|(_, in_flight)| in_flight).sum()
    }

    /// Calls that wait for a replica.
    pub fn calls_waiting(&self) -> usize {
        self.each_revision().iter().map(|(revision, _)| revision.calls_waiting()).sum()
    }

    /// What last went wrong with the function's replicas, since the server started.
    pub fn last_mishaps(&self, name: &FunctionName) -> Mishaps {
        self.mishaps().get(name).cloned().unwrap_or_default()
    }

    pub(super) fn died(&self, replica: &Replica, fate: &Fate, settings: &Settings) {
        let death = Death {
            time: jiff::Timestamp::now(),
            replica: replica.id.clone(),
            version: replica.version,
            cause: fate.cause(settings),
        };
        self.figures().deaths.add_one();
        tracing::warn!(replica = %death.replica, cause = death.cause, "replica died");
        self.mishaps().entry(replica.function.clone()).or_default().death = Some(death);
    }

    /// Starts replicas of the current version up to this node's share of `count`, or ends idle ones down to it. Calls and
    /// idleness go on deciding afterwards: what shall stay is `min_scale`.
    pub async fn scale(self: &Arc<Self>, name: &FunctionName, count: u32) -> Result<(), Error> {
        let revision = self.find(name, None, true).await?;
        let count = self.rules.cluster.share(name, count);
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
        let started = self.starter.containerd.exec(&found.id, request, folder).await;
        started.map_err(|error| match error {
            containerd::Error::NoProgram { program, .. } => Error::NoProgram { name: name.clone(), program },
            containerd::Error::NotExecutable { program, .. } => {
                Error::NotExecutable { name: name.clone(), program }
            }
            other => other.into(),
        })
    }

    /// Whether containerd answers: for readiness.
    pub async fn check(&self) -> Result<(), Error> {
        Ok(self.starter.containerd.version().await.map(drop)?)
    }
}
