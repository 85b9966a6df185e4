//! Why a source is refused. Every variant names the entry, escaped, and why.

use std::io;
use std::path::{Path, PathBuf};

use super::names::escaped;
use super::python::SyntaxError;
use crate::function::InvalidEntryPoint;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{step} {}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is neither a file nor a folder", path.display())]
    NotASource { path: PathBuf },
    #[error("{} is not a zip: {reason}", shown(path, "this"))]
    NotAZip {
        /// `None` for one that is in memory.
        path: Option<PathBuf>,
        reason: &'static str,
    },
    #[error("the zip cannot be trusted: {reason}")]
    Archive { reason: &'static str },
    #[error("entry \"{}\" {reason}", escaped(name))]
    Entry { name: Vec<u8>, reason: &'static str, hint: Option<&'static str> },
    #[error("{what} is {size} bytes, more than the {limit} allowed")]
    TooLarge { what: &'static str, size: u64, limit: u64, flag: &'static str },
    #[error("there are more than {limit} entries")]
    TooMany { limit: usize },
    #[error("it unpacks to {size} bytes, more than {ratio} times its own size")]
    Bomb { size: u64, ratio: u64 },
    #[error("there is no {file} {}", place.of(path))]
    NoModule { file: String, path: Option<PathBuf>, place: Place },
    #[error("{file} defines no {function}")]
    NoFunction { file: String, function: String },
    #[error("{}{error}", escaped(file.as_bytes()))]
    Syntax { file: String, error: Box<SyntaxError> },
    #[error("the file's name is no Python module")]
    ModuleName(#[from] InvalidEntryPoint),
    #[error("read the rules in {}", path.display())]
    Ignore {
        path: PathBuf,
        #[source]
        source: ignore::Error,
    },
}

/// Where a module was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a single file.
    Itself,
    Zip,
    Folder,
}

impl Place {
    fn of(self, path: &Option<PathBuf>) -> String {
        let within = match self {
            Self::Itself => {
                let file = shown(path, "it");
                return format!("in {file}: a single file has no other module than itself");
            }
            Self::Zip => "the zip",
            Self::Folder => "the folder",
        };
        format!("at the top of {} or in its single top folder", shown(path, within))
    }
}

fn shown(path: &Option<PathBuf>, otherwise: &str) -> String {
    path.as_ref().map_or_else(|| otherwise.into(), |path| path.display().to_string())
}

impl SourceError {
    /// The same of what was opened at this path.
    pub(super) fn at(mut self, opened: &Path) -> Self {
        if let Self::NotAZip { path, .. } | Self::NoModule { path, .. } = &mut self {
            *path = Some(opened.into());
        }
        self
    }

    /// The same without the path: for whoever sent the source, and knows it by another.
    pub fn nameless(mut self) -> Self {
        if let Self::NotAZip { path, .. } | Self::NoModule { path, .. } = &mut self {
            *path = None;
        }
        self
    }

    pub(super) fn io(step: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, path: path.as_ref().into(), source }
    }

    pub(crate) fn entry(name: &[u8], reason: &'static str) -> Self {
        // A hostile name may be 64 KiB long; its beginning is enough to find it.
        Self::Entry { name: name.iter().take(300).copied().collect(), reason, hint: None }
    }

    /// The same with a next step.
    pub(super) fn or_else(mut self, text: &'static str) -> Self {
        if let Self::Entry { hint, .. } = &mut self {
            *hint = Some(text);
        }
        self
    }

    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotASource { .. } | Self::NotAZip { .. } => {
                Some("give a .zip, a .py file or a folder".into())
            }
            Self::Archive { .. } => Some("make the zip anew from its files, for example with zip -r".into()),
            Self::Entry { hint, .. } => {
                Some(hint.unwrap_or("remove the entry, or make the zip anew with zip -r").into())
            }
            Self::TooLarge { flag, .. } => Some(format!("{flag} raises the bound")),
            Self::TooMany { .. } => Some("--max-entries raises the bound".into()),
            Self::Bomb { .. } => Some("if that is meant, make the zip with less compression (zip -1)".into()),
            Self::NoModule { .. } => {
                Some("write `def run(…)` in func.py, or name another with --entry module:function".into())
            }
            Self::NoFunction { file, function } => Some(format!(
                "write `def {function}(…)` in {file}, at its top level, or name another with --entry module:function"
            )),
            Self::Syntax { .. } => Some("Python could not import this: nothing was pushed".into()),
            Self::ModuleName(_) => {
                Some("rename the file to letters, digits and _, for example my_function.py".into())
            }
            Self::Io { .. } | Self::Ignore { .. } => None,
        }
    }
}
