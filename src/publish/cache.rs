//! What was built and seen before: small files under `DATA/cache`, each replaced in one step.
//!
//! All of it may be lost or damaged at any time; then work is done again. So nothing is synced to disk, an entry that
//! cannot be read is none, and one that cannot be written is not missed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tidy::AGE;
use crate::function::{EntryPoint, Package, Parameter};
use crate::image::Options;
use crate::oci::Digest;
use crate::source;

/// Raised whenever the same input may give another image, so that no older entry is used.
const BUILDER: &str = concat!("2 ", env!("CARGO_PKG_VERSION"));
/// How long a registry is believed to go on as it has been seen to.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// Entries of a kind: a few hundred bytes each.
const MOST: usize = 10_000;
/// A use is noted when the last one was noted so long ago.
const NOTED: Duration = Duration::from_secs(24 * 3600);
/// A file that changed less than this before it was hashed may have changed again within one tick of its time stamps.
const SETTLED: Duration = Duration::from_secs(2);

const IMAGES: &str = "images";
const HASHES: &str = "hashes";
const REGISTRIES: &str = "registries";
const KINDS: [&str; 3] = [IMAGES, HASHES, REGISTRIES];

/// `DATA/cache`.
#[derive(Clone, Debug)]
pub(super) struct Cache(PathBuf);

/// The image that a source became.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Built {
    pub digest: Digest,
    pub entry: EntryPoint,
    pub parameters: Option<Vec<Parameter>>,
    pub packages: Vec<Package>,
}

/// A file's hash and everything that changes when its content does, as in git's index.
#[derive(PartialEq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    inode: u64,
    device: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Serialize, Deserialize)]
struct Hashed {
    stamp: Stamp,
    digest: Digest,
}

/// What a registry has been seen to do.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Manners {
    /// Seconds since 1970 at which it last refused a manifest whose blobs it lacked.
    refused_incomplete: Option<u64>,
}

impl Cache {
    pub fn new(data: &Path) -> Self {
        Self(data.join("cache"))
    }

    /// Names everything that decides an image's digest: decision 5 of the design.
    pub fn key(
        source: &Digest,
        base: &Digest,
        packages: &str,
        from: &source::Options,
        options: &Options,
    ) -> String {
        Digest::of(format!("{BUILDER}\n{source}\n{base}\n{packages}\n{from:?}\n{options:?}"))
            .hex()
            .to_string()
    }

    pub fn built(&self, key: &str) -> Option<Built> {
        self.read(IMAGES, key)
    }

    pub fn keep_built(&self, key: &str, built: &Built) {
        self.write(IMAGES, key, built);
    }

    /// The digest of a file that has not changed since it was hashed, without reading it.
    pub fn hashed(&self, path: &Path) -> Option<Digest> {
        let (stamp, name) = stamp(path)?;
        let hashed: Hashed = self.read(HASHES, &name)?;
        (hashed.stamp == stamp).then_some(hashed.digest)
    }

    /// Keeps a file's digest, if the file was the same before it was hashed (`before`) and had settled by then.
    pub fn keep_hashed(&self, path: &Path, before: Option<Before>, digest: &Digest) {
        let (Some(before), Some((stamp, name))) = (before, stamp(path)) else { return };
        let settled = |(seconds, _): (i64, i64)| {
            let then = UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs() + 1);
            before.at.duration_since(then).is_ok_and(|age| age > SETTLED)
        };
        if before.stamp == stamp && settled(stamp.modified) && settled(stamp.changed) {
            self.write(HASHES, &name, &Hashed { stamp, digest: digest.clone() });
        }
    }

    /// Whether a registry has refused an incomplete manifest within a day. Then its 201 can be believed.
    pub fn refuses_incomplete(&self, host: &str) -> bool {
        let manners: Manners = self.read(REGISTRIES, &file_name(host)).unwrap_or_default();
        let now = seconds(SystemTime::now());
        manners
            .refused_incomplete
            .is_some_and(|then| now.checked_sub(then).is_some_and(|age| age < REMEMBERED.as_secs()))
    }

    pub fn remember_refusal(&self, host: &str) {
        let manners = Manners { refused_incomplete: Some(seconds(SystemTime::now())) };
        self.write(REGISTRIES, &file_name(host), &manners);
    }

    /// Removes what was not used for long, and of the rest what is too many.
    pub fn prune(&self) -> io::Result<()> {
        for kind in KINDS {
            let entries = std::fs::read_dir(self.0.join(kind)).into_iter().flatten().flatten();
            let used =
                |entry: std::fs::DirEntry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()));
            let mut entries: Vec<_> = entries.filter_map(used).collect();
            entries.sort_by(|one, other| other.cmp(one));
            for (at, (used, path)) in entries.iter().enumerate() {
                if at >= MOST || used.elapsed().is_ok_and(|age| age > AGE) {
                    std::fs::remove_file(path)?;
                }
            }
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, kind: &str, name: &str) -> Option<T> {
        let mut file = File::open(self.0.join(kind).join(name)).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let noted = file.metadata().and_then(|meta| meta.modified());
        if noted.is_ok_and(|noted| noted.elapsed().is_ok_and(|age| age > NOTED)) {
            // Without it the entry is lost some day, and the work done again.
            let _ = file.set_modified(SystemTime::now());
        }
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, kind: &str, name: &str, value: &impl Serialize) {
        let dir = self.0.join(kind);
        let new = dir.join(format!(".{name}.{}", std::process::id()));
        let write = || {
            let bytes = serde_json::to_vec(value)?;
            if std::fs::write(&new, &bytes).is_err() {
                std::fs::create_dir_all(&dir)?;
                std::fs::write(&new, &bytes)?;
            }
            std::fs::rename(&new, dir.join(name))
        };
        if let Err(error) = write() {
            tracing::debug!(%error, kind, "the cache cannot be written");
            let _ = std::fs::remove_file(&new);
        }
    }
}

