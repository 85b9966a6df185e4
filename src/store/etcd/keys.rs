//! What the keys in etcd are called: `PREFIXfunctions/NAME`, `PREFIXvalues/KIND/KEY`, `PREFIXstore`.

use crate::function::FunctionName;
use crate::store::{StoreError, ValueKey};

/// What a key stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    Function(FunctionName),
    Value(ValueKey),
}

/// The two ranges of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    Functions,
    Values,
}

impl Range {
    /// Ends in a slash.
    pub fn prefix(self, prefix: &str) -> String {
        match self {
            Self::Functions => format!("{prefix}functions/"),
            Self::Values => format!("{prefix}values/"),
        }
    }
}

impl Slot {
    /// `None` for a key that is not ours.
    pub fn of(prefix: &str, key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?;
        let (range, rest) = key.split_once('/')?;
        match range {
            "functions" => rest.parse().ok().map(Self::Function),
            "values" => rest.parse().ok().map(Self::Value),
            _ => None,
        }
    }

    pub fn range(&self) -> Range {
        match self {
            Self::Function(_) => Range::Functions,
            Self::Value(_) => Range::Values,
        }
    }

    /// The key within its range: what the mirror's trees are keyed by.
    pub fn local(&self) -> &str {
        match self {
            Self::Function(name) => name.as_str(),
            Self::Value(key) => key.as_str(),
        }
    }

    pub fn key(&self, prefix: &str) -> String {
        self.range().prefix(prefix) + self.local()
    }

    pub fn conflict(&self) -> StoreError {
        match self {
            Self::Function(name) => StoreError::Conflict { name: name.clone() },
            Self::Value(key) => StoreError::ValueConflict { key: key.clone() },
        }
    }
}

/// The first key after all that begin with `prefix`, which ends in a slash.
pub fn end_of(prefix: &str) -> String {
    format!("{}0", prefix.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_their_slots_both_ways() {
        for key in ["/p/functions/add", "/p/values/secret/api-key"] {
            assert_eq!(Slot::of("/p/", key.as_bytes()).unwrap().key("/p/"), key);
        }
        for key in ["/p/store", "/p/functions/ADD", "/q/functions/add", "/p/values/secret"] {
            assert_eq!(Slot::of("/p/", key.as_bytes()), None, "{key}");
        }
        assert_eq!(end_of("/p/functions/"), "/p/functions0");
    }
}
