//! From a path to what it names. Repository names contain slashes, so paths are read from the right.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::answer::{Code, Problem};
use super::store::UploadId;
use crate::oci::{Digest, Repository, Tag};

/// A manifest's name within its repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManifestName {
    Tag(Tag),
    Digest(Digest),
}

/// What a request is about.
#[derive(PartialEq, Eq, Debug)]
pub enum Route {
    /// `/v2/`
    Version,
    Catalog,
    Tags(Repository),
    Manifest(Repository, ManifestName),
    Blob(Repository, Digest),
    /// Where uploads begin.
    Uploads(Repository),
    Upload(Repository, UploadId),
    Referrers(Repository, Digest),
    Metrics,
    Health,
}

impl Route {
    /// A word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
            Self::Metrics => "metrics",
            Self::Health => "health",
        }
    }

    /// Reads a request's path. A malformed name or digest is a 400, a path that is none of the API's a 404.
    pub fn parse(path: &str) -> Result<Self, Problem> {
        let path: Cow<'_, str> = percent_decode_str(path).decode_utf8().map_err(|_| unknown())?;
        match &*path {
            "/metrics" => return Ok(Self::Metrics),
            "/healthz" => return Ok(Self::Health),
            "/v2" | "/v2/" => return Ok(Self::Version),
            "/v2/_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Ok(Self::Uploads(repository(name)?));
        }
        let (rest, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = rest.strip_suffix("/blobs/uploads") {
            let unknown = Problem::new(Code::BlobUploadUnknown, format!("no upload {last:?}"));
            return Ok(Self::Upload(repository(name)?, last.parse().map_err(|_| unknown)?));
        }
        let (name, kind) = rest.rsplit_once('/').ok_or_else(unknown)?;
        match kind {
            "tags" if last == "list" => Ok(Self::Tags(repository(name)?)),
            "blobs" => Ok(Self::Blob(repository(name)?, digest(last)?)),
            "referrers" => Ok(Self::Referrers(repository(name)?, digest(last)?)),
            "manifests" => Ok(Self::Manifest(repository(name)?, manifest_name(last)?)),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> Problem {
    Problem::new(Code::NotFound, "no such endpoint")
}

fn repository(name: &str) -> Result<Repository, Problem> {
    name.parse().map_err(|error| Problem::new(Code::NameInvalid, format!("{error}")))
}

pub fn digest(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error| Problem::new(Code::DigestInvalid, format!("{error}")))
}

fn manifest_name(text: &str) -> Result<ManifestName, Problem> {
    if text.contains(':') {
        return digest(text).map(ManifestName::Digest);
    }
    let tag = text.parse().map_err(|error| Problem::new(Code::TagInvalid, format!("{error}")))?;
    Ok(ManifestName::Tag(tag))
}

/// The decoded pairs of a query, in order.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: Option<&str>) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(k, v)| (decode(k), decode(v)))
                .collect(),
        )
    }

    pub fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(path: &str) -> Code {
        Route::parse(path).unwrap_err().code
    }

    #[test]
    fn names_with_slashes_and_words_of_the_api_are_read_from_the_right() {
        let digest = Digest::of(b"");
        let name = |text: &str| text.parse::<Repository>().unwrap();
        assert_eq!(Route::parse("/v2/a/b/blobs/uploads/").unwrap(), Route::Uploads(name("a/b")));
        assert_eq!(
            Route::parse(&format!("/v2/blobs/uploads/blobs/{digest}")).unwrap(),
            Route::Blob(name("blobs/uploads"), digest.clone())
        );
        assert_eq!(Route::parse("/v2/tags/list/tags/list").unwrap(), Route::Tags(name("tags/list")));
        assert_eq!(
            Route::parse(&format!("/v2/a/manifests/{}", digest.to_string().replace(':', "%3A"))).unwrap(),
            Route::Manifest(name("a"), ManifestName::Digest(digest))
        );
    }

    #[test]
    fn malformed_parts_are_named() {
        assert_eq!(code("/v2/UPPER/tags/list"), Code::NameInvalid);
        assert_eq!(code("/v2/a/../b/tags/list"), Code::NameInvalid);
        assert_eq!(code("/v2/a/blobs/sha256:short"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/manifests/sha256:baddigeststring"), Code::DigestInvalid);
        assert_eq!(code("/v2/a/manifests/.bad"), Code::TagInvalid);
        assert_eq!(code("/v2/a/blobs/uploads/../../etc"), Code::NotFound);
        assert_eq!(code("/v2/a/blobs/uploads/..%2f..%2fetc"), Code::NotFound);
        assert_eq!(code("/v3/"), Code::NotFound);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("tag=a&digest=sha256%3Aab&tag=b+c&flag"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!((query.get("digest"), query.get("flag")), (Some("sha256:ab"), Some("")));
    }
}
