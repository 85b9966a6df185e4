//! Credentials as docker keeps them: `config.json` with `auths`, `credHelpers` and `credsStore`. Read through the
//! `docker_credential` crate; written here, for `fnbuild login` and `logout`.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde_json::{Map, Value, json};

use super::Error;
use super::auth::Secret;

/// Who we are to a registry.
#[derive(Clone, Debug)]
pub enum Login {
    Password {
        user: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, as some credential helpers keep it.
    Identity(Secret),
}

/// The key under which docker keeps Docker Hub's credentials.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The name of a registry in docker's configuration.
fn key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB } else { registry }
}

/// What docker's configuration holds for a registry. Runs a credential helper where one is configured.
pub(super) async fn find(registry: &str) -> Result<Option<Login>, Error> {
    // The crate does not tell a file that is not there from one that cannot be read.
    if config_file().is_none_or(|file| !file.exists()) {
        return Ok(None);
    }
    let name = key(registry).to_string();
    let found = tokio::task::spawn_blocking(move || docker_credential::get_credential(&name)).await;
    let fail = |problem| Error::Credentials { registry: registry.into(), problem };
    match found.map_err(|_| fail("looking for them broke off"))? {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            let password = Secret::new(password);
            // Docker's own convention for a token in a place made for passwords.
            Ok(Some(if user == "<token>" {
                Login::Identity(password)
            } else {
                Login::Password { user, password }
            }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::Identity(Secret::new(token)))),
        Err(CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound) => {
            Ok(None)
        }
        // A helper that knows nothing says so in words and fails; what it printed may be secret and is not repeated.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => {
            Ok(None)
        }
        Err(CredentialRetrievalError::HelperFailure { .. }) => Err(fail("the credential helper failed")),
        Err(CredentialRetrievalError::HelperCommunicationError) => {
            Err(fail("the credential helper could not be run"))
        }
        Err(CredentialRetrievalError::MalformedHelperResponse) => {
            Err(fail("the credential helper's answer cannot be read"))
        }
        Err(_) => Err(fail("config.json cannot be read")),
    }
}

/// Where docker keeps its configuration: `$DOCKER_CONFIG`, else `~/.docker`.
pub fn config_file() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    let dir = std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    dir.or_else(home).map(|dir| dir.join("config.json"))
}

/// Keeps a login: in the credential helper that the file names for this registry, else in the file itself.
pub fn store(file: &Path, registry: &str, user: &str, password: &Secret) -> Result<(), Error> {
    let mut config = read(file)?;
    if let Some(helper) = helper(&config, registry) {
        let login = json!({"ServerURL": key(registry), "Username": user, "Secret": password.reveal()});
        return run_helper(file, &helper, "store", login.to_string().as_bytes());
    }
    let auth = STANDARD.encode(format!("{user}:{}", password.reveal()));
    let auths = config.entry("auths").or_insert_with(|| json!({}));
    let auths = auths.as_object_mut().ok_or_else(|| malformed(file))?;
    auths.insert(key(registry).into(), json!({ "auth": auth }));
    write(file, &config)
}

/// Forgets a login. Gives back whether there was one.
pub fn forget(file: &Path, registry: &str) -> Result<bool, Error> {
    let mut config = read(file)?;
    if let Some(helper) = helper(&config, registry) {
        return run_helper(file, &helper, "erase", key(registry).as_bytes()).map(|()| true);
    }
    let auths = config.get_mut("auths").and_then(Value::as_object_mut);
    let known = auths.is_some_and(|auths| auths.remove(key(registry)).is_some());
    if known {
        write(file, &config)?;
    }
    Ok(known)
}

fn helper(config: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = config.get("credHelpers").and_then(|helpers| helpers.get(key(registry)));
    let name = own.or_else(|| config.get("credsStore"))?.as_str()?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_string())
}

fn run_helper(file: &Path, name: &str, verb: &'static str, input: &[u8]) -> Result<(), Error> {
    let program = format!("docker-credential-{name}");
    let fail =
        |source| Error::DockerConfig { step: "run the credential helper of", path: file.into(), source };
    let mut child = Command::new(program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(fail)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input));
    let status = child.wait().map_err(fail)?;
    written.map_err(fail)?;
    if status.success() { Ok(()) } else { Err(fail(io::Error::other(format!("{verb}: {status}")))) }
}

fn read(file: &Path) -> Result<Map<String, Value>, Error> {
    match std::fs::read(file) {
        Ok(bytes) if bytes.is_empty() => Ok(Map::new()),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| malformed(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
        Err(source) => Err(Error::DockerConfig { step: "read", path: file.into(), source }),
    }
}

fn malformed(file: &Path) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, "it is not docker's JSON");
    Error::DockerConfig { step: "read", path: file.into(), source }
}

/// Replaces the file in one step, readable by its owner alone. Everything in it that is not ours stays.
fn write(file: &Path, config: &Map<String, Value>) -> Result<(), Error> {
    let fail = |source| Error::DockerConfig { step: "write", path: file.into(), source };
    // Dotfiles are often links into a repository: the file behind is the one to replace.
    let file = &file.canonicalize().unwrap_or_else(|_| file.to_path_buf());
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    let bytes = serde_json::to_vec_pretty(config).map_err(|error| fail(error.into()))?;
    let new = file.with_extension(format!("json.{}", std::process::id()));
    let write = || {
        let mut out =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        out.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        std::fs::rename(&new, file)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&new);
        fail(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_kept_for_its_owner_alone_and_forgotten_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docker/config.json");
        store(&file, "r.example:5000", "ada", &Secret::new("hunter2")).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let theirs = docker_credential::get_credential_from_reader(
            std::fs::File::open(&file).unwrap(),
            "r.example:5000",
        );
        assert_eq!(theirs.unwrap(), DockerCredential::UsernamePassword("ada".into(), "hunter2".into()));
        assert!(forget(&file, "r.example:5000").unwrap());
        assert!(!forget(&file, "r.example:5000").unwrap());
    }

    #[test]
    fn what_else_is_in_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        std::fs::write(&file, r#"{"auths":{"other":{"auth":"eA=="}},"detachKeys":"ctrl-x"}"#).unwrap();
        store(&file, "docker.io", "ada", &Secret::new("p")).unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(config["detachKeys"], "ctrl-x");
        assert_eq!(config["auths"]["other"]["auth"], "eA==");
        assert!(config["auths"][DOCKER_HUB]["auth"].is_string());
    }
}
