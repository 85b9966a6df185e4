//! Which functions' tags may not say yet what their records say: noted before a record is written, and struck out when
//! its tags are. So a server that was killed in between knows what to repair without asking the registry about all.

use std::path::PathBuf;

use crate::function::FunctionName;

/// A folder with an empty file for each.
pub struct Unfinished {
    folder: PathBuf,
}

impl Unfinished {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn note(&self, name: &FunctionName) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        std::fs::write(self.folder.join(name.as_str()), "")
    }

    pub fn strike(&self, name: &FunctionName) {
        // One too many costs a question at the next start.
        let _ = std::fs::remove_file(self.folder.join(name.as_str()));
    }

    pub fn is_noted(&self, name: &FunctionName) -> bool {
        self.folder.join(name.as_str()).exists()
    }

    pub fn names(&self) -> Vec<FunctionName> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_stays_until_it_is_struck_out() {
        let folder = tempfile::tempdir().unwrap();
        let unfinished = || Unfinished::new(folder.path().join("unfinished"));
        let name: FunctionName = "add".parse().unwrap();
        assert!(unfinished().names().is_empty());
        unfinished().note(&name).unwrap();
        unfinished().note(&name).unwrap();
        assert_eq!(unfinished().names(), std::slice::from_ref(&name));
        unfinished().strike(&name);
        unfinished().strike(&name);
        assert!(unfinished().names().is_empty());
    }
}