/// A file's state before it is read.
pub(super) struct Before {
    stamp: Stamp,
    at: SystemTime,
}

impl Before {
    pub fn of(path: &Path) -> Option<Self> {
        stamp(path).map(|(stamp, _)| Self { stamp, at: SystemTime::now() })
    }
}

/// A file's stamp, and the name that its path has in the cache. A folder has none: its own times say too little.
fn stamp(path: &Path) -> Option<(Stamp, String)> {
    let path = path.canonicalize().ok()?;
    let meta = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
    let stamp = Stamp {
        size: meta.size(),
        inode: meta.ino(),
        device: meta.dev(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    Some((stamp, Digest::of(path.as_os_str().as_encoded_bytes()).hex().to_string()))
}

fn file_name(host: &str) -> String {
    Digest::of(host).hex().to_string()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let built = Built {
            digest: Digest::of(b"image"),
            entry: EntryPoint::default(),
            parameters: None,
            packages: Vec::new(),
        };
        cache.keep_built("key", &built);
        assert_eq!(cache.built("key").unwrap().digest, built.digest);
        std::fs::write(dir.path().join("cache/images/key"), b"{\"digest\":\"sha25").unwrap();
        assert!(cache.built("key").is_none());
    }

    #[test]
    fn what_is_not_used_for_long_goes_and_a_use_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let age = |name: &str, age: Duration| {
            let path = dir.path().join("cache/hashes").join(name);
            File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        for name in ["used", "unused", "old"] {
            cache.write(HASHES, name, &name);
            age(name, AGE - NOTED);
        }
        age("old", AGE + NOTED);
        cache.prune().unwrap();
        assert_eq!(cache.read::<String>(HASHES, "old"), None);
        assert_eq!(cache.read::<String>(HASHES, "used").as_deref(), Some("used"));
        let modified = |name: &str| {
            let meta = std::fs::metadata(dir.path().join("cache/hashes").join(name)).unwrap();
            meta.modified().unwrap().elapsed().unwrap()
        };
        assert!(modified("used") < NOTED && modified("unused") > NOTED);
        for name in 0..MOST {
            std::fs::write(dir.path().join(format!("cache/hashes/{name}")), "").unwrap();
        }
        cache.prune().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("cache/hashes")).unwrap().count(), MOST);
        assert_eq!(cache.read::<String>(HASHES, "unused"), None);
    }

    #[test]
    fn everything_that_decides_the_image_is_in_the_key() {
        let (source, base) = (Digest::of(b"s"), Digest::of(b"b"));
        let (from, options) = (source::Options::default(), Options::default());
        let key = Cache::key(&source, &base, "", &from, &options);
        let other = Options { env: vec![("A".into(), "B".into())], ..Options::default() };
        assert_ne!(key, Cache::key(&source, &base, "", &from, &other));
        assert_ne!(key, Cache::key(&base, &source, "", &from, &options));
        assert_ne!(key, Cache::key(&source, &base, "a lock", &from, &options));
        let entry = source::Options { entry: Some("a:b".parse().unwrap()), ..source::Options::default() };
        assert_ne!(key, Cache::key(&source, &base, "", &entry, &options));
    }

    #[test]
    fn a_file_is_hashed_again_unless_it_had_settled_and_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, file) = (Cache::new(dir.path()), dir.path().join("func.py"));
        std::fs::write(&file, b"one").unwrap();
        let fresh = Before::of(&file);
        cache.keep_hashed(&file, fresh, &Digest::of(b"one"));
        assert!(cache.hashed(&file).is_none(), "the file is too young to be believed");
        let later =
            Before::of(&file).map(|before| Before { at: before.at + Duration::from_secs(10), ..before });
        cache.keep_hashed(&file, later, &Digest::of(b"one"));
        assert_eq!(cache.hashed(&file), Some(Digest::of(b"one")));
        std::fs::write(&file, b"two!").unwrap();
        assert!(cache.hashed(&file).is_none());
    }

    #[test]
    fn a_refusal_is_remembered_for_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        assert!(!cache.refuses_incomplete("localhost:5000"));
        cache.remember_refusal("localhost:5000");
        assert!(cache.refuses_incomplete("localhost:5000"));
        assert!(!cache.refuses_incomplete("localhost:5001"));
        let old = Manners { refused_incomplete: Some(seconds(SystemTime::now()) - 90_000) };
        cache.write(REGISTRIES, &file_name("localhost:5000"), &old);
        assert!(!cache.refuses_incomplete("localhost:5000"));
    }
}
