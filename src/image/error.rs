//! What can go wrong between a source and an image in a file.

use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{Digest, Platform};
use crate::source::SourceError;

/// Names the thing and the step; the cause stands behind it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not an OCI image layout: {reason}", path.display())]
    NoLayout { path: PathBuf, reason: &'static str },
    #[error("no base is here yet: there is no {}", path.display())]
    NoBases { path: PathBuf },
    #[error("nothing is tagged {tag:?} in {}", path.display())]
    NoTag { tag: String, path: PathBuf },
    #[error("read {what} in {}", path.display())]
    Json {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("blob {digest} in {} is damaged: {reason}", path.display())]
    Damaged { digest: Digest, path: PathBuf, reason: &'static str },
    #[error("{tag:?} in {} cannot be used as a base: {reason}", path.display())]
    NoBase { tag: String, path: PathBuf, reason: String },
    #[error("{tag:?} in {} is for {available}, not for {platform}", path.display())]
    NoPlatform { tag: String, path: PathBuf, platform: Box<Platform>, available: String },
    #[error("{} cannot be put into a layer: {reason}", path.display())]
    Unpackable { path: PathBuf, reason: &'static str },
    #[error("write {what}")]
    Write {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("SOURCE_DATE_EPOCH is {0}, which is no time that can be written")]
    Epoch(i64),
    #[error("serialise {what}")]
    Serialise {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

impl ImageError {
    /// `step` is a verb that fits before a path: `open`, `create`, `rename`.
    pub(super) fn io(step: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.as_ref().into(), source }
    }

    pub(super) fn write(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Write { what, source }
    }

    /// The next step, where there is one that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::NoBases { .. } => Some(
                "make one: `fnbuild base build base-layers/python3.11-flask2.3`, or fetch one: `fnbuild base import`"
                    .into(),
            ),
            Self::NoTag { .. } => Some("`fnbuild base list` shows what is there".into()),
            Self::NoPlatform { platform, tag, .. } => {
                Some(format!("build it with `fnbuild base build base-layers/{tag} --platform {platform}`"))
            }
            Self::Damaged { path, digest, .. } => Some(format!(
                "remove {} and fetch or build it again",
                path.join("blobs").join(digest.algorithm().name()).join(digest.hex()).display()
            )),
            Self::NoLayout { .. } => {
                Some("a layout is a folder with the files oci-layout and index.json".into())
            }
            _ => None,
        }
    }
}
