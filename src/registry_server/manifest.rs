//! Pushing manifests. Distribution-spec, "Pushing Manifests"; every media type that is a JSON object is taken.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use super::answer::{self, CONTENT_DIGEST, Code, Problem};
use super::body::Body;
use super::route::{ManifestName, Query};
use super::server::{Answer, Registry};
use super::store::{ManifestRecord, now};
use crate::oci::{Annotations, Digest, Hasher, Repository, Tag};

/// The specification asks registries to take 4 megabytes, and to have a limit.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Tags in one request: ten are the least that the specification asks for.
const MAX_TAGS: usize = 128;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// The parts of any manifest that a registry has to know.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Part>,
    layers: Option<Vec<Part>>,
    /// An index's children.
    manifests: Option<Vec<Part>>,
    /// The artifact manifest of image-spec 1.1's release candidates.
    blobs: Option<Vec<Part>>,
    /// Docker's first schema.
    fs_layers: Option<Vec<FsLayer>>,
    subject: Option<Part>,
    pub annotations: Option<Annotations>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    digest: Digest,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: Digest,
}

impl Outline {
    pub fn read(bytes: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(bytes)
            .map_err(|error| Problem::new(Code::ManifestInvalid, format!("not a manifest: {error}")))
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        let lists = [&self.layers, &self.manifests, &self.blobs].into_iter().flatten().flatten();
        self.config.iter().chain(lists)
    }

    /// What the manifest needs: all of it is kept with it.
    fn references(&self) -> Vec<Digest> {
        let schema1 = self.fs_layers.iter().flatten().map(|layer| layer.blob_sum.clone());
        self.parts().map(|part| part.digest.clone()).chain(schema1).collect()
    }

    /// What must be here first: all but the layers that are fetched from elsewhere by their `urls`.
    fn required(&self) -> Vec<Digest> {
        let schema1 = self.fs_layers.iter().flatten().map(|layer| layer.blob_sum.clone());
        let elsewhere = |part: &&Part| {
            let foreign = part.media_type.contains("nondistributable") || part.media_type.contains("foreign");
            !(foreign && part.urls.as_ref().is_some_and(|urls| !urls.is_empty()))
        };
        self.parts().filter(elsewhere).map(|part| part.digest.clone()).chain(schema1).collect()
    }

    /// What the referrers API says of it: `artifactType`, or the config's media type for an image manifest.
    pub fn artifact_type(&self) -> Option<&str> {
        let own = self.artifact_type.as_deref().filter(|text| !text.is_empty());
        own.or_else(|| {
            self.config.as_ref().map(|config| config.media_type.as_str()).filter(|text| !text.is_empty())
        })
    }

    /// The type it is stored and served as.
    fn media_type(&self, content_type: Option<&str>) -> Result<String, Problem> {
        let sent = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
        match (sent.filter(|sent| !sent.is_empty()), self.media_type.as_deref()) {
            (Some(sent), Some(own)) if sent != own => {
                let message = format!("Content-Type is {sent}, the manifest's mediaType is {own}");
                Err(Problem::new(Code::ManifestInvalid, message))
            }
            (Some(text), _) | (None, Some(text)) => Ok(text.into()),
            (None, None) if self.manifests.is_some() => Ok(super::OCI_INDEX.into()),
            (None, None) => Ok(super::OCI_MANIFEST.into()),
        }
    }

    /// The record of this manifest in a repository, and what has to be there for it.
    pub fn record(
        &self,
        repository: &Repository,
        content_type: Option<&str>,
        (digest, bytes): (Digest, &Bytes),
        tags: Vec<Tag>,
    ) -> Result<(ManifestRecord, Vec<Digest>), Problem> {
        let record = ManifestRecord {
            repository: repository.clone(),
            digest,
            size: bytes.len() as u64,
            media_type: self.media_type(content_type)?,
            tags,
            references: self.references(),
            subject: self.subject.as_ref().map(|subject| subject.digest.clone()),
            at: now(),
        };
        Ok((record, self.required()))
    }
}

