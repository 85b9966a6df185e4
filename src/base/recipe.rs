//! What a base is made of: `recipe.toml`, written by people. Says nothing of versions; those are in the lock.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::BaseError;

/// A base as its author describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// The tag that the base gets unless another is given.
    pub name: String,
    pub description: String,
    /// The time of every file and of the image, in seconds since 1970.
    pub epoch: u32,
    pub debian: Debian,
    pub python: Python,
    pub user: User,
    pub image: Image,
    /// The folder that the recipe was read from; its lock lies there too.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// The lowest layer: packages of one suite, unpacked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// A release's code name; its `-updates` and `-security` belong to it.
    pub suite: String,
    pub packages: Vec<String>,
    /// Paths that are taken out again; `*` stands for any part of one name.
    pub remove: Vec<String>,
    /// The commands that busybox stands for.
    pub applets: Vec<String>,
}

/// The two upper layers: wheels, and the runtime.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Python {
    /// Major and minor.
    pub version: String,
    /// Where packages go, relative to the root.
    pub packages: PathBuf,
    /// PEP 508, one each.
    pub requirements: Vec<String>,
    /// Paths among the installed packages that are taken out again.
    #[serde(default)]
    pub remove: Vec<String>,
    /// The runtime's package, relative to the recipe.
    pub runtime: PathBuf,
}

/// Whom the function runs as.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    /// User and group.
    pub id: u32,
}

/// What goes into the image's config.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub port: u16,
}

impl Recipe {
    /// Reads `recipe.toml` in `folder`.
    pub fn open(folder: &Path) -> Result<Self, BaseError> {
        let path = folder.join("recipe.toml");
        let text = std::fs::read_to_string(&path).map_err(BaseError::io("read", &path))?;
        let mut recipe: Self =
            toml::from_str(&text).map_err(|source| BaseError::Recipe { path: path.clone(), source })?;
        recipe.folder = folder.to_path_buf();
        recipe.check().map_err(|reason| BaseError::InvalidRecipe { path, reason })?;
        Ok(recipe)
    }

    pub fn lock_path(&self) -> PathBuf {
        self.folder.join("lock.toml")
    }

    pub fn runtime_folder(&self) -> PathBuf {
        self.folder.join(&self.python.runtime)
    }

    /// Everything in a recipe ends in a path below the root, in a command line, or in `/etc/passwd`.
    fn check(&self) -> Result<(), String> {
        let word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
        };
        let named = [("name", &self.name), ("suite", &self.debian.suite), ("user", &self.user.name)];
        for (what, text) in named {
            if !word(text) {
                return Err(format!("{what} {text:?} is not a name"));
            }
        }
        if let Some(package) = self.debian.packages.iter().find(|package| !word(package)) {
            return Err(format!("{package:?} is not a package's name"));
        }
        if self.user.id == 0 {
            return Err("the user must not be root".into());
        }
        let packages = self.python.packages.to_string_lossy();
        let removed = self.debian.remove.iter().chain(&self.python.remove).map(String::as_str);
        for path in removed.chain([&*packages]) {
            if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(format!("{path:?} is not a path below the root"));
            }
        }
        if let Some(applet) = self.debian.applets.iter().find(|applet| applet.contains('/')) {
            return Err(format!("applet {applet:?} is not a command's name"));
        }
        Ok(())
    }
}
