//! The flags that say which registry, and how it may be talked to.

use std::path::{Path, PathBuf};

use super::Printer;
use crate::registry::{Access, Registry, Remembered, host};

// Where images are.
#[derive(clap::Args)]
pub struct RegistryArguments {
    /// The registry that images are pushed to
    #[arg(
        long,
        env = "FNBUILD_REGISTRY",
        default_value = "localhost:5000",
        value_parser = host,
        value_name = "HOST[:PORT]"
    )]
    pub registry: String,
    #[command(flatten)]
    pub access: AccessArguments,
}

// What is allowed towards a registry.
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
    /// What is said here, else what was said of this registry before.
    pub fn access(&self, host: &str, data: &Path) -> Access {
        Remembered::new(data).access(host, self.said())
    }

    /// After a success: what was said need not be said again.
    pub fn remember(&self, host: &str, data: &Path, printer: &Printer) {
        match Remembered::new(data).keep(host, &self.said()) {
            Ok(true) => printer.status(format!(
                "remembered how to talk to {host} ({}); `fnbuild logout {host}` forgets it",
                self.flags()
            )),
            Ok(false) => {}
            Err(error) => printer.warning(format!("cannot remember how to talk to {host}: {error}")),
        }
    }

    fn said(&self) -> Access {
        Access {
            plain_http: self.plain_http,
            insecure: self.insecure,
            ca: self.registry_ca.clone(),
            ..Access::default()
        }
    }

    fn flags(&self) -> String {
        let flags = [
            ("--plain-http", self.plain_http),
            ("--insecure", self.insecure),
            ("--registry-ca", self.registry_ca.is_some()),
        ];
        flags.iter().filter(|(_, said)| *said).map(|(flag, _)| *flag).collect::<Vec<_>>().join(", ")
    }
}

impl RegistryArguments {
    /// `data` is the data folder.
    pub fn open(&self, data: &Path) -> Result<Registry, crate::registry::Error> {
        Registry::new(&self.registry, self.access.access(&self.registry, data))
    }

    pub fn remember(&self, data: &Path, printer: &Printer) {
        self.access.remember(&self.registry, data, printer);
    }
}
