//! What can go wrong with the network.

use std::io;
use std::path::{Path, PathBuf};

use super::Subnet;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{verb} {}", path.display())]
    Files {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{what} for the network namespace {}", path.display())]
    Namespace {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: nix::Error,
    },
    #[error("the CNI plugins {} are not in {}", missing.join(", "), folder.display())]
    NoPlugins { missing: Vec<&'static str>, folder: PathBuf },
    #[error("start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed: {message}")]
    Command { program: String, message: String },
    #[error("{program} took longer than {seconds} s")]
    Slow { program: String, seconds: u64 },
    #[error("read what the network plugin {plugin} answered")]
    Answer {
        plugin: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the network plugin {plugin} gave no IPv4 address")]
    NoAddress { plugin: String },
    #[error("the subnet {subnet} is used by {by}")]
    Taken { subnet: Subnet, by: String },
    #[error("no free subnet between 10.60.0.0 and 10.79.255.255")]
    NoSubnet,
    #[error("the server is stopping")]
    Interrupted,
}

const PLUGINS_HINT: &str = "install them (apt install containernetworking-plugins), or name the folder that has them with --cni-plugins";

impl Error {
    pub(super) fn files(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Files { verb, path, source }
    }

    /// The next step, where there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoPlugins { .. } => Some(PLUGINS_HINT.into()),
            Self::Start { program, .. } if program.contains("cni") || program.ends_with("bridge") => {
                Some(PLUGINS_HINT.into())
            }
            Self::Start { program, .. } => {
                Some(format!("is {program} installed? (apt install iproute2 iptables)"))
            }
            Self::Taken { .. } | Self::NoSubnet => {
                Some("name a free one with --subnet, for example 10.90.4.0/22".into())
            }
            Self::Namespace { .. } => Some("fnbuild serve needs root to make network namespaces".into()),
            _ => None,
        }
    }
}
