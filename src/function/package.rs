//! A Python package as a version's image has it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One wheel, by its hash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Of the wheel's file, in hex.
    pub sha256: String,
}
