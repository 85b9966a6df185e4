//! Records that come, change and go: which version calls go to from then on.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::revision::Revision;
use super::table::{Replicas, Route, revision};
use super::{Error, logs};
use crate::function::{FunctionName, FunctionRecord};

impl Replicas {
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
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
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
}
