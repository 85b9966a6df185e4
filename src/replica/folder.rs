//! The identity of a data folder: what tells this server's containers, bridges and rules from another's.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::Error;

/// Eight hex digits, made once for each data folder.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FolderId(String);

impl FolderId {
    /// The ID in `DATA/id`, made and durably written if the folder has none yet.
    pub fn of(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join("id");
        if let Ok(text) = fs::read_to_string(&path)
            && let Some(id) = Self::parse(text.trim())
        {
            return Ok(id);
        }
        let random = getrandom::u32().map_err(|error| Error::files("make", &path)(error.into()))?;
        let id = format!("{random:08x}");
        let write = || {
            fs::create_dir_all(data_dir)?;
            let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
            writeln!(file, "{id}")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(Error::files("write", &path))?;
        Ok(Self(id))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        valid.then(|| Self(text.into()))
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity() {
        let folder = tempfile::tempdir().unwrap();
        let id = FolderId::of(folder.path()).unwrap();
        assert_eq!(id, FolderId::of(folder.path()).unwrap());
        assert_eq!(id.as_str().len(), 8);
        assert_ne!(id, FolderId::of(tempfile::tempdir().unwrap().path()).unwrap());
    }
}
