//! Keeps `DATA/cache` bounded: once a day, beside a build and at most as long as it or what is to be removed takes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::cache::Cache;
use crate::dependencies;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What was not used for so long is not kept.
pub(super) const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Of the layers of packages, and of uv's cache.
const BYTES: u64 = 4 << 30;

/// A file that says by its time when all was last tidied, and is locked while it is.
const STAMP: &str = "cache/tidied";

/// Tidies up, if that is due. The build goes on meanwhile, and then waits for it.
pub(super) fn begin(data: &Path) -> Option<JoinHandle<()>> {
    let stamp = data.join(STAMP);
    let last = std::fs::metadata(&stamp).and_then(|meta| meta.modified());
    // A time in the future is one that the clock has gone back from.
    if last.is_ok_and(|last| last.elapsed().is_ok_and(|age| age < DAY)) {
        return None;
    }
    let data = data.to_path_buf();
    let tidy = move || {
        if let Err(error) = tidy(&data, &stamp) {
            tracing::warn!(%error, "what was built and seen before is not tidied up");
        }
    };
    std::thread::Builder::new().name("tidy".into()).spawn(tidy).ok()
}

fn tidy(data: &Path, stamp: &Path) -> io::Result<()> {
    let stamp = match File::options().create(true).append(true).open(stamp) {
        // Nothing was kept yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if stamp.try_lock().is_err() {
        return Ok(());
    }
    Cache::new(data).prune()?;
    let is_done = dependencies::prune(data, dependencies::Bounds { age: AGE, bytes: BYTES })?;
    // Where uv was running, as it may be for this very build, the next build tries again.
    stamp.set_modified(if is_done { SystemTime::now() } else { SystemTime::UNIX_EPOCH })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_done_once_a_day() {
        let data = tempfile::tempdir().unwrap();
        let tidied = || begin(data.path()).map(|thread| thread.join().unwrap()).is_some();
        assert!(tidied() && tidied(), "there is nothing to tidy, and nowhere to note it");
        let stamp = data.path().join(STAMP);
        std::fs::create_dir(data.path().join("cache")).unwrap();
        assert!(tidied() && !tidied());
        let then = SystemTime::now() - DAY - Duration::from_secs(1);
        File::options().append(true).open(&stamp).unwrap().set_modified(then).unwrap();
        assert!(tidied() && !tidied());
    }
}
