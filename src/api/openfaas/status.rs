//! A function as OpenFaaS's clients are told of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::super::Api;
use super::deploy::PROCESS;
use crate::function::{FunctionRecord, NAMESPACE, Resources, Settings};
use crate::replica::ReplicaState;

/// `FunctionStatus` of the published description.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FunctionStatus {
    name: String,
    image: String,
    namespace: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    env_process: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env_vars: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    constraints: Vec<String>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    secrets: BTreeSet<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Resources>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only_root_filesystem: bool,
    /// How many there are to be.
    replicas: u64,
    /// How many answer.
    available_replicas: u64,
    /// How often it was called at this node since the server started.
    invocation_count: u64,
    created_at: String,
}

impl Api {
    /// `None` for a record whose current version is gone.
    /// `elsewhere`: replicas of the other nodes that are ready.
    pub(super) fn function_status(
        &self,
        record: &FunctionRecord,
        elsewhere: usize,
    ) -> Option<FunctionStatus> {
        let version = &record.current()?.image;
        let settings = &version.settings;
        let all = self.replicas.list(&record.name);
        let ready = all.iter().filter(|replica| replica.state == ReplicaState::Ready).count() + elsewhere;
        let ready = ready as u64;
        let mut env_vars = settings.env.clone();
        let env_process = env_vars.remove(PROCESS).unwrap_or_default();
        let mut labels = settings.labels.clone();
        labels.insert("faas_function".into(), record.name.to_string());
        let deployment = version.deployment.clone();
        let image = format!("{}/{}@{}", self.published.host(), version.repository, version.digest);
        let deployed = deployment.unwrap_or_else(|| crate::function::Deployment {
            image,
            limits: Some(limits(settings)),
            requests: None,
            constraints: Vec::new(),
            read_only_root_filesystem: true,
        });
        Some(FunctionStatus {
            name: record.name.to_string(),
            image: deployed.image,
            namespace: NAMESPACE,
            env_process,
            env_vars,
            constraints: deployed.constraints,
            secrets: settings.secrets.clone(),
            labels,
            annotations: settings.annotations.clone(),
            limits: deployed.limits,
            requests: deployed.requests,
            read_only_root_filesystem: deployed.read_only_root_filesystem,
            replicas: ready.max(settings.min_scale.into()),
            available_replicas: ready,
            invocation_count: self.replicas.calls_of(&record.name),
            created_at: record.versions.first()?.created.clone(),
        })
    }
}

fn limits(settings: &Settings) -> Resources {
    Resources { memory: settings.memory.to_string(), cpu: format!("{}m", settings.cpu_millis) }
}
