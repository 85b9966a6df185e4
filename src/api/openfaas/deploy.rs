//! What OpenFaaS's clients send to have an image deployed, and what it means here.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::super::ApiError;
use crate::function::{
    Deployment, NewVersion, Resources, Settings, SettingsPatch, labelled_scale, parse_cpu,
};
use crate::publish::Adopted;

/// What the image's watchdog is to run.
pub(super) const PROCESS: &str = "fprocess";

/// `FunctionDeployment` of the published description. What it has no words for stays as fnbuild's defaults are.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FunctionDeployment {
    pub service: String,
    pub image: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    env_process: String,
    env_vars: Option<BTreeMap<String, String>>,
    secrets: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    constraints: Option<Vec<String>>,
    limits: Option<Resources>,
    requests: Option<Resources>,
    #[serde(default)]
    read_only_root_filesystem: bool,
}

impl FunctionDeployment {
    /// The whole settings: a deployment says everything anew.
    pub fn settings(&self) -> Result<Settings, ApiError> {
        let some = |map: &Option<BTreeMap<String, String>>| {
            let pairs = map.iter().flatten().map(|(key, value)| (key.clone(), Some(value.clone())));
            pairs.collect::<BTreeMap<_, _>>()
        };
        let mut env = some(&self.env_vars);
        if !self.env_process.is_empty() {
            env.insert(PROCESS.into(), Some(self.env_process.clone()));
        }
        let limit = |field: fn(&Resources) -> &String| {
            self.limits.as_ref().map(field).filter(|text| !text.is_empty())
        };
        let labels = self.labels.clone().unwrap_or_default();
        let patch = SettingsPatch {
            env,
            secrets: self.secrets.as_ref().map(|names| names.iter().cloned().collect()),
            memory: limit(|limits| &limits.memory).map(|text| text.parse()).transpose()?,
            cpu_millis: limit(|limits| &limits.cpu).map(|text| parse_cpu(text)).transpose()?,
            labels: some(&self.labels),
            annotations: some(&self.annotations),
            ..labelled_scale(&labels)?
        };
        Ok(patch.apply(&Settings::default())?)
    }

    /// The version that it asks for, of an image that is in the registry.
    pub fn version(self, image: Adopted, settings: Settings) -> NewVersion {
        let Adopted { repository, digest } = image;
        let deployment = Deployment {
            image: self.image,
            limits: self.limits,
            requests: self.requests,
            constraints: self.constraints.unwrap_or_default(),
            read_only_root_filesystem: self.read_only_root_filesystem,
        };
        NewVersion {
            repository,
            digest,
            source: None,
            base: None,
            entry: None,
            parameters: None,
            packages: Vec::new(),
            settings,
            author: None,
            deployment: Some(deployment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: serde_json::Value) -> Result<Settings, ApiError> {
        let mut whole = serde_json::json!({ "service": "a", "image": "b" });
        whole.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
        serde_json::from_value::<FunctionDeployment>(whole).unwrap().settings()
    }

    #[test]
    fn limits_and_labels_become_settings() {
        let told = settings(serde_json::json!({
            "envProcess": "cat", "envVars": { "A": "1" }, "limits": { "memory": "5Mi", "cpu": "100m" },
            "labels": { "com.openfaas.scale.min": "2", "com.openfaas.scale.type": "capacity",
                "com.openfaas.scale.target": "3" },
        }));
        let told = told.unwrap();
        assert_eq!((told.memory.0, told.cpu_millis, told.concurrency), (5 << 20, 100, 3));
        assert_eq!((told.min_scale, told.max_scale), (2, 5));
        assert_eq!((told.env["A"].as_str(), told.env["fprocess"].as_str()), ("1", "cat"));
        assert_eq!(settings(serde_json::json!({ "labels": null })).unwrap().min_scale, 1);
        let zero = serde_json::json!({ "labels": { "com.openfaas.scale.zero": "true" } });
        assert_eq!(settings(zero).unwrap().min_scale, 0);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for json in [
            serde_json::json!({ "limits": { "memory": "much" } }),
            serde_json::json!({ "limits": { "cpu": "-1" } }),
            serde_json::json!({ "labels": { "com.openfaas.scale.min": "-1" } }),
            serde_json::json!({ "labels": { "com.openfaas.scale.min": "5", "com.openfaas.scale.max": "2" } }),
        ] {
            assert!(settings(json.clone()).is_err(), "{json}");
        }
    }
}
