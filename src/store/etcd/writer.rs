//! Takes this node's writes to etcd: what comes while one transaction is on its way goes together in the next.
//!
//! - Each write stands for itself. It is a transaction within the one that carries it, on a condition of its own: one
//!   that is refused keeps no other from being made.
//! - One that finds none on its way is sent at once.
//! - A transaction may write a key only once: of several writes of one key, the later ones wait for the next.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::members::{Attempted, Members};
use super::revision;
use crate::store::{Revision, StoreError};

/// etcd's bound is 128 operations by default: those of the outer transaction and those of one within it, together.
const MOST: usize = 64;
/// etcd refuses a request above 1.5 MiB.
const LARGEST: usize = (3 << 19) - (8 << 10);
/// What a write takes in a request beside its value and its key.
const AROUND: usize = 128;
/// How long a write may take, waiting for others included: long enough for an election.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to write where: `bytes` of `None` removes the key. `expected` of `None`: it must not be there yet.
pub struct Write {
    pub key: String,
    pub expected: Option<Revision>,
    pub bytes: Option<Vec<u8>>,
}

/// What became of a write.
pub enum Outcome {
    Made(Revision),
    Refused(Refusal),
    /// etcd holds no store at all.
    NoStore,
}

/// The condition did not hold.
pub struct Refusal {
    /// What stands there instead.
    pub found: Option<KeyValue>,
    /// When that was so.
    pub at: Revision,
    /// Whether an earlier attempt of this very write may have been carried out.
    pub repeated: bool,
}

pub struct Writer {
    queue: mpsc::UnboundedSender<Queued>,
    members: Arc<Members>,
    sending: AbortOnDropHandle<()>,
}

struct Queued {
    write: Arc<Write>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
}

impl Writer {
    /// `marker`: the key that must be there for any write to be made.
    pub fn start(members: Arc<Members>, marker: String) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let sending = tokio::spawn(send_all(queued, Arc::clone(&members), marker));
        Self { queue, members, sending: AbortOnDropHandle::new(sending) }
    }

    pub async fn write(&self, write: Arc<Write>) -> Result<Outcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + PATIENCE;
        self.queue.send(Queued { write, deadline, answer }).map_err(|_| StoreError::Interrupted)?;
        match timeout_at(deadline, answered).await {
            Ok(answer) => answer.map_err(|_| StoreError::Interrupted)?,
            Err(elapsed) => Err(self.members.away(elapsed)),
        }
    }

    /// When this returns, nothing is sent any more.
    pub async fn stop(self) {
        self.sending.abort();
        let _ = self.sending.await;
    }
}

async fn send_all(mut queue: mpsc::UnboundedReceiver<Queued>, members: Arc<Members>, marker: String) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            waiting.extend(queue.recv().await);
        }
        // Who has just been told of the last one may have more to write: let them say so first.
        tokio::task::yield_now().await;
        while let Ok(queued) = queue.try_recv() {
            waiting.push_back(queued);
        }
        let group = next_group(&mut waiting);
        if !group.is_empty() {
            send(group, &members, &marker).await;
        } else if queue.is_closed() {
            return;
        }
    }
}

/// The writes that go together next, the oldest first; the others stay.
fn next_group(waiting: &mut VecDeque<Queued>) -> Vec<Queued> {
    let (mut group, mut left) = (Vec::new(), VecDeque::new());
    let (mut keys, mut size) = (HashSet::new(), 0);
    // Who gave up while it waited is not written for.
    for queued in waiting.drain(..).filter(|queued| !queued.answer.is_closed()) {
        let first_of_its_key = keys.insert(queued.write.key.clone());
        let larger = size + queued.write.size();
        if first_of_its_key && group.len() < MOST && (group.is_empty() || larger <= LARGEST) {
            size = larger;
            group.push(queued);
        } else {
            left.push_back(queued);
        }
    }
    *waiting = left;
    group
}

