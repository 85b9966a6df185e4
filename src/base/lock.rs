//! What a recipe resolved to: `lock.toml`, written by `--update`. No hosts: any mirror has the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BaseError;

/// The lock's own version, raised when older programs could not read it rightly.
const FORMAT: u32 = 1;

/// Exact packages and wheels for each architecture, in Debian's words (`amd64`, `arm64`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lock {
    pub format: u32,
    #[serde(flatten)]
    pub architectures: BTreeMap<String, Locked>,
}

/// What one architecture's base consists of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    #[serde(default)]
    pub debian: Vec<Package>,
    #[serde(default)]
    pub wheels: Vec<Wheel>,
}

/// One `.deb`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// Of the file, lower-case hex.
    pub sha256: String,
}

/// One distribution from PyPI, and the files of it that suit the architecture.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wheel {
    pub name: String,
    pub version: String,
    /// Lower-case hex, by file name.
    pub sha256: BTreeMap<String, String>,
}

/// How the packages that were found differ from those that were locked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Drift {
    /// One line each, for people: `libssl3 3.0.1 is gone: 3.0.2 in its place`.
    pub lines: Vec<String>,
}

impl Lock {
    pub fn new() -> Self {
        Self { format: FORMAT, architectures: BTreeMap::new() }
    }

    /// `None` if there is no such file.
    pub fn open(path: &Path) -> Result<Option<Self>, BaseError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(BaseError::io("read", path)(e)),
        };
        let lock: Self =
            toml::from_str(&text).map_err(|source| BaseError::Lock { path: path.into(), source })?;
        if lock.format != FORMAT {
            return Err(BaseError::LockFormat { path: path.into(), format: lock.format });
        }
        Ok(Some(lock))
    }

    pub fn write(&self, path: &Path) -> Result<(), BaseError> {
        let text =
            toml::to_string(self).map_err(|source| BaseError::WriteLock { path: path.into(), source })?;
        let text = format!("# Written by `fnbuild base build --update`. Do not edit.\n\n{text}");
        let folder = path.parent().unwrap_or(Path::new("."));
        let write = || {
            let mut file = tempfile::Builder::new().prefix(".lock-").tempfile_in(folder)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(mode)?;
            file.persist(path).map_err(|e| e.error)
        };
        write().map(drop).map_err(BaseError::io("write", path))
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drift {
    /// Compares by the bytes: the same version with another SHA-256 is another package.
    pub fn between(locked: &[Package], found: &[Package]) -> Self {
        let index = |list: &[Package]| -> BTreeMap<String, Package> {
            list.iter().map(|package| (package.name.clone(), package.clone())).collect()
        };
        let (locked, found) = (index(locked), index(found));
        let names: BTreeSet<&String> = locked.keys().chain(found.keys()).collect();
        let line = |name: &String| match (locked.get(name), found.get(name)) {
            (Some(old), Some(new)) if old.sha256 == new.sha256 => None,
            (Some(old), Some(new)) if old.version == new.version => {
                Some(format!("{name} {} has other bytes than when it was locked", old.version))
            }
            (Some(old), Some(new)) => {
                Some(format!("{name} {} is gone: {} in its place", old.version, new.version))
            }
            (Some(old), None) => Some(format!("{name} {} is no longer needed", old.version)),
            (None, Some(new)) => Some(format!("{name} {} is needed and not in the lock", new.version)),
            (None, None) => None,
        };
        Self { lines: names.into_iter().filter_map(line).collect() }
    }

    pub fn is_none(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, sha256: &str) -> Package {
        Package { name: name.into(), version: version.into(), sha256: sha256.into() }
    }

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock.toml");
        assert_eq!(Lock::open(&path).unwrap(), None);
        let wheel = Wheel {
            name: "flask".into(),
            version: "2.3.2".into(),
            sha256: [("Flask-2.3.2-py3-none-any.whl".to_string(), "ab".repeat(32))].into(),
        };
        let locked =
            Locked { debian: vec![package("bash", "5.2-1+b2", &"cd".repeat(32))], wheels: vec![wheel] };
        let lock = Lock { architectures: [("amd64".to_string(), locked)].into(), ..Lock::new() };
        lock.write(&path).unwrap();
        assert_eq!(Lock::open(&path).unwrap(), Some(lock));
    }

    #[test]
    fn drift_names_every_package_that_changed_and_no_other() {
        let locked =
            [package("a", "1", "x"), package("b", "1", "x"), package("c", "1", "x"), package("d", "1", "x")];
        let found =
            [package("a", "1", "x"), package("b", "2", "y"), package("c", "1", "z"), package("e", "1", "x")];
        assert_eq!(
            Drift::between(&locked, &found).lines,
            [
                "b 1 is gone: 2 in its place",
                "c 1 has other bytes than when it was locked",
                "d 1 is no longer needed",
                "e 1 is needed and not in the lock",
            ]
        );
        assert!(Drift::between(&locked, &locked).is_none());
    }
}
