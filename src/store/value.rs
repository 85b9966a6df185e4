//! Small opaque values that live beside the records: a key, and bytes that only their own room understands.

use std::fmt;
use std::str::FromStr;

use super::{Revision, StoreError};

/// The largest value that every store takes: etcd refuses a request above 1.5 MiB.
pub const LARGEST_VALUE: usize = 1 << 20;

/// The kinds that speak of processes which run now: no part of an export.
const OF_NOW: [&str; 3] = ["node", "cluster", super::COMING];

/// `KIND/KEY`: the kind says which room a value belongs to, the key which of its values it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ValueKey(Box<str>);

impl ValueKey {
    /// A kind is a word of lower-case letters and dashes; a key is up to 512 visible ASCII characters.
    pub fn new(kind: &str, key: &str) -> Result<Self, StoreError> {
        let valid_kind = (1..=63).contains(&kind.len())
            && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let valid_key = (1..=512).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        let text = format!("{kind}/{key}");
        if valid_kind && valid_key { Ok(Self(text.into())) } else { Err(StoreError::InvalidKey { text }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> &str {
        self.0.split_once('/').map_or("", |(kind, _)| kind)
    }

    /// Whether it means nothing once the processes are gone that wrote it.
    pub fn is_of_now(&self) -> bool {
        OF_NOW.contains(&self.kind())
    }

    /// What follows the kind.
    pub fn key(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, key)| key)
    }
}

impl FromStr for ValueKey {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, key) = text.split_once('/').ok_or_else(|| StoreError::InvalidKey { text: text.into() })?;
        Self::new(kind, key)
    }
}

impl fmt::Display for ValueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value and the revision that it was written with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredValue {
    pub key: ValueKey,
    pub revision: Revision,
    pub bytes: Vec<u8>,
}

/// A stretch of the values of one kind, in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValuePage {
    pub values: Vec<StoredValue>,
    /// Whether there are more after the last of these.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_a_kind_and_a_key() {
        let key = ValueKey::new("secret", "api/key.1").unwrap();
        assert_eq!((key.as_str(), key.key()), ("secret/api/key.1", "api/key.1"));
        assert_eq!(key.as_str().parse::<ValueKey>().unwrap(), key);
        for (kind, key) in [("", "a"), ("Secret", "a"), ("se/cret", "a"), ("secret", ""), ("secret", "a b")] {
            assert!(ValueKey::new(kind, key).is_err(), "{kind}/{key}");
        }
    }
}
