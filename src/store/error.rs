//! What can go wrong with a store, and the next step.

use std::path::PathBuf;
use std::sync::Arc;

use crate::function::FunctionName;

use super::value::ValueKey;

/// What can go wrong with a store. One failure may be that of several who asked together, each of whom is told.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the record of {name} was changed by someone else in the meantime")]
    Conflict { name: FunctionName },
    #[error("the value {key} was changed by someone else in the meantime")]
    ValueConflict { key: ValueKey },
    #[error("{text:?} is no key of a value")]
    InvalidKey { text: String },
    #[error("{key} has {size} bytes, more than a store can take")]
    TooLarge { key: String, size: usize },
    #[error("the record store at {place} is in use by another process")]
    Locked { place: String },
    #[error("there is no record store at {place}, although this data folder has had one")]
    Gone { place: String },
    #[error("there is no record store at {place}: no server has run with this data folder")]
    NotMade { place: String },
    #[error("the record store at {place} is damaged: {what}")]
    Damaged { place: String, what: &'static str },
    #[error(
        "the record store at {place} has format {found}; this fnbuild reads formats up to {}",
        super::codec::STORE_FORMAT
    )]
    NewerStore { place: String, found: u32 },
    #[error(
        "the record of {key} has format {found}; this fnbuild reads formats up to {}",
        crate::function::FORMAT
    )]
    NewerRecord { key: String, found: u32 },
    #[error("the record of {key} cannot be read")]
    Unreadable {
        key: String,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("cannot write down the record of {name}")]
    Unwritable {
        name: FunctionName,
        #[source]
        source: Arc<serde_json::Error>,
    },
    #[error("cannot {step} the record store at {place}")]
    Disk {
        step: &'static str,
        place: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the etcd at {place} does not answer: records can be read but not changed")]
    Away {
        place: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the etcd at {place} refused to {step}")]
    Refused {
        step: &'static str,
        place: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the etcd at {place} holds the store {found}, but this node's mirror at {mirror} is of {known}")]
    OtherStore { place: String, found: String, mirror: String, known: String },
    #[error("cannot read {path} for the connection to etcd")]
    Credentials {
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("the task that makes writes durable ended early")]
    Interrupted,
}

impl StoreError {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Locked { .. } => {
                Some("stop the other fnbuild serve, or give this one its own --data-dir".into())
            }
            Self::NotMade { .. } => {
                Some("name the server's folder with --data-dir, or its etcd with --etcd".into())
            }
            Self::Gone { .. } | Self::Damaged { .. } | Self::Unreadable { .. } => {
                Some("restore the data folder from a backup; nothing was changed in it".into())
            }
            Self::NewerStore { .. } | Self::NewerRecord { .. } => {
                Some("run the newer fnbuild that wrote it".into())
            }
            Self::Conflict { .. } | Self::ValueConflict { .. } => Some("try again".into()),
            Self::Away { .. } => Some(
                "start etcd, or see with `etcdctl endpoint health` what it lacks; nothing was lost. A change that had \
                 reached it may still be made, whole, when it is back"
                    .into(),
            ),
            Self::OtherStore { mirror, .. } => Some(format!(
                "restore etcd from its snapshot; if the store there is meant to be a new one, remove {mirror}"
            )),
            Self::TooLarge { .. } => Some("make it smaller: keep data out of variables and secrets".into()),
            Self::InvalidKey { .. }
            | Self::Refused { .. }
            | Self::Credentials { .. }
            | Self::Unwritable { .. }
            | Self::Disk { .. }
            | Self::Interrupted => None,
        }
    }
}
