//! A function's name: a DNS label, so that it can be a host name, a path segment and a repository.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::oci::Repository;

/// A validated name: `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Box<str>);

impl FunctionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that a file's or folder's stem suggests: lower case, `_` as `-`.
    pub fn from_stem(stem: &str) -> Result<Self, InvalidName> {
        stem.to_lowercase().replace('_', "-").parse()
    }

    /// Where the function's images are kept: `fn/NAME`.
    pub fn repository(&self) -> Repository {
        let text = format!("fn/{self}");
        // A DNS label may have a run of dashes and so may a repository's part: every name fits.
        text.parse().unwrap_or_else(|_| unreachable!("fn/ and a DNS label are a repository name"))
    }
}

/// Text that is no DNS label.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no function name: 1 to 63 lower-case letters, digits and dashes, with no dash at either end"
)]
pub struct InvalidName {
    pub text: String,
}

impl FromStr for FunctionName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let valid = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            && bytes.first() != Some(&b'-')
            && bytes.last() != Some(&b'-');
        if valid { Ok(Self(text.into())) } else { Err(InvalidName { text: text.chars().take(80).collect() }) }
    }
}

impl TryFrom<String> for FunctionName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels_are_names_and_nothing_else_is() {
        for name in ["a", "add", "my-function", "a--b", "0", &"a".repeat(63)] {
            assert_eq!(name.parse::<FunctionName>().unwrap().repository().as_str(), format!("fn/{name}"));
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "é", "..", &"a".repeat(64)] {
            assert!(name.parse::<FunctionName>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_stem_becomes_a_name_where_it_can() {
        assert_eq!(FunctionName::from_stem("My_Func").unwrap().as_str(), "my-func");
        assert!(FunctionName::from_stem("my func").is_err());
    }
}
