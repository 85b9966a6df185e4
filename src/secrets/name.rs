//! A secret's name: what Kubernetes takes too, and a safe file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// DNS labels joined by dots (RFC 1123), 253 characters at most: `api-key`, `db.password`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Box<str>);

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that names no secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no name of a secret: lower-case letters, digits, dashes and dots, with a letter or digit at both ends"
)]
pub struct InvalidSecretName {
    pub text: String,
}

impl FromStr for SecretName {
    type Err = InvalidSecretName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
                && !bytes.is_empty()
                && bytes.first() != Some(&b'-')
                && bytes.last() != Some(&b'-')
        };
        if text.len() <= 253 && text.split('.').all(label) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSecretName { text: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for SecretName {
    type Error = InvalidSecretName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names_and_nothing_else_is() {
        for name in ["a", "api-key", "db.password", "0", &"a".repeat(253)] {
            assert_eq!(name.parse::<SecretName>().unwrap().to_string(), name);
        }
        for name in
            ["", ".", "..", "a..b", ".a", "a.", "-a", "a-", "A", "a/b", "a b", "a_b", &"a".repeat(254)]
        {
            assert!(name.parse::<SecretName>().is_err(), "{name}");
        }
    }
}
