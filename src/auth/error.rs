//! What can go wrong with tokens. No variant holds one.

use std::path::PathBuf;

use super::TokenName;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("there is no token {name}")]
    NotFound { name: TokenName },
    #[error("there is a token {name} already")]
    Exists { name: TokenName },
    #[error("what is kept of the token {name} cannot be read")]
    Unreadable {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("what is kept of the token {name} has format {found}; this fnbuild reads format 1")]
    NewerFormat { name: String, found: u32 },
    #[error("cannot {step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} does not hold the admin's token", path.display())]
    NoToken { path: PathBuf },
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AuthError {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("`fnbuild token list` shows the names that are there".into()),
            Self::Exists { .. } => {
                Some("a token is never shown again: revoke it, or choose another name".into())
            }
            Self::Unreadable { name, .. } => Some(format!("fnbuild token revoke {name}, and make it again")),
            Self::NewerFormat { .. } => Some("run the newer fnbuild that wrote it".into()),
            Self::NoToken { .. } => Some("move that file away: another token is made".into()),
            Self::Store(error) => error.hint(),
            Self::File { .. } | Self::Random(_) => None,
        }
    }
}
