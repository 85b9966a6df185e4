//! What can keep a source from becoming a pushed image.

use std::io;
use std::path::PathBuf;

use crate::dependencies::DependencyError;
use crate::image::ImageError;
use crate::oci::{Digest, InvalidReference, Platform, Tag};
use crate::registry;
use crate::source::SourceError;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Dependencies(#[from] DependencyError),
    #[error("push {what} to {to}")]
    Push { what: String, to: String, source: Box<registry::Error> },
    #[error("there is no base {name}{}, neither here nor in {registry}", words(" for ", platform))]
    NoBase { name: String, platform: Option<Box<Platform>>, registry: String },
    #[error("there is no base {name} on this machine{}", words(" for ", platform))]
    NoBaseHere { name: String, platform: Option<Box<Platform>> },
    #[error("there is no base {name} on this machine, and {what} cannot be fetched")]
    NoBaseFetched { name: String, what: String, source: Box<registry::Error> },
    #[error("fetch the base {what}")]
    Fetch { what: String, source: Box<registry::Error> },
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    #[error("there is no image {image}")]
    NoImage { image: String },
    #[error("take the image {image}")]
    Adopt { image: String, source: Box<registry::Error> },
    #[error("{to} still lacks blobs of {digest} after they were all uploaded")]
    StillIncomplete { to: String, digest: Digest },
    #[error("{to} acknowledged the tag {tag} and does not have it")]
    TagForgotten { to: String, tag: Tag },
    #[error("read {} to attach it", file.display())]
    Attach { file: PathBuf, source: io::Error },
    #[error("there is no image {reference} to attach anything to")]
    NoSubject { reference: String },
    #[error("a worker thread broke off")]
    Broken,
}

/// Who can do something about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// Whoever wrote the source.
    Source,
    Registry,
    /// Whoever keeps the machine that builds.
    Machine,
}

impl PublishError {
    pub fn blame(&self) -> Blame {
        match self {
            Self::Source(error) | Self::Image(ImageError::Source(error)) => blame_of_source(error),
            Self::Dependencies(error) if error.is_of_the_source() => Blame::Source,
            Self::Reference(_) | Self::NoImage { .. } => Blame::Source,
            Self::Adopt { source, .. } if is_refusal(source) => Blame::Source,
            Self::Attach { .. } => Blame::Source,
            Self::Push { .. }
            | Self::Fetch { .. }
            | Self::NoBaseFetched { .. }
            | Self::Adopt { .. }
            | Self::StillIncomplete { .. }
            | Self::TagForgotten { .. }
            | Self::NoSubject { .. } => Blame::Registry,
            Self::Image(_)
            | Self::Dependencies(_)
            | Self::NoBase { .. }
            | Self::NoBaseHere { .. }
            | Self::Broken => Blame::Machine,
        }
    }

    /// The next step. What a registry or a source has to say for itself stands further down the chain.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Dependencies(error) => error.hint(),
            Self::Push { source, .. } | Self::Fetch { source, .. } | Self::Adopt { source, .. } => {
                source.hint()
            }
            Self::NoImage { .. } => Some(
                "push it to that registry first; `docker push` and `fnbuild push --image-only` do".into(),
            ),
            Self::StillIncomplete { .. } | Self::TagForgotten { .. } => {
                Some("the registry does not keep what it is given: see its log and its storage".into())
            }
            Self::NoBase { name, platform, .. } => Some(format!(
                "build it with `fnbuild base build base-layers/{name}{}`, or take an image as a base with `fnbuild base import`",
                words(" --platform ", platform)
            )),
            Self::NoBaseHere { name, platform } => Some(format!(
                "build it with `fnbuild base build base-layers/{name}{platform}`, or take it from a registry that has it: \
                 `fnbuild base import localhost:5000/fnbuild/base:{name} --tag {name}{platform}`",
                platform = words(" --platform ", platform)
            )),
            Self::NoBaseFetched { name, source, .. } => {
                let build = format!("build the base here with `fnbuild base build base-layers/{name}`");
                Some(source.hint().map_or(build.clone(), |hint| format!("{hint}; or {build}")))
            }
            Self::NoSubject { .. } => {
                Some("the server and this command must mean one registry: see --registry".into())
            }
            Self::Attach { .. } | Self::Reference(_) | Self::Broken => None,
        }
    }
}

/// Whether it was the image's name that was wrong, and not the way to it.
fn is_refusal(error: &registry::Error) -> bool {
    use registry::Error::{Forbidden, InvalidHost, NoPlatform, Unauthorized};
    error.is_not_found()
        || matches!(error, Forbidden { .. } | InvalidHost { .. } | NoPlatform { .. } | Unauthorized { .. })
}

fn words(before: &str, platform: &Option<Box<Platform>>) -> String {
    platform.as_ref().map(|platform| format!("{before}{platform}")).unwrap_or_default()
}

fn blame_of_source(error: &SourceError) -> Blame {
    if matches!(error, SourceError::Io { .. }) { Blame::Machine } else { Blame::Source }
}
