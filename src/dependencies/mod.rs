//! `requirements.txt` → a locked, cached layer, by `uv`. Synchronous: whoever waits for it does so on a thread of its own.
//!
//! Read it in this order:
//!
//! 1. [`Wanted`], [`Requirements`]: what a source asks for; what a stranger's file may say, and nothing else.
//! 2. [`Target`]: the base's Python, libc and CPU. Never this machine's.
//! 3. [`Dependencies::resolve`] → [`Lock`]: one wheel for each package and platform, by hash. `fnbuild lock` keeps it.
//! 4. [`Dependencies::layer`]: the wheels of a lock, installed and byte-compiled in `/function/.fnbuild/packages`, as a
//!    layer. The same lock gives the same digest, and is installed once: a second function with the same list takes the
//!    layer from the cache here, and the registry mounts it.
//!
//! uv finds and unpacks wheels and runs none of their code: nothing is built, and source distributions are refused.
//! Which index it asks, and with which credentials, is this [`Machine`]'s to say, never the source's.

mod error;
mod install;
mod lock;
mod machine;
mod process;
mod prune;
mod requirement;
mod requirements;
mod resolve;
mod target;
mod vendored;
mod wanted;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use error::{Cause, DependencyError, Refusal};
pub use lock::{Lock, Pin, platform};
pub use machine::Machine;
pub use process::Cancel;
pub use prune::{Bounds, prune};
pub use requirements::Requirements;
pub use target::{GLIBC_LABEL, PYTHON_LABEL, Target};
pub use vendored::check_vendored;
pub use wanted::{Places, Wanted, lock_beside, lock_path};

use crate::image::{self, Base, Layer, Layout, Level};
use crate::oci::{Descriptor, Digest, History};
use process::Limits;

/// Changed whenever the same lock would give another layer.
const FORMAT: u32 = 1;
/// A resolution without a lock is used again for this long: the same source then gives the same image, and asks nobody.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Seconds since 1970 of every file in the layer. Python does not look at them (see `install::compile`).
const MTIME: u64 = 0;

/// How much may be asked of the index and of the disk.
#[derive(Clone, Debug)]
pub struct Options {
    /// Use only what uv has in its cache.
    pub offline: bool,
    /// For each run of uv or Python.
    pub timeout: Duration,
    /// Bytes of all packages of a layer.
    pub max_unpacked: u64,
    pub cancel: Cancel,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            offline: false,
            timeout: Duration::from_secs(300),
            max_unpacked: 250 << 20,
            cancel: Cancel::default(),
        }
    }
}

/// Resolves and installs, and keeps both below the data folder, in `cache/dependencies` and `cache/uv`.
#[derive(Debug)]
pub struct Dependencies {
    machine: Machine,
    options: Options,
    folder: PathBuf,
    uv_cache: PathBuf,
    layers: Layout,
    /// Locked, so that uv's cache is not emptied while uv may run.
    _uv: File,
}

/// A resolution, and whether it was made for this call.
#[derive(Clone, Debug)]
pub struct Resolution {
    pub lock: Lock,
    pub is_new: bool,
}

/// The packages of one lock for one target, as a layer.
#[derive(Clone, Debug)]
pub struct Installed {
    pub layer: Layer,
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    /// Whether anything was installed for this call.
    pub is_new: bool,
}

impl Installed {
    /// The base with this layer on top: what the code's layer is then put on. It keeps the base's name and digest.
    pub fn upon(&self, base: &Base) -> Base {
        let mut base = base.clone();
        let told = base.config.history.iter().filter(|entry| !entry.empty_layer).count();
        // Where a base tells too little of its history, one more entry would be taken for another layer's.
        if told == base.layers.len() {
            base.config.history.push(History {
                created: base.config.created.clone(),
                created_by: Some("fnbuild build".into()),
                comment: Some(format!("the function's packages in {}", install::PLACE)),
                empty_layer: false,
            });
        }
        base.config.rootfs.diff_ids.push(self.diff_id.clone());
        base.manifest.layers.push(self.descriptor.clone());
        base.layers.push(self.layer.clone());
        base
    }
}

/// What is kept beside the blob.
#[derive(Serialize, Deserialize)]
struct Kept {
    descriptor: Descriptor,
    diff_id: Digest,
}

