//! What a node says of itself: plain data.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::function::{FunctionName, VersionNumber};

/// A node as the others see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its data folder's.
    pub id: String,
    pub host: String,
    /// Where its trigger listens.
    pub url: String,
    /// fnbuild's.
    pub version: String,
    pub state: NodeState,
    pub capacity: Capacity,
    pub load: Load,
    pub replicas: Vec<NodeReplica>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Ready,
    /// It ends soon, and takes no new work.
    Draining,
}

/// What a node has.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    pub cpus: u32,
    /// In bytes.
    pub memory: u64,
    /// At most, over all functions.
    pub replicas: u32,
}

/// What of it is in use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    pub replicas: u32,
    /// Calls that are being answered.
    pub in_flight: u32,
    /// In bytes, of the whole machine.
    pub memory: u64,
}

/// One container of a node's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeReplica {
    pub function: FunctionName,
    pub id: String,
    pub version: VersionNumber,
    /// Reachable on its node alone.
    pub address: String,
    pub port: u16,
    pub state: String,
}
