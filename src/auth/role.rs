//! What a token is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a token allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything, tokens included.
    Admin,
    /// Functions, their versions, settings and secrets; reading; calling.
    Deploy,
    /// Calling functions that need a token, and nothing else.
    Invoke,
    /// Looking, and nothing else: lists, logs, metrics.
    Read,
}

/// What a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    Read,
    Deploy,
    Admin,
    Invoke,
}

/// A word that is no role.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no role: expected admin, deploy, invoke or read")]
pub struct InvalidRole {
    text: String,
}

impl Role {
    pub fn allows(self, need: Need) -> bool {
        match self {
            Self::Admin => true,
            // Who says what a function does may call it too.
            Self::Deploy => matches!(need, Need::Deploy | Need::Read | Need::Invoke),
            Self::Invoke => need == Need::Invoke,
            Self::Read => need == Need::Read,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Deploy => "deploy",
            Self::Invoke => "invoke",
            Self::Read => "read",
        }
    }
}

impl Need {
    /// The smallest role that has it.
    pub fn role(self) -> Role {
        match self {
            Self::Read => Role::Read,
            Self::Deploy => Role::Deploy,
            Self::Admin => Role::Admin,
            Self::Invoke => Role::Invoke,
        }
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Admin, Self::Deploy, Self::Invoke, Self::Read];
        let found = all.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| InvalidRole { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_what_it_is_for_and_no_more() {
        use Need::{Admin, Deploy, Invoke, Read};
        for (role, allowed) in [
            ("admin", &[Read, Deploy, Admin, Invoke][..]),
            ("deploy", &[Read, Deploy, Invoke]),
            ("invoke", &[Invoke]),
            ("read", &[Read]),
        ] {
            let role: Role = role.parse().unwrap();
            for need in [Read, Deploy, Admin, Invoke] {
                assert_eq!(role.allows(need), allowed.contains(&need), "{role} {need:?}");
                assert!(need.role().allows(need));
            }
        }
        assert!("Admin".parse::<Role>().is_err() && "".parse::<Role>().is_err());
    }
}
