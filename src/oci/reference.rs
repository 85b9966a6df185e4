//! Where an image is: distribution-spec, "Pull", and the reference grammar that docker made usual.
//!
//! `localhost:5000/fn/add:latest`, `registry/fn/add@sha256:…`, `alpine`. A name without a registry means Docker Hub, as
//! everywhere else. Parsed before anything touches the network.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Digest;

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Text that is no reference, repository or tag, with the part of the grammar that it breaks.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {reason}")]
pub struct InvalidReference {
    what: &'static str,
    text: String,
    reason: &'static str,
}

impl InvalidReference {
    fn new(what: &'static str, text: &str, reason: &'static str) -> Self {
        Self { what, text: text.chars().take(300).collect(), reason }
    }
}

/// A repository's name within its registry: `fn/add`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(Box<str>);

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = InvalidReference;

    /// distribution-spec: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| Err(InvalidReference::new("repository name", text, reason));
        if text.is_empty() || text.len() > 255 {
            return refuse("it must have 1 to 255 characters");
        }
        if !text.split('/').all(is_path_component) {
            return refuse("parts are lower-case letters and digits, joined by one . _ __ or dashes");
        }
        Ok(Self(text.into()))
    }
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && part
            .split(|c: char| c.is_ascii() && alphanumeric(c as u8))
            .filter(|s| !s.is_empty())
            .all(|separator| matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn latest() -> Self {
        Self("latest".into())
    }
}

impl FromStr for Tag {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = (1..=128).contains(&bytes.len())
            && word(bytes[0])
            && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-');
        if !valid {
            let reason = "a tag has 1 to 128 letters, digits, _ . or -, and begins with none of the last two";
            return Err(InvalidReference::new("tag", text, reason));
        }
        Ok(Self(text.into()))
    }
}

/// A whole reference: registry, repository, and a tag or digest or both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    /// `HOST[:PORT]`.
    pub registry: String,
    pub repository: Repository,
    pub tag: Option<Tag>,
    /// Where both are given, the digest counts.
    pub digest: Option<Digest>,
}

impl Reference {
    pub fn by_digest(registry: &str, repository: &Repository, digest: &Digest) -> Self {
        Self {
            registry: registry.into(),
            repository: repository.clone(),
            tag: None,
            digest: Some(digest.clone()),
        }
    }

    pub fn by_tag(registry: &str, repository: &Repository, tag: &Tag) -> Self {
        Self {
            registry: registry.into(),
            repository: repository.clone(),
            tag: Some(tag.clone()),
            digest: None,
        }
    }

    /// What stands behind `/manifests/` in a request: the digest, else the tag, else `latest`.
    pub fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.as_str().into(),
            (None, None) => "latest".into(),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| InvalidReference::new("image reference", text, reason);
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| refuse("what follows the @ is no digest"))?))
            }
            None => (text, None),
        };
        // A colon after the last slash begins a tag; one before it is the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (rest, None),
        };
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        if !is_host(registry) {
            return Err(refuse("the part before the first / is no HOST[:PORT]"));
        }
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if official { format!("library/{path}").parse()? } else { path.parse()? };
        Ok(Self { registry: registry.into(), repository, tag, digest })
    }
}

/// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`. Loose about the name, strict about what could end up elsewhere in a URL.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address.parse::<std::net::Ipv6Addr>().is_ok(), None),
        Some((address, port)) => {
            (address.parse::<std::net::Ipv6Addr>().is_ok(), port.strip_prefix(':').or(Some("")))
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
            (!name.is_empty() && name.bytes().all(legal), port)
        }
    };
    host && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = InvalidReference;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
as_text!(Repository);
as_text!(Tag);
as_text!(Reference);

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let hex = "a".repeat(64);
        for (text, whole) in [
            ("alpine", "docker.io/library/alpine".to_string()),
            ("team/app:1.0", "docker.io/team/app:1.0".into()),
            ("localhost/app", "localhost/app".into()),
            ("localhost:5000/fn/add:latest", "localhost:5000/fn/add:latest".into()),
            ("[::1]:5000/fn/add", "[::1]:5000/fn/add".into()),
            (&format!("r.example/a/b__c@sha256:{hex}"), format!("r.example/a/b__c@sha256:{hex}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn what_could_climb_out_of_a_url_is_refused() {
        for text in [
            "",
            "a//b",
            "A/b",
            "localhost:5000/../x",
            "h:99999/x",
            "u@h/x",
            "h.x/a?b",
            "h.x/a:b c",
            "[::1/x",
            "a___b",
            "-a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
