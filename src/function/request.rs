//! What a push tells the server: an image that is in the registry, and what changes in the settings.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EntryPoint, NewVersion, Package, Parameter, Settings, SettingsPatch};
use crate::oci::{Digest, Repository};

/// The body of `POST /v1/functions/NAME/versions`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VersionRequest {
    pub repository: Repository,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<EntryPoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Vec<Parameter>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
    #[serde(default)]
    pub settings: SettingsPatch,
    /// Who pushes, as the client says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
}

/// What is kept of who pushed: enough for a name and a machine, and nothing that would disturb a terminal.
const LONGEST_AUTHOR: usize = 128;

impl VersionRequest {
    /// The version that it asks for, with the settings that the patch came to.
    pub fn with_settings(&self, settings: Settings) -> NewVersion {
        let Self { repository, digest, source, base, entry, parameters, packages, .. } = self.clone();
        let author = self.author.as_ref().map(|author| {
            let visible = author.chars().filter(|c| !c.is_control());
            visible.take(LONGEST_AUTHOR).collect()
        });
        let deployment = None;
        NewVersion {
            repository,
            digest,
            source,
            base,
            entry,
            parameters,
            packages,
            settings,
            author,
            deployment,
        }
    }
}
