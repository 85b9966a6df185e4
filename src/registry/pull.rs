//! Blobs on their way down, checked as they come; and from a reference to an image of one platform.

use std::io::Write;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};
use http::{Method, StatusCode};

use super::auth::Scope;
use super::manifest::{Manifest, ManifestKind, Name};
use super::push::unexpected;
use super::transport::{Answer, Call};
use super::{Error, Registry, error::shown};
use crate::oci::{Descriptor, Digest, Hasher, ImageConfig, ImageIndex, ImageManifest, Platform, Repository};

/// A config is read whole into memory; a longer one is none.
const MAX_CONFIG: u64 = 8 << 20;

/// An image of one platform: its manifest and config, checked; its layers still in the registry.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// The image's own manifest, not the index that led to it.
    pub manifest: Manifest,
    pub image: ImageManifest,
    pub config: ImageConfig,
    /// As stored: what the config's digest is of.
    pub config_bytes: Bytes,
}

impl Registry {
    /// Fetches manifest and config of an image; of an index the one for `platform`.
    pub async fn pull_image(
        &self,
        repository: &Repository,
        name: impl Into<Name<'_>>,
        platform: &Platform,
    ) -> Result<PulledImage, Error> {
        let name = name.into();
        let mut manifest = self.pull_manifest(repository, name).await?;
        let mut kind = manifest.parse()?;
        if let ManifestKind::Index(index) = &kind {
            let chosen = choose(index, platform).ok_or_else(|| Error::NoPlatform {
                reference: format!("{}/{repository}:{name}", self.host()),
                platform: text(platform),
                available: available(index),
            })?;
            manifest = self.pull_manifest(repository, &chosen.digest).await?;
            kind = manifest.parse()?;
        }
        let ManifestKind::Image(image) = kind else {
            let what = format!("{} in {}/{repository}", manifest.descriptor.digest, self.host());
            return Err(Error::NoPlatform {
                reference: what,
                platform: text(platform),
                available: "indexes only".into(),
            });
        };
        let config_bytes = self.pull_small(repository, &image.config, MAX_CONFIG).await?;
        let config = serde_json::from_slice(&config_bytes)
            .map_err(|source| Error::Malformed { what: format!("config {}", image.config.digest), source })?;
        Ok(PulledImage { manifest, image, config, config_bytes })
    }

