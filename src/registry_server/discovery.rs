//! Content discovery and management: tag lists, the catalog, referrers, deletions. Distribution-spec, the sections of
//! these names.

use http::header::{HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Code, JSON, Problem};
use super::body::Body;
use super::manifest::{MAX_MANIFEST, Outline};
use super::route::{ManifestName, Query};
use super::server::{Answer, Registry};
use crate::oci::{Digest, Repository};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Repositories on a page when the client does not say.
const CATALOG_PAGE: usize = 1000;

impl Registry {
    pub async fn tags(&self, repository: &Repository, query: Option<&str>) -> Answer {
        if let Some(upstream) = self.mirror_tags(repository, query).await {
            return upstream;
        }
        let query = &Query::parse(query);
        let (limit, last) = page(query)?;
        let limit = limit.unwrap_or(usize::MAX);
        let tags = self.store().index().tags(repository, last, limit.saturating_add(1));
        let unknown = || Problem::new(Code::NameUnknown, format!("there is no repository {repository}"));
        let mut tags = tags.ok_or_else(unknown)?;
        let next =
            cut(&mut tags, limit).map(|last| format!("/v2/{repository}/tags/list?n={limit}&last={last}"));
        Ok(listed(&json!({ "name": repository, "tags": tags }), next))
    }

    pub fn catalog(&self, query: &Query) -> Answer {
        let (limit, last) = page(query)?;
        let limit = limit.unwrap_or(CATALOG_PAGE);
        let mut names = self.store().index().catalog(last, limit.saturating_add(1));
        let next = cut(&mut names, limit).map(|last| format!("/v2/_catalog?n={limit}&last={last}"));
        Ok(listed(&json!({ "repositories": names }), next))
    }

    /// An index of the manifests whose `subject` this is. Never a 404.
    pub async fn referrers(&self, repository: &Repository, subject: &Digest, query: &Query) -> Answer {
        let wanted = query.get("artifactType").filter(|text| !text.is_empty());
        let after = query.get("last").unwrap_or_default();
        let found = self.store().index().referrers(repository, subject);
        let (mut manifests, mut size, mut next) = (Vec::<Value>::new(), 0, None);
        for manifest in found.iter().filter(|manifest| manifest.digest.to_string().as_str() > after) {
            let outline = Outline::read(&self.read_manifest(manifest).await?)?;
            if wanted.is_some_and(|wanted| outline.artifact_type() != Some(wanted)) {
                continue;
            }
            let mut descriptor = json!({
                "mediaType": &*manifest.media_type, "digest": manifest.digest, "size": manifest.size,
            });
            if let Some(artifact_type) = outline.artifact_type() {
                descriptor["artifactType"] = artifact_type.into();
            }
            if let Some(annotations) = outline.annotations.filter(|annotations| !annotations.is_empty()) {
                descriptor["annotations"] = json!(annotations);
            }
            // A page is a manifest, too: no larger than clients are ready to read.
            size += descriptor.to_string().len();
            if size > MAX_MANIFEST && !manifests.is_empty() {
                let last = manifests.last().and_then(|m| m["digest"].as_str()).unwrap_or_default();
                next = Some(next_referrers(repository, subject, wanted, last));
                break;
            }
            manifests.push(descriptor);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": super::OCI_INDEX, "manifests": manifests });
        let content_type = HeaderValue::from_static(super::OCI_INDEX);
        let mut response = answer::full(StatusCode::OK, content_type, index.to_string().into());
        if wanted.is_some() {
            answer::set(&mut response, FILTERS_APPLIED, "artifactType");
        }
        if let Some(next) = next {
            answer::set_next(&mut response, &next);
        }
        Ok(response)
    }

    /// By tag only the tag goes; by digest the manifest and every tag that points to it.
    pub async fn delete_manifest(&self, repository: &Repository, name: &ManifestName) -> Answer {
        let gone = match name {
            ManifestName::Tag(tag) => self.store().untag(repository, tag).await?,
            ManifestName::Digest(digest) => self.store().forget(repository, digest).await?,
        };
        if gone {
            return Ok(answer::empty(StatusCode::ACCEPTED));
        }
        if !self.store().index().knows_repository(repository) {
            return Err(Problem::new(Code::NameUnknown, format!("there is no repository {repository}")));
        }
        Err(Problem::new(Code::ManifestUnknown, format!("{repository} has no such manifest or tag")))
    }

    /// The repository no longer serves it; the bytes go with the next collection, if nobody else needs them.
    pub async fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Answer {
        if self.store().unlink(repository, digest).await? {
            return Ok(answer::empty(StatusCode::ACCEPTED));
        }
        Err(Problem::new(Code::BlobUnknown, format!("{repository} has no blob {digest}")))
    }
}

/// `n` and `last`.
fn page(query: &Query) -> Result<(Option<usize>, &str), Problem> {
    let number = query.get("n").map(str::parse).transpose();
    let number = number.map_err(|_| Problem::new(Code::PageInvalid, "n is not a number"))?;
    Ok((number, query.get("last").unwrap_or_default()))
}

/// Leaves `limit` names. If there were more, the last one that stays; none for an empty page, which has no next one.
fn cut(names: &mut Vec<String>, limit: usize) -> Option<String> {
    let more = names.len() > limit;
    names.truncate(limit);
    names.last().filter(|_| more).cloned()
}

fn listed(value: &Value, next: Option<String>) -> Response<Body> {
    let mut response = answer::full(StatusCode::OK, JSON, value.to_string().into());
    if let Some(next) = next {
        answer::set_next(&mut response, &next);
    }
    response
}

fn next_referrers(repository: &Repository, subject: &Digest, wanted: Option<&str>, last: &str) -> String {
    let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let filter = wanted.map(|wanted| format!("artifactType={}&", encode(wanted))).unwrap_or_default();
    format!("/v2/{repository}/referrers/{subject}?{filter}last={}", encode(last))
}
