//! Lets requests in: from what they bring to who it is, or why not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::failures::Failures;
use super::{AuthError, Credentials, Need, Role, Tokens};

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The token's name.
    pub name: String,
    pub role: Role,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// 401.
    #[error("a token is needed")]
    Missing,
    /// 401.
    #[error("the token is not known here: it is wrong, or was revoked")]
    Wrong,
    /// 403.
    #[error("the token {name} is for {role}; this takes one for {}", need.role())]
    TooSmall { name: String, role: Role, need: Need },
    /// 429.
    #[error("too many wrong tokens came from {peer}")]
    TooMany { peer: IpAddr, retry_after: Duration },
    /// 503.
    #[error("tokens cannot be checked")]
    Unchecked(#[source] AuthError),
}

impl Refused {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing => Some(
                "give --token or FNBUILD_TOKEN; `fnbuild token create` at the server's machine makes one"
                    .into(),
            ),
            Self::Wrong => Some("`fnbuild token list` shows the names that are known".into()),
            Self::TooSmall { need, .. } => {
                Some(format!("`fnbuild token create NAME --role {}` makes one", need.role()))
            }
            Self::TooMany { .. } => Some("wait, and correct the token meanwhile".into()),
            Self::Unchecked(error) => error.hint(),
        }
    }
}

/// Knows the tokens, and who has been wrong of late.
pub struct Door {
    tokens: Tokens,
    failures: Failures,
}

impl Door {
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, failures: Failures::default() }
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Who it is, if it may do what it takes.
    pub async fn admit(&self, brought: &Credentials, peer: IpAddr, need: Need) -> Result<Caller, Refused> {
        let token = match brought {
            Credentials::Nothing => return Err(Refused::Missing),
            Credentials::Unknown => None,
            Credentials::Token { token, .. } => Some(token),
        };
        if let Some(retry_after) = self.failures.wait(peer, Instant::now()) {
            return Err(Refused::TooMany { peer, retry_after });
        }
        let role = match token {
            Some(token) => self.tokens.check(token).await.map_err(Refused::Unchecked)?,
            None => None,
        };
        let (Some(token), Some(role)) = (token, role) else {
            self.failures.failed(peer, Instant::now());
            tracing::warn!(%peer, token = token.map_or("-", |token| token.name().as_str()), "a wrong token");
            return Err(Refused::Wrong);
        };
        let name = token.name().to_string();
        if role.allows(need) {
            Ok(Caller { name, role })
        } else {
            Err(Refused::TooSmall { name, role, need })
        }
    }
}
