//! The packages that a source asks for: a layer between the base and the code.

use std::path::{Path, PathBuf};

use super::PublishError;
use crate::dependencies::{
    Cancel, Dependencies, Machine, Options, Pin, Places, Target, Wanted, check_vendored, lock_beside,
};
use crate::function::Package;
use crate::image::Base;
use crate::oci::Digest;
use crate::source::{self, Source};

/// How a source's requirements are to be met.
#[derive(Clone, Debug)]
pub struct Packages {
    /// This list instead of the source's own `requirements.txt`.
    pub requirements: Option<PathBuf>,
    /// Only what is listed, without what it depends on.
    pub no_deps: bool,
    pub machine: Machine,
    pub options: Options,
}

/// Where the versions came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// When this very source was pushed before: nothing changed, and nothing was asked for.
    Before,
    /// From the lock of the source.
    Locked,
    /// There is no lock; from a resolution of the same list within a day.
    Kept,
    /// There is no lock; from the index, in this call.
    Now,
}

/// What became of a source's requirements.
#[derive(Clone, Debug)]
pub struct PackagesReport {
    pub resolved: Resolved,
    pub packages: Vec<Package>,
    /// Whether anything was installed for this push.
    pub installed: bool,
}

impl PackagesReport {
    /// Of an unchanged source.
    pub(super) fn before(packages: Vec<Package>) -> Option<Self> {
        let report = Self { resolved: Resolved::Before, packages, installed: false };
        Some(report).filter(|report| !report.packages.is_empty())
    }
}

impl Packages {
    /// The source's own list, by uv as this machine has it. `data` is the data folder.
    pub fn of_this_process(data: &Path) -> Self {
        let machine = Machine::of_this_process(data);
        Self { requirements: None, no_deps: false, machine, options: Options::default() }
    }

    /// Names what decides the packages beside the source itself. An unchanged source without a lock is an unchanged
    /// image: nothing is resolved for it again.
    pub(super) fn key(&self, source: &Path) -> String {
        let digest = |path: &Path| std::fs::read(path).ok().map(Digest::of);
        let list = self.requirements.as_deref().map(digest);
        let lock = (!source.is_dir()).then(|| digest(&lock_beside(source)));
        format!("{list:?} {lock:?} {}", self.no_deps)
    }

    /// What the source at `path` asks for, if anything. Looks only at what the source and the user say.
    pub(super) fn wanted<'a>(
        &'a self,
        base: &Base,
        source: &Source,
        path: &'a Path,
    ) -> Result<Option<Wanted>, PublishError> {
        // An image that was not made as a base may not say what fits it.
        if let Ok(target) = Target::of(&base.name, &base.config) {
            check_vendored(source, &target)?;
        }
        let places =
            Places { source: Some(path), requirements: self.requirements.as_deref(), no_deps: self.no_deps };
        Ok(Wanted::of(source, places)?)
    }

    /// The base with the packages on top. Resolves and installs, which may take long.
    pub(super) fn put_upon(
        &self,
        base: &Base,
        data: &Path,
        wanted: &Wanted,
    ) -> Result<(Base, Option<PackagesReport>), PublishError> {
        let targets = [Target::of(&base.name, &base.config)?];
        let dependencies = Dependencies::open(data, self.machine.clone(), self.options.clone())?;
        let (lock, resolved) = match wanted.checked_lock(&targets)? {
            Some(lock) => (lock.clone(), Resolved::Locked),
            None => {
                let resolution = dependencies.resolve_once(&wanted.requirements, &targets)?;
                (resolution.lock, if resolution.is_new { Resolved::Now } else { Resolved::Kept })
            }
        };
        let [target] = &targets;
        let pins = lock.pins(target);
        if pins.is_empty() {
            return Ok((base.clone(), None));
        }
        let package = |pin: &&Pin| Package {
            name: pin.name.clone(),
            version: pin.version.clone(),
            sha256: pin.sha256.clone(),
        };
        let packages = pins.iter().map(package).collect();
        let layer = dependencies.layer(&lock, target)?;
        Ok((layer.upon(base), Some(PackagesReport { resolved, packages, installed: layer.is_new })))
    }
}

/// The base's Python, where it says which it is.
pub(super) fn python_of(base: &Base) -> Option<source::Version> {
    let (major, minor, _) = Target::of(&base.name, &base.config).ok()?.python;
    Some((major.try_into().ok()?, minor.try_into().ok()?))
}

/// Ends the work that somebody waited for.
pub(super) struct CancelOnDrop(pub Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
