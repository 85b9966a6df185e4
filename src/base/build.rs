//! From a recipe and its lock to an image of three layers in an OCI layout.

use std::path::{Path, PathBuf};

use super::lock::{Drift, Lock, Locked};
use super::platform::Architecture;
use super::recipe::Recipe;
use super::tool::Stop;
use super::{BaseError, compile, debian, rootfs, wheels};
use crate::image::{Base, Layout, Level, Written, write_tree};
use crate::oci::{Descriptor, Empty, History, ImageConfig, ImageManifest, RootFs, media_type};

/// What is to be built, and how strictly.
#[derive(Clone, Debug)]
pub struct Request {
    pub recipe: Recipe,
    /// `linux/arm64`; this machine's where `None`.
    pub platform: Option<String>,
    /// The recipe's name where `None`.
    pub tag: Option<String>,
    pub strictness: Strictness,
    /// A folder for what exists only on the way. Programs are run in it, so it must not be mounted noexec.
    pub work: PathBuf,
}

/// What a lock means to a build.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Strictness {
    /// Packages that the archive no longer has are replaced by their successors, and named.
    #[default]
    Follow,
    /// Any difference from the lock is an error.
    Locked,
    /// The lock is written anew with the newest of everything.
    Update,
}

/// A base that was built and tagged.
#[derive(Clone, Debug)]
pub struct Built {
    pub tag: String,
    /// Of the manifest.
    pub descriptor: Descriptor,
    /// What each layer is, and its compressed size in bytes.
    pub layers: Vec<(&'static str, u64)>,
    /// Where the packages differ from those of the lock.
    pub drift: Drift,
    /// Where the lock was written, if it was.
    pub lock_written: Option<PathBuf>,
}

/// Builds the base and keeps it in `layout`. `progress` hears each step's name as it begins.
pub fn build(
    request: &Request,
    layout: &Layout,
    stop: &Stop,
    progress: &dyn Fn(&str),
) -> Result<Built, BaseError> {
    let recipe = &request.recipe;
    let architecture = Architecture::of(request.platform.as_deref())?;
    let mut lock = Lock::open(&recipe.lock_path())?.unwrap_or_default();
    let known = lock.architectures.get(architecture.debian);
    if known.is_none() && request.strictness == Strictness::Locked {
        let architecture = architecture.debian.into();
        return Err(BaseError::NotLocked { path: recipe.lock_path(), architecture });
    }
    let rewrite = known.is_none() || request.strictness == Strictness::Update;
    let wanted = if rewrite { Locked::default() } else { known.cloned().unwrap_or_default() };

    let work = Work::new(&request.work)?;
    let shop = Shop { recipe, architecture, work: work.path(), layout, stop };
    progress("unpacking the Debian packages");
    let packages = debian::unpack(recipe, architecture.debian, &wanted.debian, work.path(), stop)?;
    let drift = if rewrite { Drift::default() } else { Drift::between(&wanted.debian, &packages) };
    if !drift.is_none() && request.strictness == Strictness::Locked {
        return Err(BaseError::Drifted { lines: drift.lines });
    }
    let wheels = if rewrite {
        progress("resolving the Python packages");
        wheels::resolve(recipe, &architecture, work.path(), stop)?
    } else {
        wanted.wheels
    };
    let layers = [
        ("Debian and Python", shop.system(progress)?),
        ("Flask and what it needs", shop.packages(&wheels, progress)?),
        ("runtime", shop.runtime(progress)?),
    ];
    let descriptor = shop.image(&layers)?;
    let tag = request.tag.clone().unwrap_or_else(|| recipe.name.clone());
    Base::keep(layout, &tag, &descriptor)?;
    let lock_written = rewrite.then(|| recipe.lock_path());
    if let Some(path) = &lock_written {
        lock.architectures.insert(architecture.debian.into(), Locked { debian: packages, wheels });
        lock.write(path)?;
    }
    let layers = layers.iter().map(|(name, written)| (*name, written.descriptor.size)).collect();
    Ok(Built { tag, descriptor, layers, drift, lock_written })
}

/// A folder for one build, removed at its end. One that a killed build left behind is removed by the next.
struct Work {
    folder: tempfile::TempDir,
    /// Locked while the build lives.
    _alive: std::fs::File,
}

const ALIVE: &str = "alive";
const PREFIX: &str = "base-";

impl Work {
    fn new(parent: &Path) -> Result<Self, BaseError> {
        std::fs::create_dir_all(parent).map_err(BaseError::io("create", parent))?;
        let parent = parent.canonicalize().map_err(BaseError::io("find", parent))?;
        sweep(&parent);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&parent)
            .map_err(BaseError::io("create a folder in", &parent))?;
        let path = folder.path().join(ALIVE);
        let alive = std::fs::File::create(&path).map_err(BaseError::io("create", &path))?;
        alive.lock().map_err(BaseError::io("lock", &path))?;
        Ok(Self { folder, _alive: alive })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // A folder without the file is one that is being made, or being removed by somebody else.
        let Ok(alive) = std::fs::File::open(entry.path().join(ALIVE)) else { continue };
        if alive.try_lock().is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// What every step of one build needs.
struct Shop<'a> {
    recipe: &'a Recipe,
    architecture: Architecture,
    work: &'a Path,
    layout: &'a Layout,
    stop: &'a Stop,
}

impl Shop<'_> {
    fn root(&self) -> PathBuf {
        self.work.join("root")
    }

