//! Which functions' tags may not say yet what their records say: noted before a record is written, and struck out when
//! its tags are. So a server that was killed in between knows what to repair without asking the registry about all.

use std::path::PathBuf;
use std::time::Duration;

use super::Finding;
use super::change::Changes;
use crate::function::FunctionName;
use crate::store::StoreError;

/// Between two looks for tags that were not written.
const PAUSE: Duration = Duration::from_secs(5);

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

impl Changes {
    /// Which functions' last change was cut off before its tags were written; with `repair` they are now.
    pub async fn cut_off(&self, repair: bool) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for name in self.unfinished.names() {
            // Whatever is being done at this moment is not cut off.
            let _turn = self.turn(&name).await;
            if !self.unfinished.is_noted(&name) {
                continue;
            }
            let Some(stored) = self.store.get(&name).await? else {
                self.unfinished.strike(&name);
                continue;
            };
            let warnings = if repair { self.tag(&stored.record).await } else { Vec::new() };
            let what = format!("the last change of {name} was cut off before its tags were written");
            let what = [vec![what], warnings.clone()].concat().join(": ");
            findings.push(Finding { what, repaired: repair && warnings.is_empty() });
        }
        Ok(findings)
    }

    /// Writes the tags that were not written, as soon as the registry takes them.
    pub async fn keep_finishing(&self) {
        loop {
            match self.cut_off(true).await {
                Ok(found) => found.iter().for_each(|Finding { what, repaired }| match repaired {
                    true => tracing::info!("{what}; they are written now"),
                    // Whoever made the change was told.
                    false => tracing::debug!("{what}"),
                }),
                Err(error) => tracing::warn!(%error, "the tags could not be repaired"),
            }
            tokio::time::sleep(PAUSE).await;
            while self.unfinished.names().is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
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
