//! Keeps what is kept bounded: what nobody has used for long goes, then what has gone unused for longest, until the rest
//! is small enough. What somebody uses stays, in this process or another.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{KEPT, Kept};
use crate::image::Layout;

/// Locked by whoever may run uv, so that its cache is emptied while nobody does.
pub(super) const UV_GUARD: &str = "uv.guard";

/// Nothing takes so long to be made: what is older and nobody's was left by a process that was killed.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What may stay of the layers; the same number of bytes again is uv's.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Since the last use.
    pub age: Duration,
    pub bytes: u64,
}

/// A layer, by what is kept beside it.
struct Entry {
    path: PathBuf,
    used: SystemTime,
    kept: Option<Kept>,
}

/// Below the data folder `data`. Ends at the first thing that cannot be removed. `false`: uv's cache is too large, and was
/// left because uv may run.
pub fn prune(data: &Path, bounds: Bounds) -> io::Result<bool> {
    let folder = data.join("cache/dependencies");
    if let Ok(layers) = Layout::open(folder.join("layers")) {
        prune_layers(&folder.join("installed"), &layers, bounds)?;
    }
    for (path, _) in older(&folder.join("resolved"), KEPT) {
        fs::remove_file(path).or_else(gone)?;
    }
    for (path, is_folder) in older(&folder.join("work"), DAY) {
        let removed = if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.or_else(gone)?;
    }
    prune_uv(&data.join("cache/uv"), &folder.join(UV_GUARD), bounds.bytes)
}

fn prune_layers(installed: &Path, layers: &Layout, bounds: Bounds) -> io::Result<()> {
    let mut entries: Vec<Entry> = files(installed).into_iter().filter_map(Entry::of).collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.used));
    let (mut bytes, mut staying) = (0_u64, HashSet::new());
    for entry in entries {
        // Two bases that differ in nothing that matters to the packages have one layer.
        let digest = entry.kept.as_ref().map(|kept| kept.descriptor.digest.clone());
        let is_shared = digest.as_ref().is_some_and(|digest| staying.contains(digest));
        if !is_shared {
            bytes = bytes.saturating_add(entry.kept.as_ref().map_or(0, |kept| kept.descriptor.size));
        }
        let is_old = entry.used.elapsed().is_ok_and(|age| age > bounds.age);
        if is_old || bytes > bounds.bytes {
            entry.remove((!is_shared).then_some(layers))?;
        } else {
            staying.extend(digest);
        }
    }
    prune_nameless(installed, layers)
}

/// What a process that was killed had not given a name yet, or had only just begun.
fn prune_nameless(installed: &Path, layers: &Layout) -> io::Result<()> {
    let blobs = layers.path().join("blobs");
    let known: Vec<Kept> = files(installed).into_iter().filter_map(|path| Entry::of(path)?.kept).collect();
    for (path, is_folder) in older(&blobs, DAY).into_iter().chain(older(&blobs.join("sha256"), DAY)) {
        if !is_folder && !known.iter().any(|kept| layers.blob_path(&kept.descriptor.digest) == path) {
            remove_unheld(&path)?;
        }
    }
    for (guard, _) in older(installed, DAY) {
        let is_guard = guard.extension().is_some_and(|extension| extension == "guard");
        if is_guard && !guard.with_extension("json").exists() {
            remove_unheld(&guard)?;
        }
    }
    Ok(())
}

impl Entry {
    fn of(path: PathBuf) -> Option<Self> {
        let is_entry = path.extension().is_some_and(|extension| extension == "json");
        let used = is_entry.then(|| fs::metadata(&path).and_then(|meta| meta.modified()).ok())??;
        let kept = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Some(Self { path, used, kept })
    }

    /// Unless somebody is about to use it, or does; with its blob, where `layers` are given.
    fn remove(&self, layers: Option<&Layout>) -> io::Result<()> {
        let guard = self.path.with_extension("guard");
        let Some(_turn) = lock(&guard)? else { return Ok(()) };
        if let (Some(kept), Some(layers)) = (&self.kept, layers)
            && !layers.discard(&kept.descriptor.digest)?
        {
            return Ok(());
        }
        fs::remove_file(&self.path).or_else(gone)?;
        fs::remove_file(guard).or_else(gone)
    }
}

/// Only uv knows what in its cache belongs together: so it is emptied as a whole. `false` if it should be and is in use.
fn prune_uv(cache: &Path, guard: &Path, bytes: u64) -> io::Result<bool> {
    if size(cache) <= bytes {
        return Ok(true);
    }
    match lock(guard)? {
        Some(_turn) => fs::remove_dir_all(cache).or_else(gone).map(|()| true),
        None => Ok(false),
    }
}

/// Unless somebody has it locked: whoever waits for that finds that it is gone.
fn remove_unheld(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Err(error) => return gone(error),
        Ok(file) => file,
    };
    if file.try_lock().is_ok() { fs::remove_file(path).or_else(gone) } else { Ok(()) }
}

/// Notes that something was used.
pub(super) fn touch(path: &Path) {
    // That it cannot be noted costs a second installation, much later.
    let _ = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// `None` where somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What in a folder has not changed for so long, and whether it is a folder itself.
fn older(folder: &Path, age: Duration) -> Vec<(PathBuf, bool)> {
    let old = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).ok()?;
        let is_old = meta.modified().ok()?.elapsed().is_ok_and(|found| found > age);
        is_old.then_some((path, meta.is_dir()))
    };
    files(folder).into_iter().filter_map(old).collect()
}

