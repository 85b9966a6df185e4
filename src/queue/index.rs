//! What the queue knows in memory of each call: whose it is, what it takes, and when it is due. No input or output.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::function::FunctionName;

use super::call::{Millis, Number};

/// Every call that is kept.
#[derive(Default)]
pub struct Index {
    calls: BTreeMap<Number, Entry>,
    ids: HashMap<Arc<str>, Number>,
    lanes: HashMap<FunctionName, Lane>,
    /// Of all calls, dead letters among them.
    bytes: u64,
    dead_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: Arc<str>,
    pub function: FunctionName,
    pub bytes: u64,
    pub state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// On its way to the disk.
    Arriving,
    Waiting {
        due: Millis,
    },
    /// The function works on it.
    Running,
    /// The function is done with it; its answer is on its way.
    Answered,
    Dead {
        since: Millis,
    },
}

/// One function's calls.
struct Lane {
    due: BTreeSet<(Millis, Number)>,
    running: u32,
    /// All that are not dead.
    held: u32,
    /// How many may run at once.
    limit: u32,
}

/// Why a call is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    Function,
    Node,
}

/// What the queue may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of one function.
    pub calls: u32,
    /// Of all.
    pub bytes: u64,
}

impl Index {
    /// Takes a call in that is on its way to the disk.
    pub fn admit(&mut self, number: Number, entry: Entry, bounds: Bounds) -> Result<(), Full> {
        if self.held(&entry.function) >= bounds.calls {
            return Err(Full::Function);
        }
        if self.bytes + entry.bytes > bounds.bytes {
            return Err(Full::Node);
        }
        self.insert(number, entry);
        Ok(())
    }

    /// Takes in a call that was kept before, whatever the bounds are now.
    pub fn insert(&mut self, number: Number, entry: Entry) {
        self.bytes += entry.bytes;
        self.ids.insert(Arc::clone(&entry.id), number);
        let state = entry.state;
        self.calls.insert(number, entry);
        self.count(number, state, true);
    }

    pub fn remove(&mut self, number: Number) -> Option<Entry> {
        let state = self.calls.get(&number)?.state;
        self.count(number, state, false);
        let entry = self.calls.remove(&number)?;
        self.bytes -= entry.bytes;
        // An ID belongs to the call that came last with it.
        if self.ids.get(&entry.id) == Some(&number) {
            self.ids.remove(&entry.id);
        }
        self.close(&entry.function);
        Some(entry)
    }

    /// `false`: the call is not there any more.
    pub fn set(&mut self, number: Number, state: State) -> bool {
        let Some(entry) = self.calls.get(&number) else { return false };
        let (before, function) = (entry.state, entry.function.clone());
        self.count(number, before, false);
        if let Some(entry) = self.calls.get_mut(&number) {
            entry.state = state;
        }
        self.count(number, state, true);
        self.close(&function);
        true
    }

    /// How many calls of a function there are that are not dead.
    pub fn held(&self, function: &FunctionName) -> u32 {
        self.lanes.get(function).map_or(0, |lane| lane.held)
    }

    /// How many of a function's calls may run at once, as its settings have it now.
    pub fn limit(&mut self, function: &FunctionName, limit: u32) {
        if let Some(lane) = self.lanes.get_mut(function) {
            lane.limit = limit;
        }
    }

    /// The call whose turn it is, which runs from here on: of the functions that have room the one whose call has been
    /// due for longest.
    pub fn take(&mut self, now: Millis) -> Option<Number> {
        let first = |lane: &Lane| lane.due.first().copied().filter(|(due, _)| *due <= now);
        let open = self.lanes.values().filter(|lane| lane.running < lane.limit);
        let (_, number) = open.filter_map(first).min()?;
        self.set(number, State::Running);
        Some(number)
    }

    /// When the next call is due that is not due yet.
    pub fn next_due(&self, now: Millis) -> Option<Millis> {
        let first = |lane: &Lane| lane.due.first().map(|(due, _)| *due);
        self.lanes.values().filter_map(first).filter(|due| *due > now).min()
    }

