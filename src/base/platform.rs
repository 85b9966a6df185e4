//! The names that one architecture has in Debian, in Go, in wheels and in this program.

use super::BaseError;
use crate::oci::Platform;

/// An architecture that bases are built for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Architecture {
    /// Debian's name, which is Go's too for these.
    pub debian: &'static str,
    /// The kernel's name, which is that of wheels.
    pub machine: &'static str,
}

const KNOWN: [Architecture; 2] = [
    Architecture { debian: "amd64", machine: "x86_64" },
    Architecture { debian: "arm64", machine: "aarch64" },
];

impl Architecture {
    /// From `linux/arm64`, or this machine's own.
    pub fn of(platform: Option<&str>) -> Result<Self, BaseError> {
        let wanted = |known: &&Self| match platform {
            Some(text) => text.strip_prefix("linux/") == Some(known.debian),
            None => known.is_native(),
        };
        let unknown = || BaseError::Platform(platform.unwrap_or(std::env::consts::ARCH).into());
        KNOWN.iter().find(wanted).copied().ok_or_else(unknown)
    }

    /// Whether this machine runs its programs.
    pub fn is_native(&self) -> bool {
        std::env::consts::ARCH == self.machine
    }

    pub fn platform(&self) -> Platform {
        let variant = (self.debian == "arm64").then(|| "v8".to_string());
        Platform { architecture: self.debian.into(), os: "linux".into(), variant }
    }
}
