//! What a call is for: a function, or one version of it: `add`, `add@3`.

use std::fmt;
use std::str::FromStr;

use super::{FunctionName, InvalidName, VersionNumber};

/// A function as calls name it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    pub name: FunctionName,
    /// `None`: the current one.
    pub version: Option<VersionNumber>,
}

impl FromStr for Target {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, version)) = text.split_once('@') else {
            return Ok(Self { name: text.parse()?, version: None });
        };
        // Only the form that Display writes: one version, one URL.
        let canonical = |number: &VersionNumber| *number > 0 && number.to_string() == version;
        let version = version.parse().ok().filter(canonical);
        let version = version.ok_or_else(|| InvalidName { text: text.chars().take(80).collect() })?;
        Ok(Self { name: name.parse()?, version: Some(version) })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_perhaps_a_version() {
        for text in ["add", "add@1", "add@18446744073709551615"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "@1", "add@", "add@0", "add@01", "add@+1", "add@x", "add@1@2", "Add@1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
