//! The routing of one version: its replicas, how busy each is, and the calls that wait for one.
//!
//! All of it is in memory behind one short lock; nothing here waits, starts or stops anything. Who calls decides what
//! to do with the answer: so the rules of scaling can be tested without a container.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::demand::{Bounds, Demand, Rule};
use super::lease::Lease;
use super::tally::{Tallies, Tally};
use super::trouble::Trouble;
use super::{Error, Replica, Timing};
use crate::cluster::Cluster;
use crate::function::{FunctionName, Version};
use crate::oci::Digest;
use crate::telemetry::Figures;

/// A version of a function, with what calls it.
pub(super) struct Revision {
    pub name: FunctionName,
    pub version: Version,
    /// Of everything that makes this version what it is: a replica of another key is not this version's.
    pub key: Digest,
    /// Of all calls of the function.
    pub tally: Arc<Tally>,
    rules: Arc<Rules>,
    /// Where the rate of the calls counts.
    rule: Option<Rule>,
    state: Mutex<State>,
}

/// What all revisions of a node go by.
pub(super) struct Rules {
    /// How many calls of one function may wait.
    pub queue: usize,
    pub cluster: Arc<Cluster>,
    pub tallies: Tallies,
    pub figures: Arc<Figures>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, Error>>>,
    starting: u32,
    retired: bool,
    trouble: Trouble,
    demand: Demand,
    /// What keeps the start that calls wait for from going on.
    obstacle: Option<Arc<Error>>,
}

struct Member {
    replica: Arc<Replica>,
    in_flight: u32,
    idle_since: Instant,
    since: Instant,
    /// Given up for another function: it gets no more calls, and ends with its last.
    leaving: bool,
}

/// Who lives for so long is well.
const WELL: Duration = Duration::from_secs(10);

/// What a call gets: a replica at once, or a place in the queue and the number of replicas to start for it.
pub(super) enum Admission {
    Granted(Lease),
    Queued { grant: oneshot::Receiver<Result<Lease, Error>>, starts: u32 },
}

impl State {
    /// Calls that are in flight or wait.
    fn busy(&self) -> u32 {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.members.iter().fold(waiting, |busy, member| busy.saturating_add(member.in_flight))
    }

    fn staying(&self) -> u32 {
        let staying = self.members.iter().filter(|member| !member.leaving).count();
        u32::try_from(staying).unwrap_or(u32::MAX)
    }

    /// Counts so many as starting, or fewer where starts keep failing: that many are to be made.
    fn begin(&mut self, starts: u32) -> u32 {
        let most = if self.trouble.is_deep() { 1_u32.saturating_sub(self.starting) } else { u32::MAX };
        let starts = starts.min(most);
        self.starting += starts;
        starts
    }

    /// The member without calls that has been so for longest, if more than `least` would stay or it leaves anyway.
    fn idlest(&self, least: u32) -> Option<usize> {
        let may_go = |member: &Member| member.leaving || self.staying() > least;
        let idle = self.members.iter().enumerate().filter(|(_, m)| m.in_flight == 0 && may_go(m));
        idle.min_by_key(|(_, member)| (!member.leaving, member.idle_since)).map(|(at, _)| at)
    }
}

impl Revision {
    pub fn new(name: FunctionName, version: Version, rules: Arc<Rules>) -> Arc<Self> {
        let (key, tally) = (key(&version), rules.tallies.of(&name));
        let rule = Rule::of(&version.image.settings);
        Arc::new(Self { name, version, key, tally, rules, rule, state: Mutex::default() })
    }

    fn concurrency(&self) -> u32 {
        self.version.image.settings.concurrency.max(1)
    }

    /// This node's share of the most replicas.
    pub fn max(&self) -> u32 {
        self.rules.cluster.share(&self.name, self.version.image.settings.max_scale.max(1))
    }

