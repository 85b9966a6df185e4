//! A real docker-registry as a child process: on a free port, in a folder that goes with it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use super::faulty::Proxy;

pub const USER: &str = "ada";
pub const PASSWORD: &str = "correct horse";

/// Killed when dropped.
pub struct DockerRegistry {
    child: Mutex<Child>,
    pub address: SocketAddr,
    pub dir: TempDir,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.kill();
    }
}

impl DockerRegistry {
    /// Open to everybody, without TLS.
    pub fn start() -> Self {
        Self::configured(|_| String::new())
    }

    /// Behind basic authentication with [`USER`] and [`PASSWORD`].
    pub fn with_htpasswd() -> Self {
        Self::configured(|dir| {
            let file = dir.join("htpasswd");
            let line = output(Command::new("htpasswd").args(["-Bbn", USER, PASSWORD]));
            std::fs::write(&file, line).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        })
    }

    /// With TLS by a private CA; gives the CA's file too.
    pub fn with_tls() -> (Self, PathBuf) {
        let registry = Self::configured(|dir| {
            let (certificate, key) = certificate(dir, "registry");
            format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display())
        });
        let ca = registry.dir.path().join("ca.pem");
        (registry, ca)
    }

    /// Behind tokens that `server` grants.
    pub fn with_tokens(server: &TokenServer) -> Self {
        Self::configured(|_| {
            format!(
                "auth:\n  token:\n    realm: http://{}/token\n    service: test-registry\n    issuer: test-issuer\n    \
                 rootcertbundle: {}\n",
                server.address(),
                server.dir.path().join("token.pem").display()
            )
        })
    }

    /// Refuses to delete anything, as distribution does unless it is told otherwise.
    pub fn without_deletion() -> Self {
        Self::deleting(false, |_| String::new())
    }

    fn configured(more: impl Fn(&Path) -> String) -> Self {
        Self::deleting(true, more)
    }

    /// `more` follows the `http:` section, so that it may continue it.
    fn deleting(deletes: bool, more: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let extra = more(dir.path());
        // The port is free when it is chosen; should somebody take it before the registry does, another is chosen.
        for _ in 0..5 {
            let address = free_address();
            let config = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
                 rootdirectory: {}\n  delete:\n    enabled: {deletes}\n  maintenance:\n    uploadpurging:\n      enabled: \
                 false\nhttp:\n  addr: {address}\n{extra}",
                dir.path().join("data").display()
            );
            let file = dir.path().join("config.yml");
            std::fs::write(&file, config).unwrap();
            let mut child = serving(dir.path());
            if listens(&mut child, address) {
                return Self { child: Mutex::new(child), address, dir };
            }
        }
        panic!(
            "docker-registry does not start: {}",
            std::fs::read_to_string(dir.path().join("log")).unwrap()
        );
    }

    /// `kill -9`; what it holds stays on the disk.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts it again on the same port, with what it had.
    pub fn start_again(&self) {
        let mut child = serving(self.dir.path());
        assert!(listens(&mut child, self.address), "somebody took the registry's port");
        *self.child.lock().unwrap() = child;
    }

    /// What it answers to a question for a manifest.
    pub fn status_of(&self, repository: &str, reference: &str) -> String {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.host());
        // Without it, docker-registry denies what it has.
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let code = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", accept, &url];
        String::from_utf8(output(Command::new("curl").args(code))).unwrap()
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

/// docker-registry with the configuration in this folder.
fn serving(folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(folder.join("config.yml")).stdin(Stdio::null());
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
    child.expect("docker-registry is installed")
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

/// Waits until the child listens; `false` where it ended instead.
fn listens(child: &mut Child, address: SocketAddr) -> bool {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A CA (`ca.pem`) and a certificate by it for `localhost` and 127.0.0.1, in `dir`.
pub fn certificate(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    let path = |file: &str| dir.join(file);
    let openssl = |arguments: &[&str]| output(Command::new("openssl").args(arguments).current_dir(dir));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-subj", "/CN=test CA", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&ca[..], &key[..]].concat());
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "leaf.key", "-out", "leaf.csr"];
    openssl(&[&request[..], &key[..]].concat());
    std::fs::write(path("leaf.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let certificate = format!("{name}.pem");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "leaf.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "leaf.ext",
        "-out",
        &certificate,
    ]);
    (path(&certificate), path("leaf.key"))
}

/// Grants tokens that docker-registry takes: signed, with the certificate in the header. Wants [`USER`]'s password
/// for every one of them.
pub struct TokenServer {
    dir: TempDir,
    proxy: Proxy,
}

impl TokenServer {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        output(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"])
                .args(["-keyout", "token.key", "-out", "token.pem"])
                .current_dir(dir.path()),
        );
        let folder = dir.path().to_path_buf();
        let proxy = Proxy::answering(move |request| {
            let expected = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
            if request.authorization.as_deref() != Some(expected.as_str()) {
                return (401, "{}".to_string());
            }
            let url: url::Url = format!("http://h{}", request.path).parse().unwrap();
            let scopes: Vec<_> = url
                .query_pairs()
                .filter(|(key, _)| key == "scope")
                .map(|(_, scope)| scope.into_owned())
                .collect();
            (200, json!({ "token": token(&folder, &scopes), "expires_in": 300 }).to_string())
        })
        .await;
        Self { dir, proxy }
    }

    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// How often it was asked.
    pub fn grants(&self) -> usize {
        self.proxy.seen().len()
    }
}

/// A JSON Web Token by distribution's "Token Authentication Implementation".
fn token(dir: &Path, scopes: &[String]) -> String {
    let der = output(
        Command::new("openssl").args(["x509", "-in", "token.pem", "-outform", "DER"]).current_dir(dir),
    );
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(der)] });
    let access: Vec<_> = scopes
        .iter()
        .flat_map(|scope| scope.split(' '))
        .filter_map(|scope| {
            let (rest, actions) = scope.rsplit_once(':')?;
            let (kind, name) = rest.split_once(':')?;
            Some(json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() }))
        })
        .collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "test-issuer", "sub": USER, "aud": "test-registry", "jti": "1", "access": access,
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
    });
    let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let input = tempfile::NamedTempFile::new_in(dir).unwrap();
    std::fs::write(input.path(), &signed).unwrap();
    let sign = ["dgst", "-sha256", "-sign", "token.key"];
    let signature = output(Command::new("openssl").args(sign).arg(input.path()).current_dir(dir));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
