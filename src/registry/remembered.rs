//! How a registry may be talked to, as somebody said once and it worked: one file in the data folder.
//!
//! A registry without TLS stays one, and so does a private CA; nobody wants to say so with every push. Nothing is ever
//! guessed: only what was said is kept, for the registry that it was said of, until `fnbuild logout` forgets it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Access;

/// `DATA/registries.json`.
#[derive(Clone, Debug)]
pub struct Remembered(PathBuf);

/// What was said of one registry.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    plain_http: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
}

type All = BTreeMap<String, Said>;

impl Remembered {
    /// `data` is the data folder.
    pub fn new(data: &Path) -> Self {
        Self(data.join("registries.json"))
    }

    /// What is said now; where nothing is, what was said before. A file that cannot be read says nothing: then there is
    /// TLS, and its certificate is checked.
    pub fn access(&self, host: &str, now: Access) -> Access {
        if says(&now) {
            return now;
        }
        let Said { plain_http, insecure, ca } = self.read().remove(host).unwrap_or_default();
        Access { plain_http, insecure, ca, ..now }
    }

    /// Keeps what was said and has worked. Gives whether that was news.
    pub fn keep(&self, host: &str, access: &Access) -> io::Result<bool> {
        if !says(access) {
            return Ok(false);
        }
        let ca = access.ca.as_deref().map(std::path::absolute).transpose()?;
        let said = Said { plain_http: access.plain_http, insecure: access.insecure, ca };
        self.change(|all| all.insert(host.into(), said.clone()).as_ref() != Some(&said))
    }

    /// Gives whether there was anything to forget.
    pub fn forget(&self, host: &str) -> io::Result<bool> {
        if !self.0.exists() {
            return Ok(false);
        }
        self.change(|all| all.remove(host).is_some())
    }

    fn read(&self) -> All {
        std::fs::read(&self.0).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Under a lock on the folder, and in one step, so that two at once do not undo each other.
    fn change(&self, change: impl FnOnce(&mut All) -> bool) -> io::Result<bool> {
        let folder = self.0.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let lock = File::open(folder)?;
        lock.lock()?;
        let mut all = self.read();
        if !change(&mut all) {
            return Ok(false);
        }
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(&all)?)?;
        file.persist(&self.0)?;
        Ok(true)
    }
}

fn says(access: &Access) -> bool {
    access.plain_http || access.insecure || access.ca.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_registry_is_kept_for_it_alone_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered::new(&folder.path().join("data"));
        let plain = Access { plain_http: true, ..Access::default() };
        assert!(!remembered.forget("registry:5000").unwrap());
        assert!(!remembered.keep("registry:5000", &Access::default()).unwrap());
        assert!(remembered.keep("registry:5000", &plain).unwrap());
        assert!(!remembered.keep("registry:5000", &plain).unwrap(), "no news");
        assert!(remembered.access("registry:5000", Access::default()).plain_http);
        assert!(!remembered.access("other:5000", Access::default()).plain_http);
        let now = Access { insecure: true, ..Access::default() };
        assert!(!remembered.access("registry:5000", now).plain_http, "what is said now counts");
        assert!(remembered.forget("registry:5000").unwrap());
        assert!(!remembered.access("registry:5000", Access::default()).plain_http);
    }

    #[test]
    fn a_damaged_file_allows_nothing_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("registries.json"), b"{\"r\": {\"plainHttp\": tr").unwrap();
        let remembered = Remembered::new(folder.path());
        assert!(!remembered.access("r", Access::default()).plain_http);
        assert!(remembered.keep("r", &Access { insecure: true, ..Access::default() }).unwrap());
        assert!(remembered.access("r", Access::default()).insecure);
    }
}
