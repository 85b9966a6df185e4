//! What the calls of a function go to that name no version: one revision, or several with a share each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::revision::{Revision, Rules};
use crate::function::FunctionRecord;

/// Prime to 100, and near its golden section: of a hundred calls in a row each place has one, and neighbours are far
/// apart.
const STEP: u32 = 61;

pub(super) struct Serving {
    first: Arc<Revision>,
    /// The percent that goes to each, where it is not all to the first.
    shares: Vec<(u32, Arc<Revision>)>,
    turn: AtomicU32,
}

impl Serving {
    /// As the record says; `known` gives a revision that there is already. `None` for a record that was damaged.
    pub fn of(
        record: &FunctionRecord,
        rules: &Arc<Rules>,
        known: impl Fn(&Arc<Revision>) -> Option<Arc<Revision>>,
    ) -> Option<Self> {
        let targets = record.targets().into_iter().map(|(version, share)| {
            let made = Revision::new(record.name.clone(), version.clone(), rules.clone());
            (share, known(&made).unwrap_or(made))
        });
        let mut shares: Vec<(u32, Arc<Revision>)> = targets.collect();
        let first = shares.first()?.1.clone();
        if shares.len() == 1 {
            shares.clear();
        }
        Some(Self { first, shares, turn: AtomicU32::new(0) })
    }

    /// The revision for the next call.
    pub fn pick(&self) -> &Arc<Revision> {
        if self.shares.is_empty() {
            return &self.first;
        }
        let mut place = self.turn.fetch_add(STEP, Ordering::Relaxed) % 100;
        for (share, revision) in &self.shares {
            match place.checked_sub(*share) {
                Some(rest) => place = rest,
                None => return revision,
            }
        }
        &self.first
    }

    pub fn revisions(&self) -> impl Iterator<Item = &Arc<Revision>> {
        let only = self.shares.is_empty().then_some(&self.first);
        only.into_iter().chain(self.shares.iter().map(|(_, revision)| revision))
    }

    pub fn contains(&self, revision: &Arc<Revision>) -> bool {
        self.revisions().any(|own| Arc::ptr_eq(own, revision))
    }

    /// Whether the same revisions have the same shares.
    pub fn is_same(&self, other: &Self) -> bool {
        let mut pairs = self.shares.iter().zip(&other.shares);
        self.first.key == other.first.key
            && self.shares.len() == other.shares.len()
            && pairs.all(|((a, one), (b, two))| a == b && one.key == two.key)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cluster::Cluster;
    use crate::function::NewVersion;

    #[test]
    fn of_a_hundred_calls_in_a_row_each_version_gets_its_percent() {
        let image = serde_json::json!({ "repository": "fn/add", "digest": crate::oci::Digest::of(b"image") });
        let image: NewVersion = serde_json::from_value(image).unwrap();
        let mut record = FunctionRecord::first("add".parse().unwrap(), image.clone(), String::new());
        record.push(image, String::new());
        let (cluster, tallies) = (Cluster::alone("a"), Default::default());
        let rules = Arc::new(Rules { queue: 1, cluster, tallies, figures: Arc::default() });
        let plain = Serving::of(&record, &rules, |_| None).unwrap();
        assert!((0..10).all(|_| plain.pick().version.number == 2));
        record.divide([(1, 90), (2, 10)].into()).unwrap();
        let split = Serving::of(&record, &rules, |_| None).unwrap();
        for _ in 0..3 {
            let mut counts = BTreeMap::<u64, u32>::new();
            (0..100).for_each(|_| *counts.entry(split.pick().version.number).or_default() += 1);
            assert_eq!(counts, [(1, 90), (2, 10)].into());
        }
        assert!(!split.is_same(&plain));
        assert!(split.is_same(&Serving::of(&record, &rules, |_| None).unwrap()));
    }
}