impl Registry {
    /// `PUT …/manifests/NAME`, by tag or by digest; by digest with any number of `?tag=`.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        name: &ManifestName,
        query: &Query,
        headers: &HeaderMap,
        body: &mut Incoming,
    ) -> Answer {
        let bytes = whole(headers, body).await?;
        let (digest, tags) = named(name, query, &bytes)?;
        let outline = Outline::read(&bytes)?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let (record, required) = outline.record(repository, content_type, (digest, &bytes), tags)?;
        let response = created(name, &record);
        let missing = self.store().put_manifest(record, bytes, &required).await?;
        if !missing.is_empty() {
            return Err(Problem::each(Code::ManifestBlobUnknown, &format!("{repository} has no"), &missing));
        }
        Ok(response)
    }
}

fn created(name: &ManifestName, record: &ManifestRecord) -> Response<Body> {
    let mut response = answer::empty(StatusCode::CREATED);
    let (repository, digest) = (&record.repository, &record.digest);
    answer::set(&mut response, header::LOCATION, format!("/v2/{repository}/manifests/{digest}"));
    answer::set(&mut response, CONTENT_DIGEST, digest.to_string());
    if let Some(subject) = &record.subject {
        answer::set(&mut response, OCI_SUBJECT, subject.to_string());
    }
    if matches!(name, ManifestName::Digest(_)) && !record.tags.is_empty() {
        let tags: Vec<&str> = record.tags.iter().map(Tag::as_str).collect();
        answer::set(&mut response, OCI_TAG, tags.join(", "));
    }
    response
}

/// The digest and the tags that the request gives the manifest.
fn named(name: &ManifestName, query: &Query, bytes: &Bytes) -> Result<(Digest, Vec<Tag>), Problem> {
    let digest = match name {
        ManifestName::Tag(tag) => return Ok((Digest::of(bytes), vec![tag.clone()])),
        ManifestName::Digest(digest) => digest.clone(),
    };
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(bytes);
    let actual = hasher.finish();
    if actual != digest {
        return Err(Problem::new(
            Code::DigestInvalid,
            format!("the manifest's digest is {actual}, not {digest}"),
        ));
    }
    let tags: Result<Vec<Tag>, _> = query.all("tag").map(str::parse).collect();
    let tags = tags.map_err(|error| Problem::new(Code::ManifestInvalid, error.to_string()))?;
    if tags.len() > MAX_TAGS {
        return Err(Problem::new(Code::ManifestInvalid, format!("more than {MAX_TAGS} tags")));
    }
    Ok((digest, tags))
}

/// The body, if it is not too large.
async fn whole(headers: &HeaderMap, body: &mut Incoming) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Code::ManifestTooLarge, format!("larger than {MAX_MANIFEST} bytes"));
    let declared =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|length| length > MAX_MANIFEST) {
        return Err(too_large());
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| Problem::new(Code::ManifestInvalid, format!("the body was cut off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_MANIFEST {
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_needs_and_what_may_be_elsewhere() {
        let d = |text: &str| Digest::of(text);
        let text = format!(
            r#"{{"config":{{"digest":"{}","mediaType":"t"}},"subject":{{"digest":"{}"}},"layers":[
                {{"digest":"{}"}},
                {{"digest":"{}","mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","urls":["u"]}}]}}"#,
            d("config"),
            d("subject"),
            d("layer"),
            d("far")
        );
        let outline = Outline::read(text.as_bytes()).unwrap();
        assert_eq!(outline.required(), [d("config"), d("layer")]);
        assert_eq!(outline.references(), [d("config"), d("layer"), d("far")]);
        assert_eq!(outline.artifact_type(), Some("t"));
    }

    #[test]
    fn a_manifest_is_served_as_what_it_says_it_is() {
        let outline = Outline::read(br#"{"mediaType":"a/b"}"#).unwrap();
        assert_eq!(outline.media_type(Some("a/b; charset=utf-8")).unwrap(), "a/b");
        assert_eq!(outline.media_type(Some("c/d")).unwrap_err().code, Code::ManifestInvalid);
        let index = Outline::read(br#"{"manifests":[]}"#).unwrap();
        assert_eq!(index.media_type(None).unwrap(), super::super::OCI_INDEX);
    }
}
