//! What a developer keeps beside the code: a new function's first files, and the file that names several functions with
//! their settings. Reads, writes and watches files; asks no service.

mod error;
mod native;
mod new;
mod stack;
mod text;
mod watch;

use std::path::{Path, PathBuf};

pub use error::ProjectError;
pub use new::create;
pub use watch::Changes;

use crate::function::{EntryPoint, FunctionName, SettingsPatch};

/// The files that are looked for, in this order, where none is named.
pub const FILES: [&str; 3] = ["fnbuild.toml", "stack.yml", "stack.yaml"];

/// Several functions that are deployed together.
#[derive(Debug)]
pub struct Project {
    /// By name.
    pub functions: Vec<Planned>,
    /// What the file says and nobody here goes by.
    pub warnings: Vec<String>,
}

/// One of them.
#[derive(Clone, PartialEq, Debug)]
pub struct Planned {
    pub name: FunctionName,
    /// A zip, a .py file or a folder.
    pub source: PathBuf,
    pub entry: Option<EntryPoint>,
    /// Instead of the source's own list.
    pub requirements: Option<PathBuf>,
    pub base: Option<String>,
    /// All of them: what the file does not name is as fnbuild has it.
    pub settings: SettingsPatch,
    /// All of them; `None`: the file says nothing of any.
    pub schedules: Option<Vec<PlannedSchedule>>,
}

/// When a function is called by itself, as `fnbuild schedule` is told.
#[derive(Clone, PartialEq, Debug)]
pub struct PlannedSchedule {
    pub pattern: String,
    pub time_zone: String,
    /// JSON.
    pub data: String,
}

impl Project {
    /// Reads a file by the form that its name tells: `.toml` is fnbuild's own, `.yml` and `.yaml` OpenFaaS's. Paths in it
    /// begin at its folder.
    pub fn open(path: &Path) -> Result<Self, ProjectError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| ProjectError::Read { path: path.into(), source })
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let project = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => native::read(&read(path)?, path, folder)?,
            Some("yml" | "yaml") => stack::read(&read(path)?, path, folder)?,
            _ => return Err(ProjectError::Form { path: path.into() }),
        };
        if project.functions.is_empty() {
            return Err(ProjectError::Empty { path: path.into() });
        }
        Ok(project)
    }

    /// The file of this folder.
    pub fn find(folder: &Path) -> Result<PathBuf, ProjectError> {
        let found = FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        found.ok_or_else(|| ProjectError::NoFile { folder: shown.into() })
    }

    /// These functions and no other; all of them where none is named.
    pub fn only(mut self, names: &[FunctionName]) -> Result<Self, ProjectError> {
        let is_here = |name: &&FunctionName| self.functions.iter().any(|planned| planned.name == **name);
        if let Some(name) = names.iter().find(|name| !is_here(name)) {
            let named = self.functions.into_iter().map(|planned| planned.name).collect();
            return Err(ProjectError::NotNamed { name: name.clone(), named });
        }
        self.functions.retain(|planned| names.is_empty() || names.contains(&planned.name));
        Ok(self)
    }
}