    fn system(&self, progress: &dyn Fn(&str)) -> Result<Written, BaseError> {
        let root = self.root();
        rootfs::finish(self.recipe, &root)?;
        progress("compiling the standard library");
        self.compile(&PathBuf::from(format!("usr/lib/python{}", self.recipe.python.version)))?;
        progress("packing Debian and Python");
        self.pack(&root, "")
    }

    fn packages(&self, wheels: &[super::lock::Wheel], progress: &dyn Fn(&str)) -> Result<Written, BaseError> {
        progress("installing the Python packages");
        let target = self.root().join(&self.recipe.python.packages);
        wheels::install(wheels, self.recipe, &self.architecture, &target, self.stop)?;
        // RECORD lists the scripts that uv wrote, which name this machine's paths; the rest says how it was installed.
        let notes = ["RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];
        for pattern in notes.iter().map(|name| format!("*.dist-info/{name}")).chain([".lock".into()]) {
            rootfs::remove(&target, &pattern)?;
        }
        self.recipe.python.remove.iter().try_for_each(|pattern| rootfs::remove(&target, pattern))?;
        self.compile(&self.recipe.python.packages)?;
        progress("packing the Python packages");
        self.pack(&target, &self.recipe.python.packages.to_string_lossy())
    }

    fn runtime(&self, progress: &dyn Fn(&str)) -> Result<Written, BaseError> {
        progress("packing the runtime");
        let source = self.recipe.runtime_folder();
        let name = source.file_name().unwrap_or_default();
        let folder = self.recipe.python.packages.join(name);
        // In a folder of its own, as the layer has to hold this package and no other.
        let target = self.root().join(&self.recipe.python.packages);
        std::fs::remove_dir_all(&target).map_err(BaseError::io("remove", &target))?;
        copy_modules(&source, &target.join(name))?;
        self.compile(&folder)?;
        self.pack(&target, &self.recipe.python.packages.to_string_lossy())
    }

    fn compile(&self, folder: &Path) -> Result<(), BaseError> {
        compile::compile(self.recipe, &self.architecture, &self.root(), folder, self.stop)
    }

    fn pack(&self, folder: &Path, prefix: &str) -> Result<Written, BaseError> {
        self.stop.check()?;
        let blob = self.layout.blob_writer()?;
        let (written, blob) = write_tree(folder, prefix, Level::Small, self.recipe.epoch.into(), blob)?;
        blob.commit_as(&written.descriptor)?;
        Ok(written)
    }

    /// Writes config and manifest; gives the manifest's descriptor.
    fn image(&self, layers: &[(&'static str, Written)]) -> Result<Descriptor, BaseError> {
        let created =
            jiff::Timestamp::from_second(self.recipe.epoch.into()).map(|time| time.to_string()).ok();
        let history = |(name, _): &(&str, Written)| History {
            created: created.clone(),
            created_by: Some(format!("fnbuild base build {} ({name})", self.recipe.name)),
            ..History::default()
        };
        let recipe = self.recipe;
        let mut config = ImageConfig {
            created: created.clone(),
            platform: self.architecture.platform(),
            rootfs: RootFs {
                diff_ids: layers.iter().map(|(_, l)| l.diff_id.clone()).collect(),
                ..RootFs::default()
            },
            history: layers.iter().map(history).collect(),
            ..ImageConfig::default()
        };
        config.config.user = Some(format!("{0}:{0}", recipe.user.id));
        config.config.exposed_ports.insert(format!("{}/tcp", recipe.image.port), Empty {});
        config.config.env = recipe.image.env.clone();
        config.config.cmd = Some(recipe.image.cmd.clone());
        config.config.working_dir = Some(recipe.image.working_dir.clone());
        let labels = [
            ("io.fnbuild.runtime", self.runtime_version()?),
            ("org.opencontainers.image.title", recipe.name.clone()),
            ("org.opencontainers.image.description", recipe.description.clone()),
        ];
        config.config.labels = labels.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        let bytes = serde_json::to_vec(&config).map_err(BaseError::Serialise)?;
        let config = self.layout.write_blob(media_type::CONFIG, &bytes)?;
        let manifest = ImageManifest::new(config, layers.iter().map(|(_, l)| l.descriptor.clone()).collect());
        let bytes = serde_json::to_vec(&manifest).map_err(BaseError::Serialise)?;
        Ok(self.layout.write_blob(media_type::MANIFEST, &bytes)?)
    }

    /// `__version__ = "…"` in the runtime's package.
    fn runtime_version(&self) -> Result<String, BaseError> {
        let path = self.recipe.runtime_folder().join("__init__.py");
        let text = std::fs::read_to_string(&path).map_err(BaseError::io("read", &path))?;
        let version = text.lines().find_map(|line| line.strip_prefix("__version__ = \"")?.strip_suffix('"'));
        let reason =
            || BaseError::InvalidRecipe { path: path.clone(), reason: "it has no __version__".into() };
        version.map(str::to_string).ok_or_else(reason)
    }
}

/// Copies a package's `.py` files: neither caches nor whatever else lies in a working copy.
fn copy_modules(from: &Path, to: &Path) -> Result<(), BaseError> {
    std::fs::create_dir_all(to).map_err(BaseError::io("create", to))?;
    for entry in std::fs::read_dir(from).map_err(BaseError::io("list", from))? {
        let path = entry.map_err(BaseError::io("list", from))?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() && name != "__pycache__" {
            copy_modules(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|extension| extension == "py") {
            let place = to.join(name);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::copy(&path, &place)
                .and_then(|_| std::fs::set_permissions(&place, mode))
                .map_err(BaseError::io("copy", &path))?;
        }
    }
    Ok(())
}
