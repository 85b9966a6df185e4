//! Which Python function answers: `module:function`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `func:run`, `package.module:handler`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EntryPoint {
    /// Dotted, importable from the function's folder.
    pub module: String,
    pub function: String,
}

/// The function's name where none is given: `run`.
pub const DEFAULT_FUNCTION: &str = "run";

impl EntryPoint {
    /// `run` in a module of this name, if the name can be imported.
    pub fn of_module(module: &str) -> Result<Self, InvalidEntryPoint> {
        format!("{module}:{DEFAULT_FUNCTION}").parse()
    }
}

impl Default for EntryPoint {
    fn default() -> Self {
        Self { module: "func".into(), function: DEFAULT_FUNCTION.into() }
    }
}

/// Text that is no `module:function`.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no entry point: expected module:function, each a Python name (for example func:run)")]
pub struct InvalidEntryPoint {
    pub text: String,
}

impl FromStr for EntryPoint {
    type Err = InvalidEntryPoint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (module, function) = text.split_once(':')?;
            let valid = text.len() <= 255 && module.split('.').all(is_identifier) && is_identifier(function);
            valid.then(|| Self { module: module.into(), function: function.into() })
        };
        parse().ok_or_else(|| InvalidEntryPoint { text: text.chars().take(300).collect() })
    }
}

/// Close to Python's own rule; what differs (reserved words, rare scripts) the import itself reports.
fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
        && chars.all(|c| c == '_' || c.is_alphanumeric())
}

impl TryFrom<String> for EntryPoint {
    type Error = InvalidEntryPoint;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EntryPoint> for String {
    fn from(entry: EntryPoint) -> Self {
        entry.to_string()
    }
}

impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.module, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_points_are_two_python_names() {
        for text in ["func:run", "a.b._c:handler", "größe:run"] {
            assert_eq!(text.parse::<EntryPoint>().unwrap().to_string(), text);
        }
        for text in ["func", ":run", "func:", "a..b:run", "1a:run", "a-b:run", "func:run:x", "a/b:run"] {
            assert!(text.parse::<EntryPoint>().is_err(), "{text}");
        }
    }
}
