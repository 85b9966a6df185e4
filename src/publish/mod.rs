//! The one way from a source to a pushed image, for the command line and the server alike.
//!
//! Decisions 4 and 5 of the design. What is on the critical path of a changed source: open the two uploads while the
//! bytes are hashed, send layer and config, put the manifest, look whether the tag holds. Whether the registry has the
//! base's layers is asked beside the upload, and not at all of a registry that is known to refuse a manifest without
//! them. What is on the path of an unchanged source: its hash, and one HEAD.

mod adopt;
mod attach;
mod base;
mod cache;
mod content;
mod error;
mod fetch;
mod index;
mod packages;
mod place;
mod published;
mod push;
mod tidy;
mod workshop;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

pub use crate::dependencies::lock_beside;
pub use crate::registry::Error as RegistryError;
pub use adopt::Adopted;
pub use attach::{ArtifactType, Attachment, TITLE, attach};
pub use base::Arrival;
pub use content::Meter;
pub use error::{Blame, PublishError};
pub use fetch::{base_here, fetch_base};
pub use packages::{Packages, PackagesReport, Resolved};
pub use published::Published;
pub use workshop::{Order, Workshop};

use crate::function::{EntryPoint, Package, Parameter};
use crate::image::{self, Base, Image, Layout};
use crate::oci::{Descriptor, Digest, Platform, Repository, Tag};
use crate::registry::Registry;
use crate::source::{self, Source};
use cache::{Before, Built, Cache};
use packages::CancelOnDrop;
use place::Place;

