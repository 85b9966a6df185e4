//! What an OpenFaaS client said when it deployed an image and fnbuild has no setting for: kept to be told back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The namespace that OpenFaaS's clients see; there is no other.
pub const NAMESPACE: &str = "openfaas-fn";

/// Part of a version that was deployed by image, through OpenFaaS's API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// The image's name as it was given: a tag may mean another image by now.
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Resources>,
    /// What a scheduler would go by; here there is one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Resources>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<String>,
    /// The root is read-only whatever this says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root_filesystem: bool,
}

/// Amounts in Kubernetes' notation, as they were given.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
pub struct Resources {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub memory: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu: String,
}