    /// This node's share of the replicas that stay up without calls.
    pub fn least(&self) -> u32 {
        self.rules.cluster.share(&self.name, self.version.image.settings.min_scale)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below is complete before anything that could panic: the state is sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the least busy replica with room, else queues.
    pub fn admit(self: &Arc<Self>) -> Result<Admission, Error> {
        let mut state = self.lock();
        if state.retired {
            return Err(Error::Removed { name: self.name.clone() });
        }
        if self.rule.is_some() {
            let busy = state.busy().saturating_add(1);
            state.demand.came(busy);
        }
        let limit = self.concurrency();
        let free = state.members.iter_mut().filter(|member| member.in_flight < limit && !member.leaving);
        // Replicas that are there for the rate take turns; where only calls in flight count, the spare ones may become idle.
        let turn = |member: &Member| self.rule.is_some().then_some(member.idle_since);
        if let Some(member) = free.min_by_key(|member| (member.in_flight, turn(member))) {
            member.in_flight += 1;
            return Ok(Admission::Granted(self.lease(&member.replica, None)));
        }
        if state.members.is_empty() && state.starting == 0 && self.max() == 0 {
            return Err(Error::Elsewhere { name: self.name.clone() });
        }
        // Nothing runs, nothing starts, and the next attempt is not due: what was wrong still is.
        if state.members.is_empty()
            && state.starting == 0
            && state.trouble.pauses()
            && let Some(source) = state.trouble.reason.clone()
        {
            return Err(self.cannot_start(source));
        }
        state.waiting.retain(|waiting| !waiting.is_closed());
        if state.waiting.len() >= self.rules.queue {
            return Err(Error::QueueFull { name: self.name.clone(), waiting: state.waiting.len() });
        }
        let (sender, grant) = oneshot::channel();
        state.waiting.push_back(sender);
        let starts = self.wanted(&mut state);
        Ok(Admission::Queued { grant, starts })
    }

    /// How many more replicas the calls that wait deserve; counted as starting from here on.
    fn wanted(&self, state: &mut State) -> u32 {
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        let present = state.staying().saturating_add(state.starting);
        let deserved = waiting.div_ceil(self.concurrency()).saturating_sub(state.starting);
        let starts = deserved.min(self.max().saturating_sub(present));
        state.begin(starts)
    }

    /// How many replicas the rate of the calls asks for, where that counts. To be asked about once a second.
    pub fn level(&self) -> Option<u32> {
        let rule = self.rule?;
        let bounds = Bounds { least: self.least(), most: self.max() };
        let mut state = self.lock();
        let (present, busy) = (state.staying().saturating_add(state.starting), state.busy());
        Some(state.demand.wanted(Instant::now(), (rule, bounds), present, busy))
    }

    /// How long a replica is kept that nobody calls: `usual`, unless the version says otherwise.
    pub fn idle_time(&self, usual: Duration) -> Duration {
        match self.version.image.settings.idle_ms {
            0 => usual,
            own => Duration::from_millis(own),
        }
    }

    /// How many replicas are missing to `least`; counted as starting from here on.
    pub fn shortage(&self, least: u32) -> u32 {
        self.begin_missing(least, u32::MAX)
    }

    /// Whether there are fewer replicas than `level`; then one more is counted as starting.
    pub fn is_short_of_one(&self, level: u32) -> bool {
        self.begin_missing(level, 1) > 0
    }

    fn begin_missing(&self, least: u32, at_most: u32) -> u32 {
        let mut state = self.lock();
        if state.retired || state.trouble.pauses() {
            return 0;
        }
        let present = state.staying().saturating_add(state.starting);
        let starts = least.saturating_sub(present).min(at_most);
        state.begin(starts)
    }

    fn lease(self: &Arc<Self>, replica: &Arc<Replica>, cold: Option<Timing>) -> Lease {
        Lease { revision: self.clone(), replica: replica.clone(), cold, held: true }
    }

    /// A start has ended well, or a replica was adopted (`started` false). Calls that wait go to it. A revision that
    /// was retired meanwhile gives it back, to be stopped.
    pub fn join(
        self: &Arc<Self>,
        replica: &Arc<Replica>,
        started: Option<Timing>,
    ) -> Result<(), Arc<Replica>> {
        let mut grants = Vec::new();
        {
            let mut state = self.lock();
            state.obstacle = None;
            if started.is_some() {
                state.starting = state.starting.saturating_sub(1);
                state.trouble.started();
            }
            if state.retired {
                return Err(replica.clone());
            }
            let mut member = Member {
                replica: replica.clone(),
                in_flight: 0,
                idle_since: Instant::now(),
                since: Instant::now(),
                leaving: false,
            };
            while member.in_flight < self.concurrency() {
                let Some(waiting) = state.waiting.pop_front() else { break };
                member.in_flight += 1;
                grants.push((waiting, self.lease(replica, started)));
            }
            state.members.push(member);
        }
        // Outside the lock: a call that has gone away gives its lease back, which takes the lock again.
        for (waiting, lease) in grants {
            let _ = waiting.send(Ok(lease));
        }
        Ok(())
    }

    /// A start has failed. Where nothing else is left to wait for, the calls that wait fail with it.
    pub fn start_failed(&self, source: Arc<Error>) {
        let failed: Vec<_> = {
            let mut state = self.lock();
            state.obstacle = None;
            state.starting = state.starting.saturating_sub(1);
            // A start that waited for something to be back has paused enough.
            if !matches!(*source, Error::Stopping) && !source.is_away() {
                state.trouble.died(Some(source.clone()));
            }
            if state.starting > 0 || !state.members.is_empty() {
                return;
            }
            state.waiting.drain(..).collect()
        };
        for waiting in failed {
            let _ = waiting.send(Err(self.cannot_start(source.clone())));
        }
    }

    /// A start waits for something that is away. Whether that is news.
    pub fn hindered(&self, error: Error) -> bool {
        self.lock().obstacle.replace(Arc::new(error)).is_none()
    }

    /// Why a call has waited in vain: what the start itself waits for, where that is known.
    pub fn too_slow(&self, waited: Duration) -> Error {
        match self.lock().obstacle.clone() {
            Some(source) => self.cannot_start(source),
            None => Error::TooSlow { name: self.name.clone(), waited },
        }
    }

    fn cannot_start(&self, source: Arc<Error>) -> Error {
        Error::CannotStart { name: self.name.clone(), version: self.version.number, source }
    }

    /// Takes a replica out of the routes, once. Says how many to start instead for the calls that wait.
    pub fn leave(&self, id: &str) -> Option<u32> {
        let mut state = self.lock();
        let at = state.members.iter().position(|member| member.replica.id == id)?;
        let member = state.members.swap_remove(at);
        if member.since.elapsed() < WELL {
            state.trouble.died(None);
        } else {
            state.trouble = Trouble::default();
        }
        Some(self.wanted(&mut state))
    }

    /// Replicas idle for longer than `idle`, down to `least`, taken out of the routes.
    pub fn surplus(&self, idle: Duration, least: u32) -> Vec<Arc<Replica>> {
        let mut state = self.lock();
        let mut out = Vec::new();
        while let Some(at) = state.idlest(least) {
            let member = &state.members[at];
            if !member.leaving && member.idle_since.elapsed() < idle {
                break;
            }
            out.push(state.members.swap_remove(at).replica);
        }
        out
    }

    /// Since when a replica has been idle that could go; see [`Self::take_idle`].
    pub fn idle_since(&self, least: u32) -> Option<Instant> {
        let state = self.lock();
        Some(state.members.get(state.idlest(least)?)?.idle_since)
    }

    /// The idlest replica, taken out of the routes, if at least `least` stay.
    pub fn take_idle(&self, least: u32) -> Option<Arc<Replica>> {
        let mut state = self.lock();
        let at = state.idlest(least)?;
        Some(state.members.swap_remove(at).replica)
    }

    /// The replicas that stay.
    pub fn width(&self) -> u32 {
        self.lock().staying()
    }

    /// Whether a replica is on its way out for another function.
    pub fn is_shedding(&self) -> bool {
        self.lock().members.iter().any(|member| member.leaving)
    }

    /// Lets the least busy of several replicas end with its last call.
    pub fn shed(&self) {
        let mut state = self.lock();
        if state.staying() > 1
            && let Some(member) = state.members.iter_mut().filter(|m| !m.leaving).min_by_key(|m| m.in_flight)
        {
            member.leaving = true;
        }
    }

    /// A start is not to happen, because there is a replica already and no room for another. `false`: there is none.
    pub fn give_up_start(&self) -> bool {
        let mut state = self.lock();
        let has_one = state.staying() > 0;
        if has_one {
            state.starting = state.starting.saturating_sub(1);
        }
        has_one
    }

    /// No new calls: gives the replicas that are idle, and fails the calls that wait with `Removed`.
    pub fn retire(&self) {
        let waiting: Vec<_> = {
            let mut state = self.lock();
            state.retired = true;
            state.waiting.drain(..).collect()
        };
        for waiting in waiting {
            let _ = waiting.send(Err(Error::Removed { name: self.name.clone() }));
        }
    }

    /// Everything in the routes, taken out of them.
    pub fn clear(&self) -> Vec<Arc<Replica>> {
        self.lock().members.drain(..).map(|member| member.replica).collect()
    }

    pub fn replicas(&self) -> Vec<(Arc<Replica>, u32)> {
        self.lock().members.iter().map(|member| (member.replica.clone(), member.in_flight)).collect()
    }

    /// Whether anything runs or is being started.
    pub fn is_alive(&self) -> bool {
        let state = self.lock();
        !state.members.is_empty() || state.starting > 0
    }

    /// Whether nothing would be lost with it.
    pub fn is_quiet(&self) -> bool {
        let state = self.lock();
        let waits = state.waiting.iter().any(|waiting| !waiting.is_closed());
        state.members.is_empty() && state.starting == 0 && !waits && !state.trouble.pauses()
    }

    pub fn is_ready(&self) -> bool {
        !self.lock().members.is_empty()
    }

    pub fn calls_waiting(&self) -> usize {
        self.lock().waiting.iter().filter(|waiting| !waiting.is_closed()).count()
    }

    /// A call has ended: its place goes to the one that has waited longest, else becomes free.
    pub fn finished(self: &Arc<Self>, replica: &Arc<Replica>) {
        loop {
            let (waiting, lease) = {
                let mut state = self.lock();
                let State { members, waiting, .. } = &mut *state;
                let Some(member) = members.iter_mut().find(|member| Arc::ptr_eq(&member.replica, replica))
                else {
                    return;
                };
                let next = if member.leaving { None } else { waiting.pop_front() };
                let Some(next) = next else {
                    member.in_flight = member.in_flight.saturating_sub(1);
                    member.idle_since = Instant::now();
                    return;
                };
                (next, self.lease(replica, None))
            };
            match waiting.send(Ok(lease)) {
                Ok(()) => return,
                // It has gone away: the place is still ours to give.
                Err(Ok(mut lease)) => lease.held = false,
                Err(Err(_)) => {}
            }
        }
    }
}

/// The digest of a version as it stands in the record.
pub(super) fn key(version: &Version) -> Digest {
    Digest::of(serde_json::to_vec(version).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::{FunctionRecord, NewVersion, Settings};

    /// Of so many calls, one after the other, how many each of two replicas has.
    fn divided(settings: Settings, calls: u32) -> [u32; 2] {
        let image = serde_json::json!({ "repository": "fn/add", "digest": Digest::of(b"image"), "settings": settings });
        let image: NewVersion = serde_json::from_value(image).unwrap();
        let record = FunctionRecord::first("add".parse().unwrap(), image, String::new());
        let (cluster, tallies) = (Cluster::alone("a"), Tallies::default());
        let rules = Arc::new(Rules { queue: 1, cluster, tallies, figures: Arc::default() });
        let revision = Revision::new(record.name.clone(), record.versions[0].clone(), rules);
        for id in ["0", "1"] {
            let replica = Replica {
                id: id.into(),
                function: record.name.clone(),
                version: 1,
                address: ([127, 0, 0, 1], 8081).into(),
                pid: 0,
                fate: tokio::sync::watch::channel(None).0,
                gone: Default::default(),
            };
            revision.join(&Arc::new(replica), None).unwrap();
        }
        let mut counts = [0; 2];
        for _ in 0..calls {
            let Ok(Admission::Granted(lease)) = revision.admit() else { panic!("there is room") };
            counts[usize::from(lease.replica().id == "1")] += 1;
        }
        counts
    }

    #[test]
    fn replicas_that_are_there_for_the_rate_take_turns() {
        let by_rate = Settings { target_rps: 5, ..Settings::default() };
        assert_eq!(divided(by_rate, 10), [5, 5]);
        assert_eq!(divided(Settings::default(), 10), [10, 0], "the other may become idle");
    }

    #[test]
    fn a_version_whose_starts_keep_failing_is_started_once_at_a_time() {
        let mut state = State::default();
        assert_eq!(state.begin(20), 20);
        state.starting = 0;
        for _ in 0..20 {
            state.trouble.died(Some(Arc::new(Error::UnknownReplica { id: String::new() })));
        }
        assert_eq!((state.begin(20), state.begin(20)), (1, 0));
        state.trouble.started();
        assert_eq!(state.begin(20), 20);
    }
}
