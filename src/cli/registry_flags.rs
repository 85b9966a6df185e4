//! The flags that say which registry, and how it may be talked to.

use std::path::PathBuf;

use crate::registry::{Access, Registry};

/// Where images are.
#[derive(clap::Args)]
pub struct RegistryArguments {
    /// The registry that images are pushed to
    #[arg(long, env = "FNBUILD_REGISTRY", default_value = "localhost:5000", value_name = "HOST[:PORT]")]
    pub registry: String,
    #[command(flatten)]
    pub access: AccessArguments,
}

/// What is allowed towards a registry.
#[derive(clap::Args)]
pub struct AccessArguments {
    /// Talk to the registry without TLS, although it is not on this machine
    #[arg(long, env = "FNBUILD_PLAIN_HTTP", conflicts_with_all = ["insecure", "registry_ca"])]
    plain_http: bool,
    /// Use TLS, and take any certificate
    #[arg(long, env = "FNBUILD_INSECURE")]
    insecure: bool,
    /// Trust the certificates in this PEM file too
    #[arg(long, env = "FNBUILD_REGISTRY_CA", value_name = "FILE")]
    registry_ca: Option<PathBuf>,
}

impl AccessArguments {
    pub fn access(&self) -> Access {
        Access {
            plain_http: self.plain_http,
            insecure: self.insecure,
            ca: self.registry_ca.clone(),
            ..Access::default()
        }
    }
}

impl RegistryArguments {
    pub fn open(&self) -> Result<Registry, crate::registry::Error> {
        Registry::new(&self.registry, self.access.access())
    }
}
