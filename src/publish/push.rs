//! The optimistic push: send what is new, and believe the registry to have the rest until it says otherwise.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{try_join, try_join_all};

use super::base::{Arrival, BaseLayers};
use super::cache::Cache;
use super::content::{LayerContent, Meter};
use super::place::{Place, Running};
use super::{Job, PublishError, PushedImage};
use crate::image::{self, Base, Image, ImageError, Layer, Layout};
use crate::oci::{Descriptor, Digest};
use crate::registry::{Error, InMemory, Registry};
use crate::source::Source;

/// From here on a blob is asked for before it is sent: a round trip is nothing beside it.
const WORTH_ASKING: u64 = 4 << 20;
/// How often a registry may find something missing that it was just given.
const ROUNDS: u32 = 3;

pub(super) struct Push<'a> {
    pub registry: &'a Registry,
    pub job: &'a Job,
    pub cache: &'a Cache,
    pub layout: &'a Layout,
    pub base: &'a Base,
    pub place: Place,
    pub meter: &'a Arc<Meter>,
}

impl Push<'_> {
    pub async fn run(
        &self,
        source: Arc<Source>,
        code: Layer,
        describing: Running<Result<Descriptor, ImageError>>,
    ) -> Result<PushedImage, PublishError> {
        let begun = Instant::now();
        let base_bytes = (
            self.layout.read_blob(&self.base.manifest.config)?,
            self.layout.read_blob(&self.base.descriptor)?,
        );
        let base_layers = BaseLayers::new(self.registry, self.base, base_bytes, self.meter);
        // A 201 of a registry that takes incomplete manifests would prove nothing; this one's does.
        let strict = self.cache.refuses_incomplete(self.registry.host());
        let lacking = async {
            if strict { Ok(Vec::new()) } else { self.lacking().await.map_err(|e| self.failed("the base", e)) }
        };
        let uploads = try_join(self.send_code(&code, describing), self.build_and_send_config(&source, &code));
        let ((code_arrival, image), lacking) = try_join(uploads, lacking).await?;
        let sent = begun.elapsed();

        let mut arrivals = vec![Arrival::Present; self.base.layers.len()];
        if !lacking.is_empty() {
            // By digest it harms nobody, and tells whether this registry can be trusted to refuse.
            let probe = self.put(&image, None).await;
            if matches!(probe, Err(Error::IncompleteManifest { .. })) {
                self.cache.remember_refusal(self.registry.host());
            }
            self.supply(&base_layers, &lacking, &mut arrivals).await?;
        }
        self.finish(&image, &code, &base_layers, &mut arrivals).await?;
        self.check_tags(&image).await?;

        arrivals.push(code_arrival);
        let layers = image.manifest().layers.iter().cloned().zip(arrivals).collect();
        Ok(PushedImage {
            digest: image.descriptor().digest.clone(),
            source: source.digest()?.clone(),
            base: self.base.descriptor.digest.clone(),
            entry: source.entry_point().clone(),
            parameters: source.parameters().map(<[_]>::to_vec),
            unchanged: false,
            layers,
            packages: None,
            times: vec![("blobs", sent), ("manifest", begun.elapsed() - sent)],
        })
    }

    /// The upload is opened while the digest is still being computed.
    async fn send_code(
        &self,
        code: &Layer,
        describing: Running<Result<Descriptor, ImageError>>,
    ) -> Result<Arrival, PublishError> {
        let repository = &self.job.repository;
        let failed = |error| self.failed("the function's layer", error);
        let opening = async { self.registry.begin_upload(repository).await.map_err(failed) };
        let described = async {
            let descriptor = describing.wait().await??;
            let (digest, size) = (&descriptor.digest, descriptor.size);
            let there = size >= WORTH_ASKING
                && self.registry.has_blob(repository, digest, size).await.map_err(failed)?;
            Ok((descriptor, there))
        };
        let (upload, (descriptor, there)) = try_join(opening, described).await?;
        if there {
            return Ok(Arrival::Present);
        }
        let content = Arc::new(LayerContent::new(code.clone(), descriptor, self.meter));
        self.registry.push_blob(repository, content, Some(upload)).await.map_err(failed)?;
        Ok(Arrival::Uploaded)
    }

    /// The config needs the diff ID, so every entry is inflated and checked on the way: on threads of their own, while
    /// the layer is under way. A source that turns out to be damaged ends here, before there is a manifest.
    async fn build_and_send_config(&self, source: &Arc<Source>, code: &Layer) -> Result<Image, PublishError> {
        let repository = &self.job.repository;
        let failed = |error| self.failed("the config", error);
        let (base, source, code, options) =
            (self.base.clone(), source.clone(), code.clone(), self.job.options.clone());
        let building = async {
            Ok(self.place.run(move || image::build(&base, &source, &code, &options)).wait().await??)
        };
        let opening = async { self.registry.begin_upload(repository).await.map_err(failed) };
        let (upload, image) = try_join(opening, building).await?;
        let content = Arc::new(InMemory::new(image.config_bytes().to_vec()));
        self.registry.push_blob(repository, content, Some(upload)).await.map_err(failed)?;
        Ok(image)
    }

    /// Which of the base's layers the repository does not have, by their place.
    async fn lacking(&self) -> Result<Vec<usize>, Error> {
        let layers = &self.base.manifest.layers;
        let heads = layers
            .iter()
            .map(|layer| self.registry.has_blob(&self.job.repository, &layer.digest, layer.size));
        let found = try_join_all(heads).await?;
        Ok(found.into_iter().enumerate().filter(|(_, there)| !there).map(|(at, _)| at).collect())
    }

    async fn supply(
        &self,
        base: &BaseLayers<'_>,
        lacking: &[usize],
        arrivals: &mut [Arrival],
    ) -> Result<(), PublishError> {
        for &at in lacking {
            let (Some(layer), Some(descriptor)) =
                (self.base.layers.get(at), self.base.manifest.layers.get(at))
            else {
                continue;
            };
            let arrival = base.supply(&self.job.repository, layer, descriptor).await;
            let arrival = arrival.map_err(|error| self.failed("the base's layer", error))?;
            if let Some(slot) = arrivals.get_mut(at) {
                *slot = arrival;
            }
        }
        Ok(())
    }

    /// Puts the manifest, and whatever the registry then says that it lacks, until it lacks nothing.
    async fn finish(
        &self,
        image: &Image,
        code: &Layer,
        base: &BaseLayers<'_>,
        arrivals: &mut [Arrival],
    ) -> Result<(), PublishError> {
        for _ in 0..ROUNDS {
            let missing = match self.put(image, self.job.tags.first()).await {
                Ok(()) => return Ok(()),
                Err(Error::IncompleteManifest { missing }) => missing,
                Err(error) => return Err(self.failed("the manifest", error)),
            };
            self.cache.remember_refusal(self.registry.host());
            let named = |digest: &Digest| missing.is_empty() || missing.contains(digest);
            let layers = &self.base.manifest.layers;
            let lacking: Vec<_> = (0..layers.len()).filter(|&at| named(&layers[at].digest)).collect();
            self.supply(base, &lacking, arrivals).await?;
            self.send_again(image, code, named).await?;
        }
        let digest = image.descriptor().digest.clone();
        Err(PublishError::StillIncomplete { to: self.to(), digest })
    }

    /// What was uploaded a moment ago and is gone again.
    async fn send_again(
        &self,
        image: &Image,
        code: &Layer,
        named: impl Fn(&Digest) -> bool,
    ) -> Result<(), PublishError> {
        let repository = &self.job.repository;
        let descriptor = code.descriptor()?;
        if named(&descriptor.digest) {
            let content = Arc::new(LayerContent::new(code.clone(), descriptor, self.meter));
            let sent = self.registry.push_blob(repository, content, None).await;
            sent.map_err(|error| self.failed("the function's layer", error))?;
        }
        if named(&image.manifest().config.digest) {
            let content = Arc::new(InMemory::new(image.config_bytes().to_vec()));
            let sent = self.registry.push_blob(repository, content, None).await;
            sent.map_err(|error| self.failed("the config", error))?;
        }
        Ok(())
    }

    async fn put(&self, image: &Image, tag: Option<&crate::oci::Tag>) -> Result<(), Error> {
        let (repository, descriptor) = (&self.job.repository, image.descriptor());
        let bytes = bytes::Bytes::from(image.manifest_bytes().to_vec());
        match tag {
            Some(tag) => self.registry.push_manifest(repository, tag, &descriptor.media_type, bytes).await,
            None => {
                self.registry
                    .push_manifest(repository, &descriptor.digest, &descriptor.media_type, bytes)
                    .await
            }
        }
        .map(drop)
    }

    /// A registry may acknowledge a tag and not have it: each is looked at, and put once more where it is gone.
    async fn check_tags(&self, image: &Image) -> Result<(), PublishError> {
        let failed = |error| self.failed("the tag", error);
        let more = self.job.tags.iter().skip(1).map(|tag| self.put(image, Some(tag)));
        try_join_all(more).await.map_err(failed)?;
        let check = |tag| async move {
            for again in [true, false] {
                let found = self.registry.head_manifest(&self.job.repository, tag).await.map_err(failed)?;
                if found.is_some_and(|found| found.digest == image.descriptor().digest) {
                    return Ok(());
                }
                if again {
                    self.put(image, Some(tag)).await.map_err(failed)?;
                }
            }
            Err(PublishError::TagForgotten { to: self.to(), tag: tag.clone() })
        };
        try_join_all(self.job.tags.iter().map(check)).await.map(drop)
    }

    fn failed(&self, what: &str, source: Error) -> PublishError {
        PublishError::Push { what: what.into(), to: self.to(), source: source.into() }
    }

    fn to(&self) -> String {
        format!("{}/{}", self.registry.host(), self.job.repository)
    }
}
