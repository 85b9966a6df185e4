//! Changes to a source while somebody works on it.

use std::path::Path;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::ProjectError;

/// Editors write a file in several steps: what follows within this time belongs together.
const SETTLE: Duration = Duration::from_millis(20);

/// Looks at a source until it is dropped.
pub struct Changes {
    changes: mpsc::Receiver<()>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    /// Of a zip, a `.py` or a folder with all that is in it.
    pub fn of(source: &Path) -> Result<Self, ProjectError> {
        let path = std::fs::canonicalize(source);
        let path = path.map_err(|error| ProjectError::Read { path: source.into(), source: error })?;
        // A file is replaced by another of its name: its folder sees that.
        let (folder, file, mode) = match path.parent() {
            Some(folder) if path.is_file() => (folder, Some(path.clone()), RecursiveMode::NonRecursive),
            _ => (path.as_path(), None, RecursiveMode::Recursive),
        };
        // One that nobody has asked for yet stands for all that follow.
        let (changed, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // What cannot be told is looked for.
            if event.as_ref().map_or(true, |event| matters(event, file.as_deref())) {
                let _ = changed.try_send(());
            }
        });
        let failed = |source| ProjectError::Watch { path: folder.into(), source };
        let mut watcher = watcher.map_err(failed)?;
        watcher.watch(folder, mode).map_err(failed)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for a change, and until it is whole. `None`: there is nothing more to be seen.
    pub async fn next(&mut self) -> Option<()> {
        self.changes.recv().await?;
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, self.changes.recv()).await {}
        Some(())
    }
}

fn matters(event: &Event, file: Option<&Path>) -> bool {
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    let changes = !event.kind.is_access() || event.kind == written;
    changes && file.is_none_or(|file| event.paths.iter().any(|path| path == file))
}