async fn send(group: Vec<Queued>, members: &Members, marker: &str) {
    let Some(deadline) = group.iter().map(|queued| queued.deadline).max() else { return };
    let there = Compare::version(marker, CompareOp::Greater, 0);
    let writes: Vec<_> = group.iter().map(|queued| TxnOp::txn(queued.write.transaction())).collect();
    let txn = Txn::new().when([there]).and_then(writes).or_else([]);
    let Attempted { answer, repeated } = match members.txn_until("write", txn, deadline).await {
        Ok(attempted) => attempted,
        Err(error) => {
            for queued in group {
                queued.tell(Err(error.clone()));
            }
            return;
        }
    };
    let at = revision(answer.header().map_or(0, |header| header.revision()));
    let mut answers = answer.op_responses().into_iter();
    for queued in group {
        let outcome = match answers.next() {
            Some(TxnOpResponse::Txn(made)) if made.succeeded() => Outcome::Made(at),
            Some(TxnOpResponse::Txn(refused)) => {
                Outcome::Refused(Refusal { found: found(&refused), at, repeated })
            }
            // The condition on the marker did not hold: nothing within was even looked at.
            _ => Outcome::NoStore,
        };
        queued.tell(Ok(outcome));
    }
}

/// What the key holds instead of what was expected.
fn found(refused: &TxnResponse) -> Option<KeyValue> {
    match refused.op_responses().into_iter().next() {
        Some(TxnOpResponse::Get(got)) => got.kvs().first().cloned(),
        _ => None,
    }
}

impl Write {
    fn transaction(&self) -> Txn {
        let key = self.key.as_str();
        let unchanged = match self.expected {
            None => Compare::version(key, CompareOp::Equal, 0),
            Some(Revision(at)) => {
                Compare::mod_revision(key, CompareOp::Equal, i64::try_from(at).unwrap_or(i64::MAX))
            }
        };
        let write = match &self.bytes {
            Some(bytes) => TxnOp::put(key, bytes.as_slice(), None),
            None => TxnOp::delete(key, None),
        };
        Txn::new().when([unchanged]).and_then([write]).or_else([TxnOp::get(key, None)])
    }

    /// In a request, generously: the key stands there three times.
    fn size(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len) + 3 * self.key.len() + AROUND
    }
}

impl Queued {
    fn tell(self, outcome: Result<Outcome, StoreError>) {
        // Who gave up in the meantime learns it from the watch.
        let _ = self.answer.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(
        waiting: &mut VecDeque<Queued>,
        key: &str,
        size: usize,
    ) -> oneshot::Receiver<Result<Outcome, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let write = Arc::new(Write { key: key.into(), expected: None, bytes: Some(vec![0; size]) });
        waiting.push_back(Queued { write, deadline: Instant::now() + PATIENCE, answer });
        answered
    }

    fn keys(group: &[Queued]) -> Vec<&str> {
        group.iter().map(|queued| queued.write.key.as_str()).collect()
    }

    #[test]
    fn a_key_is_written_once_in_a_group_and_in_the_order_of_its_writers() {
        let mut waiting = VecDeque::new();
        let _answers = [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("a", 3)]
            .map(|(key, size)| queue(&mut waiting, key, size));
        assert_eq!(keys(&next_group(&mut waiting)), ["a", "b", "c"]);
        let second = next_group(&mut waiting);
        assert_eq!((keys(&second), second[0].write.bytes.as_ref().unwrap().len()), (vec!["a"], 2));
        assert_eq!(keys(&next_group(&mut waiting)), ["a"]);
        assert!(next_group(&mut waiting).is_empty());
    }

    #[test]
    fn a_group_is_no_larger_than_etcd_takes() {
        let mut waiting = VecDeque::new();
        let _answers: Vec<_> = (0..=MOST).map(|i| queue(&mut waiting, &i.to_string(), 1)).collect();
        assert_eq!(next_group(&mut waiting).len(), MOST);
        assert_eq!(next_group(&mut waiting).len(), 1);

        let _answers = [("small", 1), ("large", LARGEST), ("half", LARGEST / 2), ("other half", LARGEST / 2)]
            .map(|(key, size)| queue(&mut waiting, key, size));
        assert_eq!(keys(&next_group(&mut waiting)), ["small", "half"]);
        assert_eq!(keys(&next_group(&mut waiting)), ["large"], "alone, rather than never");
        assert_eq!(keys(&next_group(&mut waiting)), ["other half"]);
    }

    #[test]
    fn nothing_is_written_for_who_gave_up() {
        let mut waiting = VecDeque::new();
        let gone = queue(&mut waiting, "a", 1);
        let _answer = queue(&mut waiting, "b", 1);
        drop(gone);
        assert_eq!(keys(&next_group(&mut waiting)), ["b"]);
        assert!(waiting.is_empty());
    }
}
