//! What can go wrong between a list of requirements and a layer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::image::ImageError;
use crate::oci::Platform;

/// Names the thing and the step; the cause stands behind it.
#[derive(Debug, thiserror::Error)]
pub enum DependencyError {
    #[error("{file}, line {line}: {reason}: {text:?}")]
    Refused { file: String, line: usize, text: String, reason: Refusal },
    #[error("{source_name} asks for no packages")]
    NoRequirements { source_name: String },
    #[error("{file} is not a lock that fnbuild wrote: {reason}")]
    BadLock { file: String, reason: String },
    #[error("{file} no longer fits the requirements")]
    Stale { file: String },
    #[error("{file} was made for {locked}, and the base has {target}")]
    OtherBase { file: String, locked: String, target: String },
    #[error("{file} has no wheels for {}/{}", platform.os, platform.architecture)]
    OtherPlatform { file: String, platform: Platform },
    #[error("the base {base} does not say {what}")]
    UnknownBase { base: String, what: &'static str },
    #[error("uv was not found")]
    NoUv { looked: Vec<PathBuf> },
    #[error("no Python {major}.{minor} on this machine: the packages cannot be compiled for the base")]
    NoPython { major: u32, minor: u32 },
    #[error("the requirements cannot be met: {message}")]
    Unresolvable { message: String, cause: Cause },
    #[error("{step}: {message}")]
    Tool { step: &'static str, message: String },
    #[error("{step} took longer than {} s", limit.as_secs())]
    TimedOut { step: &'static str, limit: Duration },
    #[error("{step} was cancelled")]
    Cancelled { step: &'static str },
    #[error("{package} has no wheel for {target}")]
    NoWheel { package: String, target: String },
    #[error("the requirements have hashes, but {package} is without one, or none of its wheels has it")]
    HashMissing { package: String },
    #[error("{wheel} does not fit {target}: {reason}")]
    Misfit { wheel: String, target: String, reason: String },
    #[error("the packages unpack to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("{step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read what is kept about dependencies in {}", path.display())]
    Kept {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// Why a line is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    Option,
    Url,
    Vcs,
    Path,
    Variable,
    Continuation,
    Characters,
    Hash,
    Marker,
    TooLong,
    Unreadable,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "options are not taken here, only packages",
            Self::Url => "packages are named, not fetched from a URL",
            Self::Vcs => "packages are named, not fetched from version control",
            Self::Path => "packages are named, not taken from a path",
            Self::Variable => "environment variables are not taken",
            Self::Continuation => "only a --hash may follow a backslash",
            Self::Characters => "a character that is not plain ASCII",
            Self::Hash => "a hash is sha256: and 64 hex digits",
            Self::Marker => "an environment marker that cannot be read",
            Self::TooLong => "the file is over 1 MiB",
            Self::Unreadable => "not a package with versions, extras and markers (name[extra]>=1.0 ; marker)",
        })
    }
}

/// What the resolver stumbled over: decides the hint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    NotFound,
    NoWheel,
    Offline,
    Conflict,
}

impl DependencyError {
    pub(super) fn io(step: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.as_ref().into(), source }
    }

    /// Whether what is asked for is at fault, rather than the machine that is to provide it.
    pub fn is_of_the_source(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::NoRequirements { .. }
            | Self::BadLock { .. }
            | Self::Stale { .. }
            | Self::OtherBase { .. }
            | Self::OtherPlatform { .. }
            | Self::NoWheel { .. }
            | Self::HashMissing { .. }
            | Self::Misfit { .. }
            | Self::TooLarge { .. } => true,
            Self::Unresolvable { cause, .. } => *cause != Cause::Offline,
            Self::UnknownBase { .. }
            | Self::NoUv { .. }
            | Self::NoPython { .. }
            | Self::Tool { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled { .. }
            | Self::Image(_)
            | Self::Io { .. }
            | Self::Kept { .. } => false,
        }
    }

    /// The next step, where there is one that helps.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Refused { reason: Refusal::Option | Refusal::Url | Refusal::Variable, .. } => {
                "where packages come from is configured on the machine that builds: UV_INDEX_URL, or uv's own uv.toml"
            }
            Self::Refused { reason: Refusal::Vcs | Refusal::Path, .. } => {
                "put the package's own files into the source, beside func.py"
            }
            Self::NoRequirements { .. } => {
                "put a requirements.txt into the source, or name one with --requirements"
            }
            Self::BadLock { .. } | Self::Stale { .. } => "run `fnbuild lock SOURCE` to write it anew",
            Self::OtherBase { .. } => "run `fnbuild lock SOURCE --base NAME` with the base you push on",
            Self::OtherPlatform { platform, .. } => {
                let platform = format!("{}/{}", platform.os, platform.architecture);
                return Some(format!("run `fnbuild lock SOURCE --platform …,{platform}`"));
            }
            Self::UnknownBase { .. } => "a base says it in its labels io.fnbuild.python and io.fnbuild.glibc",
            Self::NoUv { looked } => {
                let looked: Vec<_> = looked.iter().map(|path| path.display().to_string()).collect();
                return Some(format!(
                    "`pip install uv` gets it; FNBUILD_UV names it elsewhere (looked on PATH and for {})",
                    looked.join(", ")
                ));
            }
            Self::NoPython { major, minor } => {
                return Some(format!("install python{major}.{minor}, or name it by FNBUILD_PYTHON"));
            }
            Self::Unresolvable { cause, .. } => match cause {
                Cause::NotFound => {
                    "is the name right, and is it in the index that this machine is configured for?"
                }
                Cause::NoWheel => {
                    "only wheels are installed, nothing is built: ask for a version that has one for this base"
                }
                Cause::Offline => "push once with the network there; after that its wheels are kept",
                Cause::Conflict => "loosen one of the versions named above",
            },
            Self::NoWheel { .. } => "only wheels are installed, nothing is built: ask for another version",
            Self::Misfit { .. } => {
                "take the package out of the source and name it in requirements.txt: the wheel that fits is installed"
            }
            Self::HashMissing { .. } => {
                "give every package its hash or none; `fnbuild lock` keeps the hashes of all of them"
            }
            Self::TimedOut { .. } => "the index may be slow: FNBUILD_DEPENDENCIES_TIMEOUT gives it more time",
            Self::TooLarge { .. } => "--max-unpacked raises the bound",
            Self::Image(error) => return error.hint(),
            Self::Refused { .. } | Self::Tool { .. } | Self::Cancelled { .. } | Self::Io { .. } => {
                return None;
            }
            Self::Kept { .. } => "remove the file: it is made anew",
        };
        Some(text.into())
    }
}
