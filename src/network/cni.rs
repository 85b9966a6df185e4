//! The caller's side of CNI 1.0: plugins are programs that take their configuration on stdin and the rest in their
//! environment, and answer with JSON on stdout.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use super::command::run;
use super::{Error, Subnet, bridge};

const VERSION: &str = "1.0.0";

/// The interface's name inside.
const INTERFACE: &str = "eth0";

/// The programs that are called, the last by the one before it.
const PROGRAMS: [&str; 3] = ["loopback", "bridge", "host-local"];

/// That all of them are in the folder: said at the start, not with the first call.
pub(super) fn check(folder: &Path) -> Result<(), Error> {
    let missing = PROGRAMS.into_iter().filter(|program| !folder.join(program).is_file());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::NoPlugins { missing, folder: folder.into() }) }
}

/// The plugins and what they are told.
#[derive(Debug)]
pub(super) struct Plugins {
    folder: PathBuf,
    bridge: Value,
    loopback: Value,
    /// One file for each leased address, named after it, the container's ID in its first line (host-local's format).
    leases: PathBuf,
}

/// What an ADD made.
pub(super) struct Added {
    pub address: Ipv4Addr,
    /// The bridge's end of the pair.
    pub host_interface: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

impl Plugins {
    pub fn new(folder: PathBuf, bridge: &str, subnet: Subnet, ipam: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(ipam).map_err(Error::files("create", ipam))?;
        let mut configuration = json!({
            "cniVersion": VERSION,
            "name": bridge,
            "type": "bridge",
            "bridge": bridge,
            // Address, forwarding and masquerading are ours: see `bridge` and `firewall`.
            "isGateway": false,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": ipam,
                "ranges": [[{ "subnet": subnet.to_string(), "gateway": subnet.gateway() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        if let Some(mtu) = bridge::outer_mtu() {
            configuration["mtu"] = mtu.into();
        }
        let loopback = json!({ "cniVersion": VERSION, "name": bridge, "type": "loopback" });
        Ok(Self { folder, bridge: configuration, loopback, leases: ipam.join(bridge) })
    }

    pub async fn loopback(&self, container: &str, netns: &Path) -> Result<(), Error> {
        self.call("ADD", &self.loopback, (container, "lo"), netns).await.map(drop)
    }

    pub async fn add(&self, container: &str, netns: &Path) -> Result<Added, Error> {
        let bytes = self.call("ADD", &self.bridge, (container, INTERFACE), netns).await?;
        let plugin = || "bridge".to_string();
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|source| Error::Answer { plugin: plugin(), source })?;
        let address = answer.ips.iter().find_map(|ip| ip.address.split('/').next()?.parse().ok());
        let bridge = self.bridge["bridge"].as_str().unwrap_or_default();
        let host = answer.interfaces.iter().find(|i| i.sandbox.is_empty() && i.name != bridge);
        match (address, host) {
            (Some(address), Some(host)) => Ok(Added { address, host_interface: host.name.clone() }),
            _ => Err(Error::NoAddress { plugin: plugin() }),
        }
    }

    /// Succeeds for what is gone, as CNI demands of plugins: told of no namespace, they give back the rest.
    pub async fn del(&self, container: &str, netns: Option<&PathBuf>) -> Result<(), Error> {
        let netns = netns.map_or(Path::new(""), PathBuf::as_path);
        self.call("DEL", &self.bridge, (container, INTERFACE), netns).await.map(drop)
    }

    /// The containers that hold an address.
    pub fn leased(&self) -> Result<BTreeSet<String>, Error> {
        let entries = match std::fs::read_dir(&self.leases) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(Error::files("list", &self.leases)(error)),
        };
        let addresses = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<Ipv4Addr>().is_ok()));
        let holders = addresses.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        Ok(holders.filter_map(|text| text.lines().next().map(|id| id.trim().to_string())).collect())
    }

    async fn call(
        &self,
        verb: &str,
        configuration: &Value,
        (container, interface): (&str, &str),
        netns: &Path,
    ) -> Result<Vec<u8>, Error> {
        let plugin = configuration["type"].as_str().unwrap_or_default();
        let mut command = Command::new(self.folder.join(plugin));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", interface)
            .env("CNI_PATH", &self.folder);
        run(command, configuration.to_string().as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_not_there_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for program in ["bridge", "loopback"] {
            std::fs::write(folder.path().join(program), "").unwrap();
        }
        let Err(Error::NoPlugins { missing, .. }) = check(folder.path()) else { panic!("one is missing") };
        assert_eq!(missing, ["host-local"]);
        std::fs::write(folder.path().join("host-local"), "").unwrap();
        assert!(check(folder.path()).is_ok());
    }
}
