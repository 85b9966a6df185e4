//! The tokens of a store: made, listed, revoked, checked.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::token::{Token, TokenHash};
use super::{AuthError, Role, TokenName};
use crate::store::{FunctionStore, StoreError, StoredValue, ValueKey};

const KIND: &str = "token";
const FORMAT: u32 = 1;
const PAGE: usize = 256;

/// What may be told of a token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    pub name: TokenName,
    pub role: Role,
    /// RFC 3339, UTC.
    pub created: String,
}

/// What the store has of a token, under its name.
#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    role: Role,
    sha256: TokenHash,
    created: String,
}

/// The tokens that a store's nodes share.
#[derive(Clone)]
pub struct Tokens {
    store: Arc<dyn FunctionStore>,
}

impl Tokens {
    pub fn new(store: Arc<dyn FunctionStore>) -> Self {
        Self { store }
    }

    pub(super) fn store(&self) -> &dyn FunctionStore {
        &*self.store
    }

    /// Makes a token: [`AuthError::Exists`] if there is one of this name.
    pub async fn create(&self, name: &TokenName, role: Role) -> Result<Token, AuthError> {
        let token = Token::generate(name.clone())?;
        self.enter(&token, role).await?;
        Ok(token)
    }

    /// Keeps the hash of a token that is made.
    pub(super) async fn enter(&self, token: &Token, role: Role) -> Result<(), AuthError> {
        let name = token.name();
        let kept = Kept { format: FORMAT, role, sha256: token.hash(), created: now() };
        let unwritable = |source| AuthError::Unreadable { name: name.to_string(), source };
        let bytes = serde_json::to_vec(&kept).map_err(unwritable)?;
        match self.store.swap_value(&at(name)?, None, Some(&bytes)).await {
            Err(StoreError::ValueConflict { .. }) => Err(AuthError::Exists { name: name.clone() }),
            written => Ok(written.map(drop)?),
        }
    }

    /// All of them, by name.
    pub async fn list(&self) -> Result<Vec<TokenInfo>, AuthError> {
        let (mut tokens, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.values(Some(KIND), after.as_ref(), PAGE).await?;
            for value in &page.values {
                let Kept { role, created, .. } = read(value)?;
                if let Ok(name) = value.key.key().parse() {
                    tokens.push(TokenInfo { name, role, created });
                }
            }
            after = page.values.into_iter().next_back().map(|value| value.key);
            if !page.more {
                return Ok(tokens);
            }
        }
    }

    /// From here on it opens nothing.
    pub async fn revoke(&self, name: &TokenName) -> Result<(), AuthError> {
        let key = at(name)?;
        loop {
            let found = self.store.value(&key).await?;
            let found = found.ok_or_else(|| AuthError::NotFound { name: name.clone() })?;
            match self.store.swap_value(&key, Some(found.revision), None).await {
                Err(StoreError::ValueConflict { .. }) => {}
                written => return Ok(written.map(drop)?),
            }
        }
    }

    /// Its role, if it is one of ours.
    pub async fn check(&self, token: &Token) -> Result<Option<Role>, AuthError> {
        let kept = self.store.value(&at(token.name())?).await?.as_ref().map(read).transpose()?;
        let hash = kept.as_ref().map_or(&TokenHash::NOBODY, |kept| &kept.sha256);
        let is_it = hash.is(&token.hash());
        Ok(kept.filter(|_| is_it).map(|kept| kept.role))
    }
}

fn read(value: &StoredValue) -> Result<Kept, AuthError> {
    let name = || value.key.key().to_string();
    let kept: Kept = serde_json::from_slice(&value.bytes)
        .map_err(|source| AuthError::Unreadable { name: name(), source })?;
    match kept.format {
        FORMAT => Ok(kept),
        found => Err(AuthError::NewerFormat { name: name(), found }),
    }
}

fn at(name: &TokenName) -> Result<ValueKey, StoreError> {
    ValueKey::new(KIND, name.as_str())
}

fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SledStore;

    fn tokens(folder: &std::path::Path) -> Tokens {
        let records = folder.join("records");
        SledStore::create(&records).unwrap();
        Tokens::new(Arc::new(SledStore::open(&records).unwrap()))
    }

    #[tokio::test]
    async fn a_token_opens_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = tokens(folder.path());
        let name: TokenName = "ci".parse().unwrap();
        let token = tokens.create(&name, Role::Deploy).await.unwrap();
        assert!(matches!(tokens.create(&name, Role::Read).await, Err(AuthError::Exists { .. })));
        assert_eq!(tokens.check(&token).await.unwrap(), Some(Role::Deploy));
        let other = Token::generate(name.clone()).unwrap();
        assert_eq!(tokens.check(&other).await.unwrap(), None);
        let listed = tokens.list().await.unwrap();
        assert_eq!((listed.len(), &listed[0].name, listed[0].role), (1, &name, Role::Deploy));

        // What is kept does not have the token in it.
        let kept = tokens.store.value(&at(&name).unwrap()).await.unwrap().unwrap().bytes;
        let digits = token.reveal().rsplit('_').next().unwrap();
        assert!(!String::from_utf8(kept).unwrap().contains(digits));

        tokens.revoke(&name).await.unwrap();
        assert_eq!(tokens.check(&token).await.unwrap(), None);
        assert!(matches!(tokens.revoke(&name).await, Err(AuthError::NotFound { .. })));
    }
}
