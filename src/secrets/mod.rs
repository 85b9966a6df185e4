//! Secrets: values at rest, sealed with a key that is never in the store.
//!
//! - A value leaves this room only for a replica that names it; it has no `Display`, and its `Debug` is a word.
//! - A sealed value is bound to its name: it cannot be put in the place of another.
//! - The store knows the key's ID. A node with another key notices, says so, and writes nothing.

mod error;
mod key;
mod name;
mod seal;

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::store::{FunctionStore, LARGEST_VALUE, Revision, StoreError, ValueKey};

pub use error::SecretError;
pub use key::{KeyId, SecretKey};
pub use name::{InvalidSecretName, SecretName};

/// The largest value: what the store takes, less what sealing adds.
pub const LARGEST_SECRET: usize = LARGEST_VALUE - 1024;

const KIND: &str = "secret";
const KEY_KIND: &str = "secret-key";
const PAGE: usize = 256;

/// An opened value; wiped when it is dropped.
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretValue")
    }
}

/// The secrets of a store, as a node with its key sees them.
pub struct Secrets {
    store: Arc<dyn FunctionStore>,
    key: SecretKey,
}

impl Secrets {
    pub fn new(store: Arc<dyn FunctionStore>, key: SecretKey) -> Self {
        Self { store, key }
    }

    /// That the store's secrets are sealed with this node's key; the first node to ask says whose they are.
    pub async fn check(&self) -> Result<(), SecretError> {
        let at = ValueKey::new(KEY_KIND, "id")?;
        let ours = self.key.id();
        loop {
            let found = match self.store.value(&at).await? {
                Some(found) => found.bytes,
                None => match self.store.swap_value(&at, None, Some(ours.as_str().as_bytes())).await {
                    Err(StoreError::ValueConflict { .. }) => continue,
                    written => return written.map(drop).map_err(SecretError::from),
                },
            };
            let theirs = String::from_utf8_lossy(&found).into_owned();
            let same = theirs == ours.as_str();
            return if same { Ok(()) } else { Err(SecretError::OtherKey { ours: ours.to_string(), theirs }) };
        }
    }

    /// All names, in order.
    pub async fn list(&self) -> Result<Vec<SecretName>, SecretError> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.values(Some(KIND), after.as_ref(), PAGE).await?;
            names.extend(page.values.iter().filter_map(|value| value.key.key().parse::<SecretName>().ok()));
            after = page.values.into_iter().next_back().map(|value| value.key);
            if !page.more {
                return Ok(names);
            }
        }
    }

    /// Adds a secret: [`SecretError::Exists`] if there is one of this name.
    pub async fn create(&self, name: &SecretName, value: &[u8]) -> Result<(), SecretError> {
        self.check().await?;
        let sealed = self.seal(name, value)?;
        match self.store.swap_value(&at(name)?, None, Some(&sealed)).await {
            Err(StoreError::ValueConflict { .. }) => Err(SecretError::Exists { name: name.clone() }),
            written => Ok(written.map(drop)?),
        }
    }

    /// Gives a secret another value: [`SecretError::NotFound`] if there is none of this name. Replicas that start from
    /// here on are given it.
    pub async fn replace(&self, name: &SecretName, value: &[u8]) -> Result<(), SecretError> {
        self.check().await?;
        let sealed = self.seal(name, value)?;
        self.swap(name, Some(&sealed)).await
    }

    pub async fn delete(&self, name: &SecretName) -> Result<(), SecretError> {
        self.swap(name, None).await
    }

    /// The value, for a replica.
    pub async fn open(&self, name: &SecretName) -> Result<SecretValue, SecretError> {
        let found = self.store.value(&at(name)?).await?;
        let found = found.ok_or_else(|| SecretError::NotFound { name: name.clone() })?;
        Ok(SecretValue(seal::open(&self.key, name, &found.bytes)?))
    }

    fn seal(&self, name: &SecretName, value: &[u8]) -> Result<Vec<u8>, SecretError> {
        if value.len() > LARGEST_SECRET {
            return Err(SecretError::TooLarge { name: name.clone() });
        }
        seal::seal(&self.key, name, value)
    }

    /// The last one to say something wins, as with a file.
    async fn swap(&self, name: &SecretName, sealed: Option<&[u8]>) -> Result<(), SecretError> {
        let key = at(name)?;
        loop {
            let found = self.store.value(&key).await?.map(|found| found.revision);
            let Some(revision) = found else { return Err(SecretError::NotFound { name: name.clone() }) };
            match self.store.swap_value(&key, Some(revision), sealed).await {
                Err(StoreError::ValueConflict { .. }) => {}
                written => return Ok(written.map(|Revision(_)| ())?),
            }
        }
    }
}

fn at(name: &SecretName) -> Result<ValueKey, StoreError> {
    ValueKey::new(KIND, name.as_str())
}
