//! The nodes, and what each says of itself.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;

use super::description::Reads;
use super::extract::Json;
use super::{Api, ApiError, ReplicaState};
use crate::cluster::{self, Node, NodeState};
use crate::function::FunctionName;

/// The nodes, each with its replicas.
#[utoipa::path(get, path = "/v1/nodes", operation_id = "nodes", responses((status = 200, body = Vec<Node>), Reads))]
pub async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<Node>>, ApiError> {
    Ok(Json(api.nodes().await?))
}

impl Api {
    /// This node, as it is now.
    pub fn node(&self) -> Node {
        let (capacity, load, replicas) = self.replicas.overview();
        let stopping = self.stopping.is_cancelled();
        Node {
            id: self.about.id.clone(),
            host: self.about.host.clone(),
            url: self.about.url.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state: if stopping { NodeState::Draining } else { NodeState::Ready },
            capacity,
            load,
            replicas,
        }
    }

    /// All nodes by their IDs: this one as it is, the others as they last said.
    pub(super) async fn nodes(&self) -> Result<Vec<Node>, ApiError> {
        let mut nodes = cluster::nodes(&*self.store).await?;
        nodes.retain(|node| node.id != self.about.id);
        nodes.push(self.node());
        nodes.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(nodes)
    }

    /// How many replicas of each function are ready on the other nodes.
    pub(super) async fn ready_elsewhere(&self) -> Result<HashMap<FunctionName, usize>, ApiError> {
        let mut ready = HashMap::new();
        let nodes = cluster::nodes(&*self.store).await?;
        for node in nodes.into_iter().filter(|node| node.id != self.about.id) {
            for replica in node.replicas.into_iter().filter(|replica| replica.state == "ready") {
                *ready.entry(replica.function).or_default() += 1;
            }
        }
        Ok(ready)
    }

    /// A function's replicas on the other nodes.
    pub(super) async fn replicas_elsewhere(
        &self,
        name: &FunctionName,
    ) -> Result<Vec<ReplicaState>, ApiError> {
        let others = cluster::nodes(&*self.store).await?.into_iter().filter(|node| node.id != self.about.id);
        let states = others.flat_map(|node| {
            let id = node.id;
            let its = node.replicas.into_iter().filter(|replica| replica.function == *name);
            its.map(move |replica| ReplicaState {
                node: id.clone(),
                container: replica.id.clone(),
                id: replica.id,
                version: replica.version,
                address: replica.address,
                port: replica.port,
                state: replica.state,
                out_of_memory: 0,
                out_of_pids: 0,
            })
        });
        Ok(states.collect())
    }
}
