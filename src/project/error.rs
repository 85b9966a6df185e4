//! Why a project's files cannot be read or made.

use std::io;
use std::path::PathBuf;

use super::FILES;
use crate::function::{FunctionName, InvalidSetting};

#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("{} is there already", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot watch {}", path.display())]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("there is no {} in {}", FILES.join(", "), folder.display())]
    NoFile { folder: PathBuf },
    #[error("{} is neither .toml nor .yml", path.display())]
    Form { path: PathBuf },
    #[error("{} names no function", path.display())]
    Empty { path: PathBuf },
    #[error("the file names no function {name}")]
    NotNamed { name: FunctionName, named: Vec<FunctionName> },
    #[error("{} is no project file\n{what}", path.display())]
    Toml { path: PathBuf, what: String },
    #[error("{} is no stack file\n{what}", path.display())]
    Yaml { path: PathBuf, what: String },
    #[error("{name}: {setting}")]
    Setting { name: FunctionName, setting: InvalidSetting },
    #[error("{name}: {field} has no meaning without a Dockerfile")]
    Docker { name: FunctionName, field: &'static str },
    #[error("{name}: lang {lang:?} is not Python")]
    Language { name: FunctionName, lang: String },
    #[error("{name}: there is no handler")]
    NoHandler { name: FunctionName },
    #[error("{name}: {key} holds ${{…}}, which is not replaced here")]
    Substitution { name: FunctionName, key: String },
}

impl ProjectError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Exists { .. } => "choose another name, or move what is there out of the way",
            Self::NoFile { .. } => "write one (see docs/commands.md), or name one with -f",
            Self::Form { .. } => "give a fnbuild.toml or an OpenFaaS stack.yml",
            Self::Empty { .. } => "name one, for example [functions.add] with source = \"add\"",
            Self::Docker { .. } => "leave it out: fnbuild makes the image of the handler's folder alone",
            Self::Language { .. } => {
                "push its image with a tool of that language, and deploy it through OpenFaaS's API"
            }
            Self::NoHandler { .. } => "name the folder with func.py, for example handler: ./add",
            Self::Substitution { .. } => "write the value out, or keep it as a secret",
            Self::Watch { .. } => {
                "the system bounds how much is watched: see fs.inotify.max_user_watches and max_user_instances"
            }
            Self::Toml { .. } => "docs/commands.md has a fnbuild.toml with everything that can be set",
            Self::Yaml { .. } => "docs/commands.md says what of an OpenFaaS stack.yml is read",
            Self::NotNamed { named, .. } => {
                let named: Vec<_> = named.iter().map(FunctionName::as_str).collect();
                return Some(format!("it names {}", named.join(", ")));
            }
            Self::Write { .. } | Self::Read { .. } | Self::Setting { .. } => {
                return None;
            }
        };
        Some(hint.into())
    }
}