impl Dependencies {
    /// Makes its folders below `data` if they are not there.
    pub fn open(data: &Path, machine: Machine, options: Options) -> Result<Self, DependencyError> {
        // uv is started in a folder of its own, where a relative path would mean something else.
        let data = std::path::absolute(data).map_err(DependencyError::io("find", data))?;
        let folder = data.join("cache/dependencies");
        for name in ["installed", "resolved", "work"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(DependencyError::io("create", &path))?;
        }
        let layers = Layout::create(folder.join("layers"))?;
        let guard = folder.join(prune::UV_GUARD);
        let uv = File::options().create(true).truncate(false).write(true).open(&guard);
        let uv = uv.map_err(DependencyError::io("create", &guard))?;
        uv.lock_shared().map_err(DependencyError::io("lock", &guard))?;
        Ok(Self { machine, options, folder, uv_cache: data.join("cache/uv"), layers, _uv: uv })
    }

    /// Resolves for each of the targets, which differ in platform only.
    pub fn resolve(&self, requirements: &Requirements, targets: &[Target]) -> Result<Lock, DependencyError> {
        let mut resolved = Vec::new();
        for target in targets {
            let work = self.work()?;
            let uv = self.uv("compile", target, work.path())?;
            let pins = resolve::resolve(uv, requirements, target, work.path(), &self.limits())?;
            resolved.push((target.clone(), pins));
        }
        let no_platform =
            || DependencyError::Tool { step: "resolve", message: "no platform was asked for".into() };
        let lock = Lock::join(requirements, &resolved).ok_or_else(no_platform)?;
        self.keep(&self.resolved_path(requirements, targets), lock.render().as_bytes())?;
        Ok(lock)
    }

