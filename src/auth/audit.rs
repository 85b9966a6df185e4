//! Who changed what, when, and what came of it: JSON lines in two files of bounded size, readable by their owner only.
//!
//! Nothing of a request's body or query is written, so no secret can be.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Of each of the two files.
const LARGEST: u64 = 8 << 20;

/// One change, or one that was refused.
#[derive(Clone, Debug, Serialize)]
pub struct Entry<'a> {
    /// The token's name, or `local` for whoever may reach loopback.
    pub who: &'a str,
    pub role: &'a str,
    pub peer: String,
    pub method: &'a str,
    /// What was asked for, by its path.
    pub path: &'a str,
    /// The function, secret or token, where the path does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    pub status: u16,
    /// `done`, `refused` (401, 403, 429) or `failed`.
    pub outcome: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: String,
    #[serde(flatten)]
    entry: &'a Entry<'a>,
}

/// The log. The file before the current one has `.1` after its name.
pub struct Audit {
    path: PathBuf,
    largest: u64,
    open: Mutex<(File, u64)>,
}

impl Audit {
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::bounded(path, LARGEST)
    }

    fn bounded(path: &Path, largest: u64) -> io::Result<Self> {
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.into(), largest, open: Mutex::new((file, size)) })
    }

    /// A log that cannot be written must not keep a machine from being looked after: it is complained of.
    pub fn write(&self, entry: &Entry) {
        if let Err(error) = self.append(entry) {
            tracing::error!(%error, path = %self.path.display(), "a change is missing in the audit log");
        }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Line { time: jiff::Timestamp::now().to_string(), entry })?;
        line.push(b'\n');
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.1 > 0 && open.1 + line.len() as u64 > self.largest {
            let mut before = self.path.as_os_str().to_owned();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *open = (append(&self.path)?, 0);
        }
        // One write for one line: what a crash cuts off is at most the last.
        open.0.write_all(&line)?;
        open.1 += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_latest_lines_and_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fn entry(path: &str) -> Entry<'_> {
            Entry {
                who: "ci",
                role: "deploy",
                peer: "10.0.0.1".into(),
                method: "DELETE",
                path,
                subject: None,
                status: 200,
                outcome: "done",
            }
        }
        let log = Audit::bounded(&path, 1000).unwrap();
        (0..50).for_each(|n| log.write(&entry(&format!("/v1/functions/f{n}"))));
        drop(log);
        Audit::bounded(&path, 1000).unwrap().write(&entry("/v1/functions/last"));
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (now, before) = (text(&path), text(&folder.path().join("audit.log.1")));
        assert!(now.len() <= 1000 && before.len() <= 1000);
        let last: serde_json::Value = serde_json::from_str(now.lines().last().unwrap()).unwrap();
        assert_eq!((&last["path"], &last["who"]), (&"/v1/functions/last".into(), &"ci".into()));
        assert!(last["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert!(before.contains("\"path\":\"/v1/functions/f") && !before.contains("/f0\""));
    }
}
