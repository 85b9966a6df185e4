//! The first admin's token: made once for a store, and left in a file that only its owner reads.
//!
//! That one was made is written down beside the tokens, so that a revoked one does not come back with the next start.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::token::Token;
use super::tokens::Tokens;
use super::{AuthError, Role};
use crate::store::{StoreError, ValueKey};

const NAME: &str = "admin";

/// What there is of it at this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminToken {
    /// In this file, and it opens.
    In(PathBuf),
    /// Made at another node, or revoked.
    NotHere,
}

/// Makes the admin's token unless this store has had one.
pub async fn ensure_admin(tokens: &Tokens, path: &Path) -> Result<AdminToken, AuthError> {
    let marker = ValueKey::new("admin-token", "made")?;
    if tokens.store().value(&marker).await?.is_some() {
        let opens = match load(path)? {
            Some(token) => tokens.check(&token).await? == Some(Role::Admin),
            None => false,
        };
        return Ok(if opens { AdminToken::In(path.into()) } else { AdminToken::NotHere });
    }
    // The file comes first: a server that dies in between finds it, and nobody is left without a token.
    let token = match load(path)? {
        Some(token) => token,
        None => {
            let token = Token::generate(NAME.parse().map_err(|_| AuthError::NoToken { path: path.into() })?)?;
            save(path, &token)?;
            token
        }
    };
    match tokens.enter(&token, Role::Admin).await {
        Ok(()) => {}
        Err(AuthError::Exists { .. }) if tokens.check(&token).await?.is_some() => {}
        Err(AuthError::Exists { .. }) => {
            // Another node was faster: its token counts.
            let failed = |source| AuthError::File { step: "remove", path: path.into(), source };
            std::fs::remove_file(path).map_err(failed)?;
            return Ok(AdminToken::NotHere);
        }
        Err(error) => return Err(error),
    }
    match tokens.store().swap_value(&marker, None, Some(b"1")).await {
        Ok(_) | Err(StoreError::ValueConflict { .. }) => Ok(AdminToken::In(path.into())),
        Err(error) => Err(error.into()),
    }
}

fn load(path: &Path) -> Result<Option<Token>, AuthError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AuthError::File { step: "read", path: path.into(), source }),
    };
    let token = Token::parse(text.trim()).filter(|token| token.name().as_str() == NAME);
    token.map(Some).ok_or_else(|| AuthError::NoToken { path: path.into() })
}

/// Whole or not at all.
fn save(path: &Path, token: &Token) -> Result<(), AuthError> {
    let failed = |source| AuthError::File { step: "write", path: path.into(), source };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(failed)?;
    file.write_all(token.reveal().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use super::*;
    use crate::store::SledStore;

    #[tokio::test]
    async fn it_is_made_once_and_a_revoked_one_stays_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("records");
        SledStore::create(&records).unwrap();
        let tokens = Tokens::new(Arc::new(SledStore::open(&records).unwrap()));
        let (path, other) = (folder.path().join("admin.token"), folder.path().join("other.token"));

        let here = AdminToken::In(path.clone());
        assert_eq!(ensure_admin(&tokens, &path).await.unwrap(), here);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(ensure_admin(&tokens, &path).await.unwrap(), here);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(ensure_admin(&tokens, &other).await.unwrap(), AdminToken::NotHere, "a second node");
        assert!(!other.exists());

        tokens.revoke(&"admin".parse().unwrap()).await.unwrap();
        assert_eq!(ensure_admin(&tokens, &path).await.unwrap(), AdminToken::NotHere);
        assert!(tokens.list().await.unwrap().is_empty());
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(ensure_admin(&tokens, &path).await, Err(AuthError::NoToken { .. })));
    }
}