    /// As [`resolve`](Self::resolve), unless that was done here for the same list, targets and index within a day.
    pub fn resolve_once(
        &self,
        requirements: &Requirements,
        targets: &[Target],
    ) -> Result<Resolution, DependencyError> {
        let path = self.resolved_path(requirements, targets);
        let age =
            fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age < KEPT)
            && let Ok(bytes) = fs::read(&path)
            && let Ok(lock) = Lock::parse("the resolution", &bytes)
            && lock.check(requirements, targets).is_ok()
        {
            return Ok(Resolution { lock, is_new: false });
        }
        Ok(Resolution { lock: self.resolve(requirements, targets)?, is_new: true })
    }

    /// The layer with a lock's packages for one target: from the cache, else installed.
    pub fn layer(&self, lock: &Lock, target: &Target) -> Result<Installed, DependencyError> {
        let pins = lock.pins(target);
        let key = Digest::of(format!("{FORMAT} {target:?} {pins:?}"));
        let path = self.folder.join("installed").join(format!("{}.json", key.hex()));
        // Whoever comes second waits, and then finds what the first one installed.
        let _guard = self.exclusively(&path.with_extension("guard"))?;
        if let Some(Kept { descriptor, diff_id }) = self.kept(&path)?
            && let Some(layer) = self.layers.hold(descriptor.clone(), diff_id.clone())
        {
            prune::touch(&path);
            return Ok(Installed { layer, descriptor, diff_id, is_new: false });
        }
        let work = self.work()?;
        let packages = self.install(&pins, target, work.path())?;
        let content = work.path().join("layer");
        let place = content.join(".fnbuild");
        fs::create_dir_all(&place).map_err(DependencyError::io("create", &place))?;
        // The versions and hashes stay with the image.
        let list = place.join("requirements.lock");
        fs::write(&list, install::list(&pins)).map_err(DependencyError::io("write", &list))?;
        fs::rename(&packages, place.join("packages")).map_err(DependencyError::io("move", &packages))?;
        install::set_modes(&content)?;
        let (written, blob) =
            image::write_tree(&content, "function", Level::Fast, MTIME, self.layers.blob_writer()?)?;
        blob.commit_as(&written.descriptor)?;
        let kept = Kept { descriptor: written.descriptor, diff_id: written.diff_id };
        let text = serde_json::to_vec(&kept)
            .map_err(|source| DependencyError::Kept { path: path.clone(), source })?;
        self.keep(&path, &text)?;
        let Kept { descriptor, diff_id } = kept;
        let held = self.layers.hold(descriptor.clone(), diff_id.clone());
        let layer = held.unwrap_or_else(|| self.layers.layer(descriptor.clone(), diff_id.clone()));
        Ok(Installed { layer, descriptor, diff_id, is_new: true })
    }

    fn install(&self, pins: &[&Pin], target: &Target, work: &Path) -> Result<PathBuf, DependencyError> {
        let limits = self.limits();
        let python = self.machine.python(target.python.0, target.python.1)?;
        let packages = install::install(self.uv("install", target, work)?, pins, work, &limits)?;
        install::normalise(&packages)?;
        install::check(&packages, target, self.options.max_unpacked)?;
        install::compile(&python, &packages, work, &limits)?;
        Ok(packages)
    }

    fn kept(&self, path: &Path) -> Result<Option<Kept>, DependencyError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DependencyError::io("read", path)(error)),
        };
        let kept = serde_json::from_slice(&bytes);
        kept.map(Some).map_err(|source| DependencyError::Kept { path: path.into(), source })
    }

    /// `uv pip VERB`, but for what the verb is to do: in a clean environment, for wheels that fit the target.
    fn uv(&self, verb: &str, target: &Target, work: &Path) -> Result<Command, DependencyError> {
        let python = self.machine.python(target.python.0, target.python.1)?;
        let mut uv = Command::new(self.machine.uv()?);
        uv.env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", work)
            .env("TMPDIR", work)
            .env("NO_COLOR", "1")
            .env("UV_CACHE_DIR", &self.uv_cache)
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("UV_NO_PROGRESS", "1")
            .envs(self.machine.variables().iter().map(|(name, value)| (name, value)))
            .args(["pip", verb, "--python"])
            .arg(python)
            .args(["--python-version", &target.python_version(), "--python-platform", &target.uv_platform()])
            // Nothing is built: that would run a stranger's code on this machine.
            .args(["--only-binary", ":all:", "--no-sources", "--quiet"]);
        match self.machine.config() {
            Some(file) => uv.arg("--config-file").arg(file),
            None => uv.arg("--no-config"),
        };
        if self.options.offline {
            uv.arg("--offline");
        }
        Ok(uv)
    }

    fn limits(&self) -> Limits {
        Limits { timeout: self.options.timeout, cancel: self.options.cancel.clone() }
    }

    /// An empty folder that goes away again.
    fn work(&self) -> Result<tempfile::TempDir, DependencyError> {
        let parent = self.folder.join("work");
        tempfile::tempdir_in(&parent).map_err(DependencyError::io("create a folder in", &parent))
    }

    fn resolved_path(&self, requirements: &Requirements, targets: &[Target]) -> PathBuf {
        let key =
            Digest::of(format!("{FORMAT} {} {targets:?} {}", requirements.digest(), self.machine.digest()));
        self.folder.join("resolved").join(format!("{}.lock", key.hex()))
    }

    /// Puts a file in its place in one step.
    fn keep(&self, path: &Path, bytes: &[u8]) -> Result<(), DependencyError> {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.folder.join("work"))?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(DependencyError::io("write", path))
    }

    /// Holds the lock on a file until the guard is dropped; between threads and between processes.
    fn exclusively(&self, path: &Path) -> Result<File, DependencyError> {
        let open = || {
            let file = File::options().create(true).truncate(false).write(true).open(path);
            file.map_err(DependencyError::io("create", path))
        };
        let mut file = open()?;
        loop {
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => return Ok(file),
                // It was removed while this waited for it: whoever comes next locks another.
                Ok(()) => file = open()?,
                Err(TryLockError::WouldBlock) if self.options.cancel.is_cancelled() => {
                    return Err(DependencyError::Cancelled { step: "install the packages" });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
                Err(TryLockError::Error(source)) => return Err(DependencyError::io("lock", path)(source)),
            }
        }
    }
}

/// Whether an open file is the one that is found by this path.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata().map(id), fs::metadata(path).map(id)), (Ok(ours), Ok(there)) if ours == there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waited_for_a_guard_that_is_removed_takes_the_one_that_others_find() {
        let data = tempfile::tempdir().unwrap();
        let dependencies = Dependencies::open(data.path(), Machine::default(), Options::default()).unwrap();
        let guard = data.path().join("guard");
        let held = dependencies.exclusively(&guard).unwrap();
        let opened = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|path| path == guard)).count()
        };
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| dependencies.exclusively(&guard).unwrap());
            while opened() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            fs::remove_file(&guard).unwrap();
            drop(held);
            let _taken = waits.join().unwrap();
            let next = File::open(&guard).unwrap();
            assert!(matches!(next.try_lock(), Err(TryLockError::WouldBlock)));
        });
    }
}