    pub fn number(&self, id: &str) -> Option<Number> {
        self.ids.get(id).copied()
    }

    pub fn get(&self, number: Number) -> Option<&Entry> {
        self.calls.get(&number)
    }

    /// Calls that came in after this one, in order.
    pub fn after(&self, number: Option<Number>) -> impl Iterator<Item = (Number, &Entry)> {
        let from = number.map_or(0, |number| number.saturating_add(1));
        self.calls.range(from..).map(|(number, entry)| (*number, entry))
    }

    /// Of all calls.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of the dead letters, in bytes.
    pub fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    fn count(&mut self, number: Number, state: State, add: bool) {
        let Some(entry) = self.calls.get(&number) else { return };
        if matches!(state, State::Dead { .. }) {
            self.dead_bytes = if add { self.dead_bytes + entry.bytes } else { self.dead_bytes - entry.bytes };
            return;
        }
        let lane = self.lanes.entry(entry.function.clone()).or_insert_with(|| Lane {
            due: BTreeSet::new(),
            running: 0,
            held: 0,
            limit: 1,
        });
        let step = |count: &mut u32| *count = if add { *count + 1 } else { count.saturating_sub(1) };
        step(&mut lane.held);
        match state {
            State::Waiting { due } if add => drop(lane.due.insert((due, number))),
            State::Waiting { due } => drop(lane.due.remove(&(due, number))),
            State::Running => step(&mut lane.running),
            _ => {}
        }
    }

    /// Forgets the lane of a function without calls. Not while a call's state is changed: its limit must outlive that.
    fn close(&mut self, function: &FunctionName) {
        if self.lanes.get(function).is_some_and(|lane| lane.held == 0) {
            self.lanes.remove(function);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { calls: 2, bytes: 100 };

    fn entry(function: &str, id: &str, state: State) -> Entry {
        Entry { id: id.into(), function: function.parse().unwrap(), bytes: 30, state }
    }

    #[test]
    fn each_bound_has_its_own_refusal_and_dead_letters_take_bytes_alone() {
        let mut index = Index::default();
        index.admit(1, entry("a", "1", State::Arriving), BOUNDS).unwrap();
        index.admit(2, entry("a", "2", State::Arriving), BOUNDS).unwrap();
        assert_eq!(index.admit(3, entry("a", "3", State::Arriving), BOUNDS), Err(Full::Function));
        index.admit(4, entry("b", "4", State::Arriving), BOUNDS).unwrap();
        assert_eq!(index.admit(5, entry("b", "5", State::Arriving), BOUNDS), Err(Full::Node));
        assert!(index.set(1, State::Dead { since: 0 }));
        assert_eq!(index.dead_bytes(), 30);
        assert_eq!(index.admit(6, entry("a", "6", State::Arriving), BOUNDS), Err(Full::Node));
        index.remove(4);
        index.admit(7, entry("a", "7", State::Arriving), BOUNDS).unwrap();
        assert!(index.number("4").is_none() && index.number("7") == Some(7));
        assert!(!index.set(4, State::Running), "it is gone");
    }

    #[test]
    fn whoever_is_due_for_longest_is_next_where_there_is_room() {
        let mut index = Index::default();
        for (number, function, due) in [(1, "a", 10), (2, "a", 5), (3, "b", 7), (4, "b", 90)] {
            index.insert(number, entry(function, &number.to_string(), State::Waiting { due }));
        }
        assert_eq!(index.take(4), None);
        assert_eq!(index.next_due(4), Some(5));
        assert_eq!(index.take(50), Some(2));
        assert_eq!(index.take(50), Some(3), "a has one running and no room");
        assert_eq!(index.take(50), None);
        index.limit(&"a".parse().unwrap(), 2);
        assert_eq!(index.take(50), Some(1));
        index.set(3, State::Answered);
        assert_eq!(index.take(50), None);
        assert_eq!(index.next_due(50), Some(90));
        assert_eq!(index.take(90), Some(4), "an answer on its way takes no room");
    }
}
