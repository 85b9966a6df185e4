//! Records that come, change and go: which versions calls go to from then on.
//!
//! Whoever writes a record only says that it did: what is taken in is what the store then has. So it does not matter
//! who tells first, this node's own API or the store's watch, nor how often.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::revision::Revision;
use super::serving::Serving;
use super::table::{Replicas, Route};
use super::{Error, logs};
use crate::function::{FunctionName, FunctionRecord, NewVersion};
use crate::store::Change;

/// Between two attempts to watch a store that does not let itself be watched.
const PAUSE: Duration = Duration::from_secs(1);

impl Replicas {
    /// Takes in what the store has of a function. Ends when calls go by it: at once where nothing ran, else when the
    /// replicas that are to serve are ready, while the ones before go on answering and then finish their calls. Where
    /// there is no record any more, ends when nothing runs of it; calls that wait fail with [`Error::Removed`].
    pub async fn updated(self: &Arc<Self>, name: &FunctionName) -> Result<(), Error> {
        self.take_in(name).await?.await;
        Ok(())
    }

    /// The same in two halves: the record is taken in when this returns; the waiting that is left may overlap with a
    /// later record's, which cuts it short.
    pub async fn take_in(self: &Arc<Self>, name: &FunctionName) -> Result<BoxFuture<'static, ()>, Error> {
        let _turn = self.taking_in.lock().await;
        if let Some(record) = self.record(name).await? {
            let switched = self.enter(record)?;
            return Ok(Box::pin(async move {
                if let Some(switched) = switched {
                    switched.cancelled().await;
                }
            }));
        }
        self.rules.tallies.forget(name);
        let route = self.routes.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        // After the route: what fails from here on finds none.
        self.mishaps().remove(name);
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = route {
            let (replicas, gone) = (self.clone(), CancellationToken::new());
            leaving.insert(name.clone(), gone.clone());
            self.spawn(async move {
                replicas.dismiss(&route).await;
                gone.cancel();
                let mut leaving = replicas.leaving.lock().unwrap_or_else(PoisonError::into_inner);
                leaving.retain(|_, gone| !gone.is_cancelled());
            });
        } else {
            // Nobody has called it of late; what it printed before is there all the same.
            logs::remove(&self.starter.data_dir, name);
        }
        let gone = leaving.get(name).cloned();
        drop(leaving);
        Ok(Box::pin(async move {
            if let Some(gone) = gone {
                gone.cancelled().await;
            }
        }))
    }

    /// A route for a function that has none: by its record.
    pub(super) async fn look_up(&self, name: &FunctionName) -> Result<(), Error> {
        let unknown = || Error::UnknownFunction { name: name.clone() };
        let _turn = self.taking_in.lock().await;
        let record = self.record(name).await?.ok_or_else(unknown)?;
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains_key(name) {
            let route = self.route_of(record)?;
            routes.insert(name.clone(), route);
        }
        Ok(())
    }

    pub(super) async fn record(&self, name: &FunctionName) -> Result<Option<FunctionRecord>, Error> {
        let Some(store) = &self.store else { return Ok(None) };
        Ok(store.get(name).await?.map(|stored| stored.record))
    }

    fn route_of(&self, record: FunctionRecord) -> Result<Route, Error> {
        let serving = Serving::of(&record, &self.rules, |_| None).ok_or_else(|| damaged(&record))?;
        Ok(Route { record, serving, others: Vec::new(), switching: None })
    }

    /// Puts the record into the table. Gives what is cancelled when calls go by it, unless they do already.
    fn enter(self: &Arc<Self>, record: FunctionRecord) -> Result<Option<CancellationToken>, Error> {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = routes.get_mut(&record.name) else {
            // Where it is called it is looked up; only what is kept up without calls has to be known.
            if record.targets().iter().any(|(version, _)| version.image.settings.min_scale > 0) {
                routes.insert(record.name.clone(), self.route_of(record)?);
            }
            return Ok(None);
        };
        if route.record == record {
            return Ok(route.switching.clone());
        }
        let all: Vec<Arc<Revision>> = route.revisions().cloned().collect();
        let known = |made: &Arc<Revision>| all.iter().find(|other| other.key == made.key).cloned();
        let next = Serving::of(&record, &self.rules, known).ok_or_else(|| damaged(&record))?;
        route.record = record;
        if let Some(earlier) = route.switching.take() {
            earlier.cancel();
        }
        if next.is_same(&route.serving) {
            return Ok(None);
        }
        // Already among the revisions, so that their replicas are not taken for strays.
        let new = next.revisions().filter(|next| !all.iter().any(|known| Arc::ptr_eq(known, next)));
        route.others.extend(new.cloned());
        let switched = CancellationToken::new();
        route.switching = Some(switched.clone());
        let (replicas, name, token) = (self.clone(), route.record.name.clone(), switched.clone());
        self.spawn(async move {
            let switched = replicas.switch(&name, next, &token);
            replicas.stopping.run_until_cancelled(switched).await;
            token.cancel();
        });
        Ok(Some(switched))
    }

    /// Lets calls go to `next` once it is ready, unless a later record comes before that and cancels the token.
    async fn switch(self: &Arc<Self>, name: &FunctionName, next: Serving, token: &CancellationToken) {
        let runs = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            let serving = routes.get(name).map(|route| &route.serving);
            serving.is_some_and(|serving| serving.revisions().any(|revision| revision.is_alive()))
        };
        if runs {
            let warm = next.revisions().map(|revision| self.warm(revision));
            token.run_until_cancelled(futures_util::future::join_all(warm)).await;
        }
        let before: Vec<Arc<Revision>> = {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            match routes.get_mut(name) {
                Some(route) if !token.is_cancelled() => {
                    route.others.retain(|other| !next.contains(other));
                    let before = std::mem::replace(&mut route.serving, next);
                    let gone = before.revisions().filter(|old| !route.serving.contains(old));
                    let gone: Vec<_> = gone.cloned().collect();
                    route.others.extend(gone.iter().cloned());
                    route.switching = None;
                    gone
                }
                _ => Vec::new(),
            }
        };
        // Calls that wait for the version before keep their places there until its replicas are done with them.
        for revision in before.iter().filter(|before| before.calls_waiting() > 0 && !before.is_alive()) {
            self.start_replicas(revision, revision.shortage(1));
        }
    }

    /// Starts one replica and waits for it. A version that cannot start is switched to all the same: its calls shall say
    /// why, rather than get answers of code that was replaced.
    async fn warm(self: &Arc<Self>, revision: &Arc<Revision>) {
        self.start_replicas(revision, revision.shortage(revision.max().min(1)));
        let ready = async {
            while revision.is_alive() && !revision.is_ready() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(self.scale.start_timeout, ready).await;
    }

    /// Stops what a function that is gone has: containers, logs; its images go with the next survey.
    pub(super) async fn dismiss(self: &Arc<Self>, route: &Route) {
        let name = &route.record.name;
        if let Some(switching) = &route.switching {
            switching.cancel();
        }
        let mut stopping = Vec::new();
        for revision in route.revisions() {
            revision.retire();
            stopping.extend(revision.clear().into_iter().map(|replica| self.stop_replica(replica)));
        }
        futures_util::future::join_all(stopping).await;
        logs::remove(&self.starter.data_dir, name);
        self.survey.is_gone(&route.record);
    }

    /// What changes in the store from here on.
    pub(super) async fn changes(&self) -> Result<BoxStream<'static, Change>, Error> {
        match &self.store {
            Some(store) => Ok(store.watch().await?),
            None => Ok(futures_util::stream::pending().boxed()),
        }
    }

    /// Takes in every change, whichever node made it, until the server stops.
    pub(super) async fn follow(self: Arc<Self>, mut changes: BoxStream<'static, Change>) {
        loop {
            let Some(change) = self.stopping.run_until_cancelled(changes.next()).await else { return };
            if !matches!(change, Some(Change::Coming { .. })) {
                self.survey.is_due();
            }
            match change {
                Some(Change::Written(stored)) => self.follow_one(&stored.record.name).await,
                Some(Change::Deleted { name, .. }) => self.follow_one(&name).await,
                Some(Change::Coming { name, image }) => self.fetch_ahead(&name, *image),
                Some(Change::Missed) => self.catch_up().await,
                None => {
                    if let Ok(again) = self.changes().await {
                        changes = again;
                        self.catch_up().await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// The image of a version that some node is about to record, if this node runs the function: so that it is there
    /// when the record is.
    fn fetch_ahead(self: &Arc<Self>, name: &FunctionName, image: NewVersion) {
        if !self.revisions(name).iter().any(|revision| revision.is_alive()) {
            return;
        }
        let replicas = self.clone();
        self.spawn(async move {
            let fetched = replicas.starter.images.prepare(&image);
            if let Some(Err(error)) = replicas.stopping.run_until_cancelled(fetched).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "an image is not fetched ahead");
            }
        });
    }

    async fn follow_one(self: &Arc<Self>, name: &FunctionName) {
        match self.take_in(name).await {
            // One that is slow to start must not keep the others waiting.
            Ok(rest) => self.spawn(rest),
            Err(error) => {
                tracing::warn!(%name, error = &error as &dyn std::error::Error, "a change is not followed");
            }
        }
    }

    /// After changes that were not told: whatever is in memory may be out of date.
    async fn catch_up(self: &Arc<Self>) {
        let names: Vec<FunctionName> = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.keys().cloned().collect()
        };
        for name in names {
            self.follow_one(&name).await;
        }
    }
}

fn damaged(record: &FunctionRecord) -> Error {
    Error::UnknownVersion { name: record.name.clone(), version: record.current }
}
