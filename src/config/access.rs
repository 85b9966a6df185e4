//! Who may manage a server, and how its connections are sealed.

use std::path::PathBuf;
use std::str::FromStr;

use super::ConfigError;

// What `fnbuild serve` can be told of it.
#[derive(clap::Args, Clone, Debug)]
pub struct AccessArguments {
    /// Who may manage: auto (anybody on this machine through loopback, elsewhere whoever has a token), always (a token
    /// on loopback too), or local (loopback only, without a token)
    #[arg(long, env = "FNBUILD_AUTH", default_value = "auto", value_name = "MODE")]
    auth: AuthMode,
    /// Trust the pages that functions answer: let them share the origin of /ui and the API, and so do whatever whoever
    /// looks at them may
    #[arg(long, env = "FNBUILD_TRUST_PAGES")]
    trust_pages: bool,
    /// The certificate chain for TLS (PEM), taken up again when it changes. Loopback then takes plain HTTP too
    #[arg(long, env = "FNBUILD_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, env = "FNBUILD_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Who may manage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMode {
    /// Anybody on loopback; beyond it whoever has a token.
    Auto,
    /// Whoever has a token.
    Always,
    /// Anybody on loopback; beyond it nobody.
    Local,
}

impl FromStr for AuthMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "local" => Ok(Self::Local),
            _ => Err("expected auto, always or local".into()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct AccessConfig {
    pub auth: AuthMode,
    pub trust_pages: bool,
    pub tls: Option<TlsFiles>,
}

/// Both PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl AccessArguments {
    pub(super) fn check(self) -> Result<AccessConfig, ConfigError> {
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            _ => return Err(ConfigError::HalfTls),
        };
        Ok(AccessConfig { auth: self.auth, trust_pages: self.trust_pages, tls })
    }
}
