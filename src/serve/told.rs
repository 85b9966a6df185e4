//! What each room is told of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base;
use crate::cluster::Cluster;
use crate::config::{Config, QueueSettings, RegistryConfig, SourceBounds};
use crate::network::Egress;
use crate::publish::Workshop;
use crate::queue::{QueueConfig, Reach};
use crate::registry::{self, Access, Registry, Remembered};
use crate::replica::{FolderId, NetworkSettings, ReplicaConfig, ScaleSettings, WallSettings};
use crate::source;
use crate::telemetry::Figures;

pub(super) fn registry_of(config: &Config) -> Result<Registry, registry::Error> {
    let RegistryConfig { host, plain_http, insecure, ca, .. } = config.registry.clone();
    let said = Access { plain_http, insecure, ca, ..Access::default() };
    Registry::new(&host, Remembered::new(&config.data_dir).access(&host, said))
}

pub(super) fn workshop(config: &Config, registry: Arc<Registry>, figures: Arc<Figures>) -> Workshop {
    let SourceBounds { zipped, unpacked, entries } = config.source;
    let bounds = source::Bounds { source: zipped, unpacked, entries, ..source::Bounds::default() };
    Workshop::new(registry, config.data_dir.clone(), bounds, base::DEFAULT.into(), figures)
}

pub(super) fn replica_config(
    config: &Config,
    folder: FolderId,
    registry: &Arc<Registry>,
    program: PathBuf,
) -> ReplicaConfig {
    let network = config.network.clone();
    ReplicaConfig {
        socket: config.containerd.clone(),
        namespace: config.namespace.clone(),
        store: None,
        cluster: Cluster::alone(folder.as_str()),
        data_dir: config.data_dir.clone(),
        folder,
        images: Arc::new(Arc::clone(registry)),
        secrets: None,
        figures: Arc::default(),
        program,
        network: NetworkSettings {
            subnet: network.subnet,
            plugins: network.plugins,
            egress: network.egress,
            dns: network.dns,
            trigger: None,
        },
        scale: scale_settings(config),
        walls: WallSettings { uid_base: config.uid_base, ..WallSettings::default() },
    }
}

pub(super) fn queue_config(config: &Config, own: Vec<SocketAddr>) -> QueueConfig {
    let QueueSettings { bytes, backoff, keep_dead, callback_hosts } = config.calls.clone();
    // An answer goes no further than the function that gave it could have sent it.
    let reach = match config.network.egress {
        Egress::None => Reach::Nowhere,
        Egress::Public => Reach::Public,
        Egress::All => Reach::Everywhere,
    };
    let (folder, request_body) = (config.data_dir.join("queue"), config.max_request_body);
    let figures = Arc::default();
    QueueConfig { folder, bytes, request_body, backoff, keep_dead, reach, callback_hosts, own, figures }
}

fn scale_settings(config: &Config) -> ScaleSettings {
    let usual = ScaleSettings::default();
    ScaleSettings {
        queue: config.queue,
        start_timeout: config.start_timeout,
        idle: config.idle_time,
        pool: config.pool,
        max_replicas: config.max_replicas.unwrap_or(usual.max_replicas),
        ..usual
    }
}
