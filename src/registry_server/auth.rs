//! Who may come in: HTTP Basic against an htpasswd file with bcrypt entries, as docker-registry has it.
//!
//! The file is read again when it changes. A password that was right is remembered by a keyed hash, because bcrypt is
//! slow on purpose and a push makes many requests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine;
use http::header::{self, HeaderMap};

use super::ServerError;
use super::answer::{Code, Problem};
use crate::oci::Digest;

/// Right passwords remembered; more than there are users of a small registry.
const REMEMBERED: usize = 1024;

pub struct Auth {
    file: PathBuf,
    key: [u8; 32],
    state: Mutex<State>,
}

struct State {
    changed: Option<SystemTime>,
    users: Arc<HashMap<String, String>>,
    right: HashMap<Digest, String>,
}

impl Auth {
    pub fn open(file: &Path) -> Result<Self, ServerError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|source| ServerError::Random { source })?;
        let users = Arc::new(read(file)?);
        let state = Mutex::new(State { changed: changed(file), users, right: HashMap::new() });
        Ok(Self { file: file.into(), key, state })
    }

    /// The user's name, or what to tell somebody who has none.
    pub async fn check(&self, headers: &HeaderMap) -> Result<String, Problem> {
        let refused = |message: &str| {
            Problem::new(Code::Unauthorized, message)
                .with(header::WWW_AUTHENTICATE, "Basic realm=\"fnbuild registry\"")
        };
        let (user, password) = credentials(headers).ok_or_else(|| refused("log in first"))?;
        let mark = self.mark(&user, &password);
        let users = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.refresh(&mut state);
            if state.right.get(&mark).is_some_and(|known| *known == user) {
                return Ok(user);
            }
            state.users.clone()
        };
        let Some(hash) = users.get(&user).cloned() else { return Err(refused("wrong user or password")) };
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        if !matches!(verified, Ok(Ok(true))) {
            return Err(refused("wrong user or password"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Not if the file changed while this was being worked out.
        if Arc::ptr_eq(&state.users, &users) {
            if state.right.len() >= REMEMBERED {
                state.right.clear();
            }
            state.right.insert(mark, user.clone());
        }
        Ok(user)
    }

    /// Stands for the pair without giving it away.
    fn mark(&self, user: &str, password: &str) -> Digest {
        let mut hasher = crate::oci::Hasher::sha256();
        for part in [&self.key[..], user.as_bytes(), &[0], password.as_bytes(), &self.key[..]] {
            hasher.update(part);
        }
        hasher.finish()
    }

    fn refresh(&self, state: &mut State) {
        let changed = changed(&self.file);
        if changed == state.changed {
            return;
        }
        match read(&self.file) {
            Ok(users) => {
                state.users = Arc::new(users);
                state.right.clear();
                state.changed = changed;
            }
            // As it is while an editor replaces it: the users that were known stay.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the htpasswd file"),
        }
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

fn read(file: &Path) -> Result<HashMap<String, String>, ServerError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| ServerError::Htpasswd { path: file.into(), source })?;
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = line.split_once(':').filter(|(user, hash)| !user.is_empty() && hash.starts_with("$2"));
        let (user, hash) =
            entry.ok_or_else(|| ServerError::HtpasswdLine { path: file.into(), line: number + 1 })?;
        users.insert(user.into(), hash.into());
    }
    Ok(users)
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(user: &str, password: &str) -> HeaderMap {
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Basic {encoded}").parse().unwrap())])
    }

    #[tokio::test]
    async fn only_the_right_password_comes_in_and_changes_count_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("htpasswd");
        let entry = |password| format!("ann:{}\n", bcrypt::hash(password, 4).unwrap());
        std::fs::write(&file, entry("one")).unwrap();
        let auth = Auth::open(&file).unwrap();
        for _ in 0..2 {
            assert_eq!(auth.check(&with("ann", "one")).await.unwrap(), "ann");
            assert_eq!(auth.check(&with("ann", "two")).await.unwrap_err().code, Code::Unauthorized);
            assert_eq!(auth.check(&with("bob", "one")).await.unwrap_err().code, Code::Unauthorized);
            assert_eq!(auth.check(&HeaderMap::new()).await.unwrap_err().code, Code::Unauthorized);
        }
        std::fs::write(&file, entry("two")).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert_eq!(auth.check(&with("ann", "one")).await.unwrap_err().code, Code::Unauthorized);
        assert_eq!(auth.check(&with("ann", "two")).await.unwrap(), "ann");
    }

    #[test]
    fn an_entry_that_is_not_bcrypt_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("htpasswd");
        std::fs::write(&file, "# users\nann:{SHA}abc\n").unwrap();
        assert!(matches!(read(&file), Err(ServerError::HtpasswdLine { line: 2, .. })));
    }
}
