//! The nodes that share a store: which there are, what each does, and which share of a function's scale is whose.
//!
//! - A node is there as long as it renews its lease in etcd: what it says of itself goes away with it.
//! - The nodes agree on one list of themselves by compare-and-swap. Each one's share of a scale follows from that list
//!   alone, so that the shares come to the whole.
//! - Without etcd there is one node, and everything is its.

mod agreement;
mod node;
mod share;

use std::sync::{Arc, PoisonError, RwLock};

use crate::function::FunctionName;

pub use agreement::{Membership, nodes};
pub use node::{Capacity, Load, Node, NodeReplica, NodeState};

/// This node among the others, as the last agreement has it.
#[derive(Debug)]
pub struct Cluster {
    id: String,
    /// In order.
    agreed: RwLock<Arc<[String]>>,
}

impl Cluster {
    /// A node that knows of no other yet.
    pub fn alone(id: &str) -> Arc<Self> {
        Arc::new(Self { id: id.into(), agreed: RwLock::new([id.to_string()].into()) })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a balancer may find another node.
    pub fn has_others(&self) -> bool {
        self.agreed().iter().any(|node| *node != self.id)
    }

    /// How many of a function's `total` replicas are this node's to run.
    pub fn share(&self, name: &FunctionName, total: u32) -> u32 {
        share::of(&self.agreed(), &self.id, name, total)
    }

    fn agreed(&self) -> Arc<[String]> {
        Arc::clone(&self.agreed.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn agree(&self, nodes: Vec<String>) {
        *self.agreed.write().unwrap_or_else(PoisonError::into_inner) = nodes.into();
    }
}
