//! Where etcd is and how to be let in.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::store::StoreError;

const CONNECT: Duration = Duration::from_secs(1);
/// etcd closes connections that are pinged more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_ANSWER: Duration = Duration::from_secs(3);

/// The etcd that several nodes share.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `http://HOST:PORT` or `https://HOST:PORT`, at least one; the others are for when one dies.
    pub endpoints: Vec<String>,
    /// What all keys begin with, so that one etcd can hold more than one store: `/fnbuild/`.
    pub prefix: String,
    pub tls: EtcdTls,
    pub user: Option<EtcdUser>,
}

/// PEM files for `https` endpoints; the system's roots are trusted where no authority is given.
#[derive(Clone, Default, Debug)]
pub struct EtcdTls {
    pub authority: Option<PathBuf>,
    /// A certificate and its key, for an etcd that asks its clients for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's own.
#[derive(Clone)]
pub struct EtcdUser {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// These endpoints, without credentials, below the usual prefix.
    pub fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        Self {
            endpoints: endpoints.into_iter().collect(),
            prefix: "/fnbuild/".into(),
            tls: EtcdTls::default(),
            user: None,
        }
    }

    /// Reads the files that the options name.
    pub(super) fn connect_options(&self) -> Result<ConnectOptions, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING_EVERY, PING_ANSWER)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others must not go on serving a watch.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://")) {
            options = options.with_tls(self.tls.read()?);
        }
        if let Some(user) = &self.user {
            options = options.with_user(&user.name, &user.password);
        }
        Ok(options)
    }
}

impl EtcdTls {
    fn read(&self) -> Result<TlsOptions, StoreError> {
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|source| StoreError::Credentials { path: path.into(), source: source.into() })
        };
        let mut tls = TlsOptions::new();
        tls = match &self.authority {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(tls)
    }
}