/// What is to be published, and where it comes from.
#[derive(Clone, Debug)]
pub struct Job {
    pub source: PathBuf,
    pub from: source::Options,
    /// The base's tag in the layout `DATA/bases`.
    pub base: String,
    /// `DATA`.
    pub data: PathBuf,
    pub repository: Repository,
    /// Several make an index; none means the base's own, of several this machine's.
    pub platforms: Vec<Platform>,
    pub options: image::Options,
    pub packages: Packages,
    /// None: by digest alone.
    pub tags: Vec<Tag>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub struct PushedImage {
    pub digest: Digest,
    pub source: Digest,
    pub base: Digest,
    pub entry: EntryPoint,
    /// See [`Source::parameters`].
    pub parameters: Option<Vec<Parameter>>,
    /// The registry had this very image, under every tag that was asked for.
    pub unchanged: bool,
    /// Lowest first; empty where nothing changed.
    pub layers: Vec<(Descriptor, Arrival)>,
    /// `None` where nothing is asked for.
    pub packages: Option<PackagesReport>,
    /// What took how long, in order. Steps overlap.
    pub times: Vec<(&'static str, Duration)>,
}

/// Builds what `job` says and pushes it.
///
/// # Errors
/// When the source is refused (nothing was sent then but empty uploads), or the registry does not take the image.
pub async fn publish(
    registry: &Registry,
    job: &Job,
    meter: &Arc<Meter>,
) -> Result<PushedImage, PublishError> {
    let tidying = tidy::begin(&job.data);
    let published = match job.platforms.as_slice() {
        [] | [_] => publish_one(registry, job, meter).await,
        _ => index::publish(registry, job, meter).await,
    };
    if let Some(tidying) = tidying {
        let _ = Place::Threads.run(move || tidying.join()).wait().await;
    }
    published
}

async fn publish_one(
    registry: &Registry,
    job: &Job,
    meter: &Arc<Meter>,
) -> Result<PushedImage, PublishError> {
    let begun = Instant::now();
    let cache = Cache::new(&job.data);
    let (layout, base) = open_base(registry, job).await?;
    if let Some(source) = cache.hashed(&job.source) {
        let known = Known { registry, job, cache: &cache, base: &base };
        if let Some(done) = known.unchanged(&source, begun).await? {
            return Ok(done);
        }
    }
    let before = Before::of(&job.source);
    let place = Place::of_source(&job.source);
    let (path, from) = (job.source.clone(), for_base(&job.from, &base));
    let source = Arc::new(place.run(move || Source::open(&path, &from)).wait().await??);
    let code = image::code_layer(&source);
    // Both are one pass over the same bytes: together they take no longer than either.
    let hashing = {
        let (source, path, cache) = (source.clone(), job.source.clone(), cache.clone());
        place.run(move || {
            let digest = source.digest()?.clone();
            cache.keep_hashed(&path, before, &digest);
            Ok::<_, PublishError>(digest)
        })
    };
    let describing = {
        let code = code.clone();
        place.run(move || code.descriptor())
    };
    let source_digest = hashing.wait().await??;
    let known = Known { registry, job, cache: &cache, base: &base };
    if let Some(done) = known.unchanged(&source_digest, begun).await? {
        return Ok(done);
    }
    let hashed = begun.elapsed();
    if place == Place::Threads {
        // The longest of all, and it waits neither for packages nor for the upload. `build` finds it done, or waits for it.
        let code = code.clone();
        drop(place.run(move || code.diff_id()));
    }
    let (upon, packages) = put_packages(job, &base, &source).await?;
    let prepared = begun.elapsed() - hashed;
    let work = push::Push { registry, job, cache: &cache, layout: &layout, base: &upon, place, meter };
    let mut published = work.run(source, code, describing).await?;
    published.times.insert(0, ("source", hashed));
    if packages.is_some() {
        published.times.insert(1, ("packages", prepared));
    }
    published.packages = packages;
    let built = Built {
        digest: published.digest.clone(),
        entry: published.entry.clone(),
        parameters: published.parameters.clone(),
        packages: packages_of(&published),
    };
    cache.keep_built(&known.key(&source_digest), &built);
    published.times.push(("all", begun.elapsed()));
    Ok(published)
}

/// The base with the packages on top that the source asks for; the base as it is where there are none.
async fn put_packages(
    job: &Job,
    base: &Base,
    source: &Source,
) -> Result<(Base, Option<PackagesReport>), PublishError> {
    let Some(wanted) = job.packages.wanted(base, source, &job.source)? else {
        return Ok((base.clone(), None));
    };
    let (base, data, mut packages) = (base.clone(), job.data.clone(), job.packages.clone());
    packages.options.max_unpacked = job.from.bounds.unpacked;
    // Dropped with this future: nobody waits for uv then.
    let _guard = CancelOnDrop(packages.options.cancel.clone());
    Place::Threads.run(move || packages.put_upon(&base, &data, &wanted)).wait().await?
}

fn packages_of(published: &PushedImage) -> Vec<Package> {
    published.packages.iter().flat_map(|report| report.packages.clone()).collect()
}

/// An image that is nowhere yet.
#[derive(Debug)]
pub struct BuiltImage {
    pub image: Image,
    pub source: Arc<Source>,
    pub base: Digest,
    pub packages: Option<PackagesReport>,
}

/// Builds what `job` says, on bases that are on this machine, for somewhere else than a registry: an image for each
/// platform. Blocks.
pub fn build(job: &Job) -> Result<Vec<BuiltImage>, PublishError> {
    let tidying = tidy::begin(&job.data);
    let built = match job.platforms.as_slice() {
        [] => build_one(job, None).map(|built| vec![built]),
        platforms => platforms.iter().map(|platform| build_one(job, Some(platform))).collect(),
    };
    if let Some(tidying) = tidying {
        let _ = tidying.join();
    }
    built
}

fn build_one(job: &Job, platform: Option<&Platform>) -> Result<BuiltImage, PublishError> {
    let base = base_here(&job.data, &job.base, platform)?;
    let source = Arc::new(Source::open(&job.source, &for_base(&job.from, &base))?);
    let mut packages = job.packages.clone();
    packages.options.max_unpacked = job.from.bounds.unpacked;
    let (upon, packages) = match packages.wanted(&base, &source, &job.source)? {
        Some(wanted) => packages.put_upon(&base, &job.data, &wanted)?,
        None => (base.clone(), None),
    };
    let code = image::code_layer(&source);
    // The two digests of the code do not wait for each other.
    let image = std::thread::scope(|scope| {
        scope.spawn(|| code.descriptor());
        image::build(&upon, &source, &code, &job.options)
    })?;
    Ok(BuiltImage { image, source, base: base.descriptor.digest, packages })
}

/// What the base's Python knows is what a source may be written in.
fn for_base(options: &source::Options, base: &Base) -> source::Options {
    source::Options { python: packages::python_of(base).or(options.python), ..options.clone() }
}

async fn open_base(registry: &Registry, job: &Job) -> Result<(Layout, Base), PublishError> {
    let layout = Layout::create(job.data.join("bases"))?;
    let base = fetch::open_base(registry, &layout, &job.base, job.platforms.first()).await?;
    Ok((layout, base))
}

/// Asks whether there is anything to do.
struct Known<'a> {
    registry: &'a Registry,
    job: &'a Job,
    cache: &'a Cache,
    base: &'a Base,
}

impl Known<'_> {
    fn key(&self, source: &Digest) -> String {
        let packages = self.job.packages.key(&self.job.source);
        Cache::key(source, &self.base.descriptor.digest, &packages, &self.job.from, &self.job.options)
    }

    /// The image of this source, if it was built before and the registry still has it as it should.
    async fn unchanged(&self, source: &Digest, begun: Instant) -> Result<Option<PushedImage>, PublishError> {
        let Some(Built { digest, entry, parameters, packages }) = self.cache.built(&self.key(source)) else {
            return Ok(None);
        };
        let (registry, repository) = (self.registry, &self.job.repository);
        let found = if self.job.tags.is_empty() {
            vec![registry.head_manifest(repository, &digest).await.map_err(|source| self.failed(source))?]
        } else {
            let heads = self.job.tags.iter().map(|tag| registry.head_manifest(repository, tag));
            try_join_all(heads).await.map_err(|source| self.failed(source))?
        };
        if !found.iter().all(|found| found.as_ref().is_some_and(|found| found.digest == digest)) {
            return Ok(None);
        }
        Ok(Some(PushedImage {
            digest,
            source: source.clone(),
            base: self.base.descriptor.digest.clone(),
            entry,
            parameters,
            unchanged: true,
            layers: Vec::new(),
            packages: PackagesReport::before(packages),
            times: vec![("all", begun.elapsed())],
        }))
    }

    fn failed(&self, source: crate::registry::Error) -> PublishError {
        let to = format!("{}/{}", self.registry.host(), self.job.repository);
        PublishError::Push { what: "the image".into(), to, source: source.into() }
    }
}
