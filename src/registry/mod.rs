//! The wire client of a registry: distribution-spec 1.1, over kept-alive HTTP/1.1 connections.
//!
//! Not `oci-client`: its `push` never asks what is there and uploads every layer again, `push_manifest` serialises anew
//! and so changes the digest, a refused mount is an error and leaks the upload, nothing is retried, a bad `Location`
//! panics, and the digests that a manifest PUT reports as missing cannot be told from any other failure. An optimistic
//! push rests on each of these. What is left of it (its error envelope has a closed list of codes, its authentication
//! drops failures) did not carry a dependency. So this is written on hyper, and what is not about registries is left
//! to crates: `url`, `http-auth`, `docker_credential`, `rustls`.
//!
//! Nothing here knows how an image is put together; [`crate::publish`] decides what is sent, and in which order.

mod access;
mod auth;
mod body;
mod connect;
pub mod credentials;
mod error;
pub mod location;
mod manifest;
mod pull;
mod push;
mod referrers;
mod remembered;
mod transport;

use http::{Method, StatusCode};
use url::Url;

pub use access::{Access, Patience, host};
pub use auth::Secret;
pub use body::{Chunks, Content, InMemory};
pub use credentials::Login;
pub use error::Error;
pub use manifest::{MAX_MANIFEST, Manifest, ManifestKind, Name};
pub use pull::{Download, PulledImage};
pub use push::{Mount, Upload};
pub use remembered::Remembered;

use crate::oci::Repository;
use auth::{Auth, Scope};
use transport::{Call, Transport};

const DIGEST_HEADER: &str = "docker-content-digest";

/// One registry. Cheap to make: nothing is looked up, read or connected before the first request.
pub struct Registry {
    host: String,
    root: Url,
    access: Access,
    transport: Transport,
}

impl Registry {
    /// A registry by its `HOST[:PORT]`, with the credentials that docker's configuration holds for it.
    pub fn new(host: &str, access: Access) -> Result<Self, Error> {
        Self::with(host, access, None)
    }

    /// A registry with credentials that are given, not looked up.
    pub fn with_login(host: &str, access: Access, login: Login) -> Result<Self, Error> {
        Self::with(host, access, Some(login))
    }

    fn with(host: &str, access: Access, login: Option<Login>) -> Result<Self, Error> {
        let root = access::root(host, &access)?;
        let auth = Auth::new(host.into(), root.clone(), login);
        let transport = Transport::new(&access, auth, root.clone());
        Ok(Self { host: host.into(), root, access, transport })
    }

    /// `HOST[:PORT]`, as it was given: what stands in a reference.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is a registry and takes our credentials: distribution-spec, "Determining Support".
    pub async fn check(&self) -> Result<(), Error> {
        let url = self.root.join("v2/").map_err(|_| Error::InvalidHost { host: self.host.clone() })?;
        let scope = Scope::none();
        let mut answer = self.transport.send(|| Call::new(Method::GET, url.clone(), &scope)).await?;
        match answer.status() {
            StatusCode::OK => {
                answer.drain().await;
                Ok(())
            }
            status => Err(push::unexpected(answer, status, "200 OK").await),
        }
    }

    fn transport(&self) -> &Transport {
        &self.transport
    }

    fn patience(&self) -> &Patience {
        &self.access.patience
    }

    /// `/v2/REPOSITORY/WHAT/NAME`.
    fn url(&self, repository: &Repository, what: &str, name: &str) -> Result<Url, Error> {
        let path = format!("v2/{repository}/{what}/{name}");
        self.root.join(&path).map_err(|_| Error::InvalidHost { host: self.host.clone() })
    }

    fn not_found(&self, repository: &Repository, what: String) -> Error {
        Error::NotFound { registry: self.host.clone(), repository: repository.to_string(), what }
    }
}
