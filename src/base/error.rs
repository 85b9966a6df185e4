//! What can go wrong between a recipe and a base.

use std::io;
use std::path::{Path, PathBuf};

use crate::image::ImageError;

/// Names the thing and the step; the cause stands behind it.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error("{step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the recipe {}", path.display())]
    Recipe {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("recipe {}: {reason}", path.display())]
    InvalidRecipe { path: PathBuf, reason: String },
    #[error("read the lock {}", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("the lock {} has format {format}, which this fnbuild does not know", path.display())]
    LockFormat { path: PathBuf, format: u32 },
    #[error("write the lock {}", path.display())]
    WriteLock {
        path: PathBuf,
        #[source]
        source: toml::ser::Error,
    },
    #[error("the lock {} has nothing for {architecture}", path.display())]
    NotLocked { path: PathBuf, architecture: String },
    #[error("the Debian archive differs from the lock: {}", lines.join("; "))]
    Drifted { lines: Vec<String> },
    #[error("{0} is not a platform that bases are built for")]
    Platform(String),
    #[error("this machine's apt configuration has no source for Debian {suite}")]
    NoSources { suite: String },
    #[error("unpacking Debian packages takes root")]
    NotRoot,
    #[error("{tool} is not installed")]
    NoTool { tool: &'static str },
    #[error("{step}: {tool} failed ({status}){}", tail(output))]
    Tool { tool: &'static str, step: &'static str, status: String, output: String },
    #[error("{step}: what {tool} wrote is not understood: {reason}")]
    Output { tool: &'static str, step: &'static str, reason: String },
    #[error("no wheel of {name} {version} suits {architecture}")]
    NoWheel { name: String, version: String, architecture: String },
    #[error("no Python {version} to compile for {architecture} with")]
    NoInterpreter { version: String, architecture: String },
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("serialise the image's config")]
    Serialise(#[source] serde_json::Error),
}

impl BaseError {
    /// `step` is a verb that fits before a path: `open`, `create`, `rename`.
    pub(super) fn io(step: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.as_ref().into(), source }
    }

    /// The next step, where there is one that helps.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::NoTool { tool: "uv" } => Some(
                "install it (`scripts/setup` does, or `pip install uv`), or name it with FNBUILD_UV".into(),
            ),
            Self::NoTool { tool } => Some(format!("apt-get install {}", package_of(tool))),
            Self::Recipe { .. } | Self::InvalidRecipe { .. } => {
                Some("base-layers/ has recipes to begin with: copy one and change it".into())
            }
            Self::Lock { .. } => Some("`fnbuild base build --update` writes it anew".into()),
            Self::NotRoot => {
                Some("run it with sudo, or copy the data folder's `bases` from a machine that has it".into())
            }
            Self::Drifted { .. } => {
                Some("without --locked the successors are taken; --update writes them into the lock".into())
            }
            Self::NotLocked { .. } => Some("`fnbuild base build --update` adds it".into()),
            Self::NoSources { suite } => Some(format!(
                "add the suites {suite}, {suite}-updates and {suite}-security to /etc/apt/sources.list"
            )),
            Self::NoInterpreter { version, .. } => Some(format!("apt-get install python{version}-minimal")),
            _ => None,
        }
    }
}

/// The Debian package that has a tool.
fn package_of(tool: &str) -> &str {
    match tool {
        "dpkg" | "dpkg-deb" => "dpkg",
        "apt-config" => "apt",
        other => other,
    }
}

/// The end of what a tool said: where its error is.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(8)).map(|line| format!("\n    {line}")).collect()
}
