//! A token: `fnb_NAME_` and 64 hexadecimal digits. The name finds what is kept of it, the digits prove it.
//!
//! The digits are 256 random bits, so that a single SHA-256 is all the protection that their hash needs: there is
//! nothing to guess. The prefix lets people and scanners recognise one that lies about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::AuthError;

pub const PREFIX: &str = "fnb_";
const LENGTH: usize = 32;

/// A DNS label, as the names of functions are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(Box<str>);

/// Text that names no token.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no name of a token: up to 63 lower-case letters, digits and dashes, no dash at either end"
)]
pub struct InvalidTokenName {
    text: String,
}

impl TokenName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = InvalidTokenName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(legal)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTokenName { text: text.chars().take(80).collect() })
        }
    }
}

impl TryFrom<String> for TokenName {
    type Error = InvalidTokenName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The whole token, wiped when it is dropped. It has no `Display`, and its `Debug` shows the name alone.
pub struct Token {
    name: TokenName,
    text: Zeroizing<String>,
}

impl Token {
    pub fn generate(name: TokenName) -> Result<Self, AuthError> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        getrandom::fill(bytes.as_mut()).map_err(AuthError::Random)?;
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + name.0.len() + 1 + 2 * LENGTH));
        text.push_str(PREFIX);
        text.push_str(&name.0);
        text.push('_');
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
        for byte in *bytes {
            text.push(digit(byte >> 4));
            text.push(digit(byte & 15));
        }
        Ok(Self { name, text })
    }

    /// `None` for what cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digits) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let whole = digits.len() == 2 * LENGTH && digits.bytes().all(lower_hex);
        let name = name.parse().ok().filter(|_| whole)?;
        Some(Self { name, text: Zeroizing::new(text.into()) })
    }

    pub fn name(&self) -> &TokenName {
        &self.name
    }

    /// The secret itself: for whoever it is made for, and for nobody else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    pub fn hash(&self) -> TokenHash {
        TokenHash(
            Sha256::new()
                .chain_update(b"fnbuild token\0")
                .chain_update(self.text.as_bytes())
                .finalize()
                .into(),
        )
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What is kept of a token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// What no token has: for a name that is not there, so that looking takes the same steps.
    pub const NOBODY: Self = Self([0; 32]);

    /// Takes the same time wherever the two differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const EXPECTED: &str = "expected 64 hexadecimal digits";
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(EXPECTED);
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| EXPECTED)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| EXPECTED)?;
        }
        Ok(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_no_other_has_its_hash() {
        let token = Token::generate("ci-1".parse().unwrap()).unwrap();
        assert!(token.reveal().starts_with("fnb_ci-1_"));
        let again = Token::parse(token.reveal()).unwrap();
        assert_eq!(again.name().as_str(), "ci-1");
        assert!(again.hash().is(&token.hash()));
        assert!(!Token::generate("ci-1".parse().unwrap()).unwrap().hash().is(&token.hash()));
        let kept: String = token.hash().into();
        assert!(TokenHash::try_from(kept).unwrap().is(&token.hash()));
        assert!(!format!("{token:?}").contains(&token.reveal()[9..]), "{token:?}");
        // The digits under another name are another token.
        let moved = token.reveal().replace("ci-1", "ci-2");
        assert!(!Token::parse(&moved).unwrap().hash().is(&token.hash()));
    }

    #[test]
    fn what_cannot_be_a_token_is_not_looked_up() {
        let digits = "0".repeat(64);
        for text in [
            "".to_string(),
            digits.clone(),
            format!("fnb_{digits}"),
            format!("fnb__{digits}"),
            format!("fnb_A_{digits}"),
            format!("fnb_a_{digits}0"),
            format!("fnb_a_{}", "G".repeat(64)),
            format!("fnb_a_b_{digits}"),
        ] {
            assert!(Token::parse(&text).is_none(), "{text}");
        }
        assert!(TokenHash::try_from("+f".repeat(32)).is_err());
    }
}
