//! How nodes make themselves known, and come to one list of themselves.

use std::sync::Arc;

use super::{Cluster, Node, NodeState};
use crate::store::{EtcdStore, FunctionStore, StoreError, ValueKey};

const NODE_KIND: &str = "node";
const PAGE: usize = 256;

/// A node's part in a cluster: [`Membership::renew`] again and again, and [`Membership::leave`] at the end.
pub struct Membership {
    store: Arc<EtcdStore>,
    cluster: Arc<Cluster>,
    said: Option<Vec<u8>>,
}

impl Membership {
    pub fn new(store: Arc<EtcdStore>, cluster: Arc<Cluster>) -> Self {
        Self { store, cluster, said: None }
    }

    /// Renews the lease, says what is new of this node, and sees to it that the list is right. To be called more often
    /// than a lease is long.
    pub async fn renew(&mut self, node: &Node) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(node).unwrap_or_default();
        if !self.store.renew_lease().await? {
            self.said = None;
        }
        if self.said.as_ref() != Some(&bytes) {
            self.store.put_leased(&ValueKey::new(NODE_KIND, &node.id)?, &bytes).await?;
            self.said = Some(bytes);
        }
        self.agree().await
    }

    /// Lets the others take over at once what is this node's.
    pub async fn leave(self) -> Result<(), StoreError> {
        self.store.end_lease().await
    }

    /// Takes over the list, and proposes a better one where it does not say who is there. Of several that do, one wins;
    /// the others find its list the next time.
    async fn agree(&self) -> Result<(), StoreError> {
        let key = ValueKey::new("cluster", "nodes")?;
        // One that drains takes no new work: its shares are the others'.
        let there = nodes(&*self.store).await?.into_iter();
        let mut present: Vec<String> =
            there.filter(|node| node.state == NodeState::Ready).map(|node| node.id).collect();
        present.sort_unstable();
        let agreed = self.store.value(&key).await?;
        let list: Option<Vec<String>> =
            agreed.as_ref().and_then(|value| serde_json::from_slice(&value.bytes).ok());
        if let Some(list) = list.filter(|list| *list == present) {
            self.cluster.agree(list);
            return Ok(());
        }
        let bytes = serde_json::to_vec(&present).unwrap_or_default();
        match self.store.swap_value(&key, agreed.map(|value| value.revision), Some(&bytes)).await {
            Ok(_) => {
                self.cluster.agree(present);
                Ok(())
            }
            Err(StoreError::ValueConflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The nodes that are there, this one included; none in a store that is one machine's.
pub async fn nodes(store: &dyn FunctionStore) -> Result<Vec<Node>, StoreError> {
    let (mut nodes, mut after) = (Vec::new(), None);
    loop {
        let page = store.values(Some(NODE_KIND), after.as_ref(), PAGE).await?;
        // What another release of fnbuild says and this one cannot read is left out.
        nodes
            .extend(page.values.iter().filter_map(|value| serde_json::from_slice::<Node>(&value.bytes).ok()));
        after = page.values.into_iter().next_back().map(|value| value.key);
        if !page.more {
            return Ok(nodes);
        }
    }
}
