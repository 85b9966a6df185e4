//! The JSON of the API, in both directions: what the server writes and the command line reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::function::{FunctionName, Package, Parameter, Settings, Version, VersionNumber};
use crate::oci::{Annotations, Digest};
use crate::queue::ScheduleState;

/// Every error of the platform.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub error_type: String,
    pub error_message: String,
    pub request_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `POST …/versions`, `PUT /v1/functions/NAME`, `POST …/config`: 201, or 200 where nothing changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    pub name: FunctionName,
    pub version: VersionNumber,
    pub digest: String,
    /// Registry, repository and digest: what `docker pull` takes.
    pub reference: String,
    /// The trigger.
    pub url: String,
    pub unchanged: bool,
    /// What the push did not manage although the version is recorded: a tag, for example.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `GET /v1/functions`: a page, in the order of names.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Functions {
    pub functions: Vec<Summary>,
    /// The value for `after` that gives the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<FunctionName>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub name: FunctionName,
    pub version: VersionNumber,
    pub image: String,
    pub digest: String,
    /// RFC 3339, of the current version.
    pub created: String,
    pub replicas: usize,
    pub url: String,
}

/// `GET /v1/functions/NAME`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Described {
    pub name: FunctionName,
    pub version: VersionNumber,
    pub image: String,
    pub digest: String,
    pub base: Option<String>,
    pub source: Option<String>,
    pub entry: Option<String>,
    /// What the entry point takes; absent where only the import could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<Parameter>>,
    /// What the requirements were resolved to, each wheel by its hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    pub created: String,
    pub url: String,
    pub settings: Settings,
    /// Percent of the calls for each version; empty where all go to the current one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, u32>)]
    pub split: BTreeMap<VersionNumber, u32>,
    /// Whether calls have to bring a token.
    #[serde(default)]
    pub require_token: bool,
    /// All numbers that can be rolled back to, oldest first.
    pub versions: Vec<VersionNumber>,
    pub replicas: Vec<ReplicaState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleState>,
    /// The last replica that ended without being asked to, since the server started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_death: Option<Death>,
    /// The last replica that did not come to listen at this node, since the server started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failed_start: Option<FailedStart>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Death {
    /// RFC 3339, UTC.
    pub time: String,
    pub replica: String,
    pub version: VersionNumber,
    pub cause: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailedStart {
    /// RFC 3339, UTC.
    pub time: String,
    pub version: VersionNumber,
    pub cause: String,
}

/// `GET /v1/functions/NAME/attached`: what refers to the current version's image, as the registry lists it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attachments {
    pub attached: Vec<Attached>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// `None` where the registry does not say.
    pub artifact_type: Option<String>,
    /// Of its manifest: what it can be pulled by from the function's repository.
    pub digest: Digest,
    #[schema(value_type = BTreeMap<String, String>)]
    pub annotations: Annotations,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaState {
    pub id: String,
    /// The node that it runs on.
    #[serde(default)]
    pub node: String,
    /// containerd's name for it.
    pub container: String,
    pub version: VersionNumber,
    pub address: String,
    pub port: u16,
    pub state: String,
    /// Processes that were killed for want of memory.
    #[serde(default)]
    pub out_of_memory: u64,
    /// Processes and threads that were refused.
    #[serde(default)]
    pub out_of_pids: u64,
}

/// `GET …/versions`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub name: FunctionName,
    pub current: VersionNumber,
    pub versions: Vec<Version>,
}

/// `POST …/rollback`: the version to go back to; without one, the one before the current.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Selected {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionNumber>,
}

/// `POST …/route`.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Percent of the calls for each version, 100 in all; empty: all to the current one.
    #[schema(value_type = BTreeMap<String, u32>)]
    pub split: BTreeMap<VersionNumber, u32>,
}

/// What `POST …/route` came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Divided {
    pub name: FunctionName,
    pub current: VersionNumber,
    #[schema(value_type = BTreeMap<String, u32>)]
    pub split: BTreeMap<VersionNumber, u32>,
}

/// `POST …/scale`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Replicas that stay up without calls; the largest scale is raised where it is below.
    pub replicas: u32,
}

/// `DELETE /v1/functions/NAME`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    pub name: FunctionName,
    /// What stays behind although it was to go, one line for each.
    pub kept: Vec<String>,
}

/// `GET /v1/schedules`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScheduleList {
    pub schedules: Vec<ScheduleState>,
}

/// `DELETE` of calls and schedules: the IDs of what is gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    pub removed: Vec<String>,
}

/// One line of `GET …/logs` (NDJSON).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// RFC 3339, UTC.
    pub time: String,
    pub version: VersionNumber,
    pub replica: String,
    /// `stdout`, `stderr`, or `system` for what the log itself has to say.
    pub stream: String,
    /// The call that it was printed in, where the function's runtime says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    pub text: String,
}

/// `POST /v1/doctor`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Examined {
    pub functions: u64,
    pub findings: Vec<Finding>,
}

/// Something that does not agree with the records.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub what: String,
    pub repaired: bool,
}

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// fnbuild's own.
    pub version: String,
    pub id: String,
    pub registry: String,
    pub namespace: String,
    pub ready: bool,
    /// Why it is not ready.
    pub problems: Vec<String>,
}
