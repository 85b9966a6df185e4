//! What can go wrong with secrets. No variant holds a value or a key.

use std::path::PathBuf;

use super::SecretName;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("there is no secret {name}")]
    NotFound { name: SecretName },
    #[error("there is a secret {name} already")]
    Exists { name: SecretName },
    #[error("the value of the secret {name} has more than {} bytes", super::LARGEST_SECRET)]
    TooLarge { name: SecretName },
    #[error("the secrets are sealed with the key {theirs}, this node has {ours}")]
    OtherKey { ours: String, theirs: String },
    #[error("the sealed value of {name} is damaged, or was moved there from another name")]
    Damaged { name: SecretName },
    #[error("the sealed value of {name} has format {found}; this fnbuild reads format 1")]
    NewerFormat { name: SecretName, found: u8 },
    #[error("cannot {step} the secrets' key file {path}")]
    KeyFile {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the secrets' key file {path} can be read by others (mode {mode:03o})")]
    OpenKeyFile { path: PathBuf, mode: u32 },
    #[error("the secrets' key file {path} does not hold a key: 64 hexadecimal digits on one line")]
    NoKey { path: PathBuf },
    #[error("the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SecretError {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some("`fnbuild secret list` shows the names that are there".into()),
            Self::Exists { .. } => {
                Some("give it another value with `fnbuild secret create --replace`".into())
            }
            Self::TooLarge { .. } => {
                Some("secrets are for keys and passwords; put data into the image".into())
            }
            Self::OtherKey { .. } => Some(
                "copy the key file of a node that has the right one, and name it with --secret-key-file"
                    .into(),
            ),
            Self::OpenKeyFile { path, .. } => Some(format!("chmod 600 {}", path.display())),
            Self::NoKey { .. } => {
                Some("restore the key file from a backup: without it no secret can be read".into())
            }
            Self::Damaged { .. } => Some("delete the secret and create it again".into()),
            Self::NewerFormat { .. } => Some("run the newer fnbuild that wrote it".into()),
            Self::Store(error) => error.hint(),
            Self::KeyFile { .. } | Self::Random(_) => None,
        }
    }
}