/// Of all files below a folder.
fn size(folder: &Path) -> u64 {
    let each = files(folder).into_iter().filter_map(|path| Some((fs::symlink_metadata(&path).ok()?, path)));
    each.map(|(meta, path)| if meta.is_dir() { size(&path) } else { meta.len() }).sum()
}

fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    const BOUNDS: Bounds = Bounds { age: Duration::from_secs(1000), bytes: 250 };

    struct Cache(tempfile::TempDir);

    impl Cache {
        fn new() -> Self {
            let data = tempfile::tempdir().unwrap();
            for name in ["installed", "resolved", "work"] {
                fs::create_dir_all(data.path().join("cache/dependencies").join(name)).unwrap();
            }
            Self(data)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("cache/dependencies").join(name)
        }

        fn layers(&self) -> Layout {
            Layout::create(self.path("layers")).unwrap()
        }

        /// A layer of 100 bytes that was last used so many seconds ago.
        fn installed(&self, name: &str, age: u64) -> Kept {
            self.installed_as(name, name, age)
        }

        fn installed_as(&self, name: &str, content: &str, age: u64) -> Kept {
            let bytes: Vec<u8> = content.bytes().cycle().take(100).collect();
            let descriptor = self.layers().write_blob("application/layer", &bytes).unwrap();
            let kept = Kept { descriptor, diff_id: Digest::of(name) };
            let path = self.path(&format!("installed/{name}.json"));
            fs::write(&path, serde_json::to_vec(&kept).unwrap()).unwrap();
            fs::write(path.with_extension("guard"), "").unwrap();
            aged(&path, age);
            kept
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let names = files(&self.path(folder)).into_iter();
            let mut names: Vec<_> =
                names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    fn aged(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn the_old_goes_then_what_was_unused_for_longest_and_never_what_is_held() {
        let cache = Cache::new();
        let kept = [("old", 2000), ("held", 3000), ("third", 300), ("second", 200), ("first", 100)]
            .map(|(name, age)| cache.installed(name, age));
        let layers = cache.layers();
        let held = layers.hold(kept[1].descriptor.clone(), kept[1].diff_id.clone()).unwrap();
        prune(cache.0.path(), BOUNDS).unwrap();
        let stay = ["first", "held", "second"];
        let files = stay.iter().flat_map(|name| [format!("{name}.guard"), format!("{name}.json")]);
        assert_eq!(cache.names("installed"), files.collect::<Vec<_>>());
        let there = |kept: &Kept| layers.contains(&kept.descriptor);
        assert_eq!(kept.each_ref().map(there), [false, true, false, true, true]);
        assert!(held.chunks().is_ok());
        drop(held);
        prune(cache.0.path(), BOUNDS).unwrap();
        assert_eq!(kept.each_ref().map(there), [false, false, false, true, true]);
        assert!(layers.hold(kept[0].descriptor.clone(), kept[0].diff_id.clone()).is_none());
    }

    #[test]
    fn a_layer_of_two_bases_stays_for_the_one_that_is_used_and_counts_once() {
        let cache = Cache::new();
        let layer = cache.installed_as("used", "layer", 10);
        cache.installed_as("unused", "layer", 2000);
        cache.installed_as("also", "layer", 20);
        let other = cache.installed("other", 30);
        prune(cache.0.path(), BOUNDS).unwrap();
        assert!(cache.layers().contains(&layer.descriptor) && cache.layers().contains(&other.descriptor));
        let stay = ["also", "other", "used"]
            .iter()
            .flat_map(|name| [format!("{name}.guard"), format!("{name}.json")]);
        assert_eq!(cache.names("installed"), stay.collect::<Vec<_>>());
    }

    #[test]
    fn what_a_killed_process_left_goes_after_a_day() {
        let cache = Cache::new();
        let nameless = cache.layers().write_blob("application/layer", b"nameless").unwrap();
        let nameless = cache.layers().blob_path(&nameless.digest);
        for name in ["work/.tmp", "resolved/a.lock", "layers/blobs/.incoming-a", "installed/a.guard"] {
            fs::write(cache.path(name), "").unwrap();
            aged(&cache.path(name), 3600);
        }
        prune(cache.0.path(), BOUNDS).unwrap();
        assert!(nameless.exists() && cache.path("work/.tmp").exists());
        for name in ["work/.tmp", "resolved/a.lock", "layers/blobs/.incoming-a", "installed/a.guard"] {
            aged(&cache.path(name), 100_000);
        }
        aged(&nameless, 100_000);
        prune(cache.0.path(), BOUNDS).unwrap();
        assert_eq!([cache.names("work"), cache.names("resolved")], [Vec::<String>::new(), Vec::new()]);
        assert!(!nameless.exists() && !cache.path("layers/blobs/.incoming-a").exists());
        assert_eq!(cache.names("installed"), Vec::<String>::new(), "of what was never installed");
    }

    #[test]
    fn uvs_cache_is_emptied_where_it_is_too_large_and_uv_does_not_run() {
        let cache = Cache::new();
        let uv = cache.0.path().join("cache/uv");
        fs::create_dir_all(uv.join("wheels")).unwrap();
        fs::write(uv.join("wheels/small"), [0; 250]).unwrap();
        assert!(prune(cache.0.path(), BOUNDS).unwrap() && uv.exists());
        fs::write(uv.join("wheels/large"), [0; 250]).unwrap();
        let runs = File::create(cache.path(UV_GUARD)).unwrap();
        runs.lock_shared().unwrap();
        assert!(!prune(cache.0.path(), BOUNDS).unwrap() && uv.exists());
        drop(runs);
        assert!(prune(cache.0.path(), BOUNDS).unwrap() && !uv.exists());
    }
}