    /// A small blob in memory, checked.
    pub async fn pull_small(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, Error> {
        if descriptor.size > limit {
            let what = format!("blob {}", descriptor.digest);
            return Err(Error::TooLarge { what, size: descriptor.size, limit });
        }
        let mut download = self.pull_blob(repository, descriptor);
        let mut bytes = bytes::BytesMut::new();
        while let Some(piece) = download.piece().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// A blob into a writer. What was written is worth nothing unless this succeeds.
    pub async fn pull_blob_to(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        sink: &mut (dyn Write + Send),
    ) -> Result<(), Error> {
        let mut download = self.pull_blob(repository, descriptor);
        let fail = |source| Error::Sink { digest: descriptor.digest.clone(), source };
        while let Some(piece) = download.piece().await? {
            sink.write_all(&piece).map_err(fail)?;
        }
        sink.flush().map_err(fail)
    }

    /// A blob piece by piece. Nothing is sent before the first piece is asked for.
    pub fn pull_blob<'a>(&'a self, repository: &'a Repository, descriptor: &Descriptor) -> Download<'a> {
        Download {
            registry: self,
            repository,
            hasher: Some(Hasher::new(descriptor.digest.algorithm())),
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            taken: 0,
            skip: 0,
            answer: None,
            breaks: 0,
        }
    }
}

/// A blob being fetched. Where the connection breaks it goes on from there by a `Range`.
pub struct Download<'a> {
    registry: &'a Registry,
    repository: &'a Repository,
    digest: Digest,
    size: u64,
    taken: u64,
    /// Bytes to pass over: the registry knows no ranges and began anew.
    skip: u64,
    /// Gone once the digest has been checked.
    hasher: Option<Hasher>,
    answer: Option<Answer>,
    breaks: u32,
}

impl Download<'_> {
    /// The next piece; `None` after the last, when size and digest have proven right. Pieces handed out before an
    /// error are not to be used.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.taken == self.size {
                return self.check().map(|()| None);
            }
            match self.next().await {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Ok(Some(piece)),
                Err(error) => {
                    self.answer = None;
                    self.breaks += 1;
                    if !error.is_transient() || self.breaks >= self.registry.patience().attempts {
                        return Err(error);
                    }
                    tracing::debug!(%error, taken = self.taken, "going on with the download");
                    tokio::time::sleep(self.registry.patience().backoff * self.breaks).await;
                }
            }
        }
    }

    async fn next(&mut self) -> Result<Bytes, Error> {
        let mut answer = match self.answer.take() {
            Some(answer) => answer,
            None => self.open().await?,
        };
        let Some(mut piece) = answer.piece().await? else {
            let (method, url) = (answer.method.clone(), shown(&answer.url));
            let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into();
            return Err(Error::Broken { method, url, source });
        };
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        let piece = piece.split_off(skipped as usize);
        self.taken += piece.len() as u64;
        if self.taken > self.size {
            let what = format!("blob {}", self.digest);
            return Err(Error::TooLarge { what, size: self.taken, limit: self.size });
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&piece);
        }
        self.answer = Some(answer);
        Ok(piece)
    }

    async fn open(&mut self) -> Result<Answer, Error> {
        let url = self.registry.url(self.repository, "blobs", &self.digest.to_string())?;
        let scope = Scope::pull(self.repository);
        let from = HeaderValue::try_from(format!("bytes={}-", self.taken)).ok().filter(|_| self.taken > 0);
        let call = || {
            let call = Call::new(Method::GET, url.clone(), &scope);
            match &from {
                Some(from) => call.header(RANGE, from.clone()),
                None => call,
            }
        };
        let answer = self.registry.transport().send(call).await?;
        match answer.status() {
            StatusCode::OK => self.skip = self.taken,
            StatusCode::PARTIAL_CONTENT => {
                let start = format!("bytes {}-", self.taken);
                if !answer.header(CONTENT_RANGE).is_some_and(|range| range.starts_with(&start)) {
                    return Err(answer.protocol("the registry sends another range than it was asked for"));
                }
                self.skip = 0;
            }
            StatusCode::NOT_FOUND => {
                return Err(self.registry.not_found(self.repository, format!("blob {}", self.digest)));
            }
            status => return Err(unexpected(answer, status, "200 OK").await),
        }
        if let Some(length) = answer.length().filter(|_| answer.status() == StatusCode::OK)
            && length != self.size
        {
            let problem = format!("{length} bytes instead of the {} that the manifest names", self.size);
            return Err(answer.protocol(problem));
        }
        Ok(answer)
    }

    fn check(&mut self) -> Result<(), Error> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let actual = hasher.finish();
        if actual == self.digest {
            return Ok(());
        }
        let what = format!("blob {} from {}/{}", self.digest, self.registry.host(), self.repository);
        Err(Error::DigestMismatch { what, expected: self.digest.clone(), actual: actual.to_string() })
    }
}

/// The best entry for a platform: exact, else one that leaves the variant open.
fn choose<'a>(index: &'a ImageIndex, platform: &Platform) -> Option<&'a Descriptor> {
    let fits = |found: &Platform| found.os == platform.os && found.architecture == platform.architecture;
    let candidates = || index.manifests.iter().filter(|entry| entry.platform.as_ref().is_some_and(fits));
    let variant = |entry: &&Descriptor| entry.platform.as_ref().and_then(|found| found.variant.clone());
    candidates()
        .find(|entry| variant(entry) == platform.variant)
        .or_else(|| candidates().find(|entry| variant(entry).is_none() || platform.variant.is_none()))
}

fn text(platform: &Platform) -> String {
    let variant = platform.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

fn available(index: &ImageIndex) -> String {
    let known: Vec<_> =
        index.manifests.iter().filter_map(|entry| entry.platform.as_ref().map(text)).take(20).collect();
    if known.is_empty() { "none that it names".into() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: variant.map(str::to_string),
        }
    }

    #[test]
    fn an_index_gives_the_image_that_fits_best() {
        let entry = |name: &str, of: Platform| {
            let mut entry = Descriptor::of("m", name.as_bytes());
            entry.platform = Some(of);
            entry
        };
        let index = ImageIndex::new(vec![
            entry("arm-v6", platform("arm", Some("v6"))),
            entry("arm64", platform("arm64", Some("v8"))),
            entry("arm-v7", platform("arm", Some("v7"))),
            entry("amd64", platform("amd64", None)),
        ]);
        for (wanted, name) in [
            (platform("arm", Some("v7")), "arm-v7"),
            (platform("arm64", None), "arm64"),
            (platform("amd64", Some("v2")), "amd64"),
        ] {
            assert_eq!(choose(&index, &wanted).unwrap().digest, Digest::of(name), "{name}");
        }
        assert!(choose(&index, &platform("riscv64", None)).is_none());
        assert!(choose(&index, &platform("arm", Some("v5"))).is_none());
    }
}
