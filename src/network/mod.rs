//! Network namespaces and CNI plugins: one bridge for each data folder, one address for each container.
//!
//! Everything that is made here (bridge, namespaces, rules, claim, leases) carries the data folder's ID, and only what
//! carries it is ever removed. The CNI configuration is made here: no other tool's folder is read or written.
//! Which container an address is for is not known in this room.

mod bridge;
mod cni;
mod command;
mod dns;
mod error;
mod firewall;
mod netns;
mod subnet;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

pub use error::Error;
pub use firewall::Egress;
pub use subnet::{InvalidSubnet, Subnet};

/// What a data folder's network is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Eight hex digits, unique to the data folder.
    pub folder_id: String,
    pub data_dir: PathBuf,
    /// `None`: the one that this folder had, else a free one.
    pub subnet: Option<Subnet>,
    /// Where the CNI plugins are; Debian's are in `/usr/lib/cni`.
    pub plugins: PathBuf,
    pub egress: Egress,
    /// Empty: those of the host, or public ones where the host's are its own loopback.
    pub dns: Vec<Ipv4Addr>,
    /// The one TCP port of the gateway that containers may connect to.
    pub open_port: Option<u16>,
}

/// A container's place in the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub netns: PathBuf,
    pub address: Ipv4Addr,
}

/// A data folder's network, up.
#[derive(Debug)]
pub struct Network {
    id: String,
    folder: PathBuf,
    subnet: Subnet,
    bridge: String,
    plugins: cni::Plugins,
    rules: firewall::Rules,
}

impl Network {
    /// Claims a subnet, makes the bridge and the rules, and writes `resolv.conf`. Idempotent.
    pub async fn start(config: NetworkConfig) -> Result<Self, Error> {
        let folder = config.data_dir.join("network");
        std::fs::create_dir_all(&folder).map_err(Error::files("create", &folder))?;
        let claimed = {
            let (config, folder) = (config.clone(), folder.clone());
            blocking(move || {
                netns::prepare()?;
                subnet::claim(&config.folder_id, &folder, config.subnet)
            })
            .await?
        };
        let bridge = format!("fnb-{}", config.folder_id);
        bridge::create(&bridge, claimed).await?;
        let servers = dns::servers(&config.dns);
        let resolv_conf = folder.join("resolv.conf");
        let text = dns::resolv_conf(&servers);
        std::fs::write(&resolv_conf, text).map_err(Error::files("write", &resolv_conf))?;
        let rules = firewall::Rules {
            id: config.folder_id.clone(),
            bridge: bridge.clone(),
            subnet: claimed,
            egress: config.egress,
            dns: servers,
            open_port: config.open_port,
        };
        rules.apply().await?;
        let plugins = cni::Plugins::new(config.plugins, &bridge, claimed, &folder.join("ipam"))?;
        Ok(Self { id: config.folder_id, folder, subnet: claimed, bridge, plugins, rules })
    }

    /// That the programs which it takes are in this folder: to be known before the first container asks for them.
    pub fn check(plugins: &Path) -> Result<(), Error> {
        cni::check(plugins)
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The file to show in containers as `/etc/resolv.conf`.
    pub fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// A namespace with an address for `container`. On failure nothing stays.
    pub async fn attach(&self, container: &str) -> Result<Attachment, Error> {
        let netns = self.namespace(container);
        let made = netns.clone();
        blocking(move || netns::create(&made)).await?;
        match self.connect(container, &netns).await {
            Ok(address) => Ok(Attachment { netns, address }),
            Err(error) => {
                let _ = self.detach(container).await;
                Err(error)
            }
        }
    }

    async fn connect(&self, container: &str, netns: &Path) -> Result<Ipv4Addr, Error> {
        let (_, added) =
            tokio::try_join!(self.plugins.loopback(container, netns), self.plugins.add(container, netns))?;
        // Two isolated ports of a bridge never see each other's frames, whatever iptables is told of them.
        bridge::isolate(&added.host_interface)?;
        Ok(added.address)
    }

    /// Gives the address back and removes the namespace. What is gone already is success.
    pub async fn detach(&self, container: &str) -> Result<(), Error> {
        let netns = self.namespace(container);
        self.plugins.del(container, netns::is_mounted(&netns).then_some(&netns)).await?;
        blocking(move || netns::remove(&netns)).await
    }

    /// Every container that has a namespace or an address of this network, whether or not it still exists.
    pub fn attached(&self) -> Result<BTreeSet<String>, Error> {
        let mut containers = self.plugins.leased()?;
        containers.extend(
            netns::names()?
                .into_iter()
                .filter_map(|name| name.strip_prefix(&format!("fnb-{}-", self.id)).map(str::to_string)),
        );
        Ok(containers)
    }

    /// Puts bridge and rules back if somebody took them away.
    pub async fn repair(&self) -> Result<(), Error> {
        bridge::create(&self.bridge, self.subnet).await?;
        self.rules.apply().await
    }

    /// Takes everything down: for a data folder that is given up. Containers must be detached.
    pub async fn remove(&self) -> Result<(), Error> {
        self.rules.remove().await?;
        bridge::remove(&self.bridge).await?;
        subnet::release(&self.id, &self.folder);
        Ok(())
    }

    /// Where the container's namespace is, once it is attached.
    pub fn namespace(&self, container: &str) -> PathBuf {
        Path::new(netns::FOLDER).join(format!("fnb-{}-{container}", self.id))
    }
}

/// Runs what may block (mounts, locks) off the asynchronous threads.
async fn blocking<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Error> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Interrupted))
}
