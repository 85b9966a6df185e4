//! From a record to an answering address: start, stop, scale, reconcile, logs.
//!
//! A warm call touches [`Replicas::acquire`] alone: an in-memory table and one short lock, no call to containerd, disk
//! or network. Containers belong to the data folder, not to the process: [`Replicas::stop`] leaves them running and
//! the next [`Replicas::start`] adopts them.

mod cgroup;
mod demand;
mod dress;
mod error;
mod folder;
mod image;
mod launch;
mod lease;
pub mod logger;
mod logs;
mod places;
mod pool;
mod ready;
mod reconcile;
mod revision;
mod secret_files;
mod series;
mod serving;
mod source;
mod start;
mod status;
mod survey;
mod switch;
mod table;
mod tally;
mod trouble;
mod warm;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::function::{FunctionName, Settings, VersionNumber};
use crate::network::{Egress, Subnet};
use crate::secrets::Secrets;
use crate::store::FunctionStore;
use crate::telemetry::Figures;

pub use crate::containerd::{Exec, ExecRequest};
pub use error::Error;
pub use folder::FolderId;
pub use image::{ImageSource, PullError};
pub use lease::Lease;
pub use logs::{LogLine, LogQuery};
pub use series::{INTERVAL, KEPT, Sample, Series};
pub use table::Replicas;
pub use tally::{Counts, Tally};

/// What [`Replicas::start`] needs to know.
#[derive(Clone)]
pub struct ReplicaConfig {
    /// containerd's gRPC socket.
    pub socket: PathBuf,
    /// containerd's namespace, shared with other servers or not.
    pub namespace: String,
    pub data_dir: PathBuf,
    pub folder: FolderId,
    /// Where images come from.
    pub images: Arc<dyn ImageSource>,
    /// Where records come from; without, there are no functions, and what is found of any is removed.
    pub store: Option<Arc<dyn FunctionStore>>,
    /// Which share of each function's scale is this node's.
    pub cluster: Arc<Cluster>,
    /// Where the values of secrets come from; without, no function that names one starts.
    pub secrets: Option<Arc<Secrets>>,
    /// Where starts and deaths are counted.
    pub figures: Arc<Figures>,
    /// The program that writes logs: fnbuild itself, as it was started.
    pub program: PathBuf,
    pub network: NetworkSettings,
    pub scale: ScaleSettings,
    pub walls: WallSettings,
}

/// The containers' network.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// `None`: a free one.
    pub subnet: Option<Subnet>,
    /// The folder of the CNI plugins.
    pub plugins: PathBuf,
    pub egress: Egress,
    /// Empty: the host's.
    pub dns: Vec<Ipv4Addr>,
    /// The trigger's port on the gateway's address, where functions may call it.
    pub trigger: Option<u16>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            subnet: None,
            plugins: "/usr/lib/cni".into(),
            egress: Egress::default(),
            dns: Vec::new(),
            trigger: None,
        }
    }
}

/// How replicas come and go.
#[derive(Clone, Copy, Debug)]
pub struct ScaleSettings {
    /// How many calls of one function may wait.
    pub queue: usize,
    /// How long a replica may take to listen.
    pub start_timeout: Duration,
    /// How long a replica without calls is kept.
    pub idle: Duration,
    /// How many replicas are started at once; more would only make each slower.
    pub parallel_starts: usize,
    /// Containers that wait for a function, for each base; 0 for none.
    pub pool: usize,
    /// Replicas at most, over all functions.
    pub max_replicas: usize,
}

impl Default for ScaleSettings {
    fn default() -> Self {
        Self {
            queue: 1000,
            start_timeout: Duration::from_secs(120),
            idle: Duration::from_secs(60),
            parallel_starts: 8,
            pool: 2,
            max_replicas: places::of_this_machine(),
        }
    }
}

/// What keeps a function inside.
#[derive(Clone, Copy, Debug)]
pub struct WallSettings {
    /// Each replica has a user and group of its own, counted up from here by its address.
    pub uid_base: u32,
    /// Of `/tmp`.
    pub tmp_bytes: u64,
    pub open_files: u64,
    /// Of each replica's log, rotated half included.
    pub log_bytes: u64,
}

impl Default for WallSettings {
    fn default() -> Self {
        Self { uid_base: 200_000, tmp_bytes: 64 << 20, open_files: 16_384, log_bytes: 10 << 20 }
    }
}

/// One container that answers for a version.
#[derive(Debug)]
pub struct Replica {
    /// Also the container's ID.
    pub id: String,
    pub function: FunctionName,
    pub version: VersionNumber,
    pub address: SocketAddr,
    /// Of its first process, on the host.
    pub pid: u32,
    fate: channel::Sender<Option<Fate>>,
    /// Cancelled once nothing of it is left but its log.
    gone: CancellationToken,
}

impl Replica {
    /// How it ended; `None` while it runs. Given up to `patience` for the news to arrive: a connection breaks before
    /// containerd tells why.
    pub async fn fate(&self, patience: Duration) -> Option<Fate> {
        let mut news = self.fate.subscribe();
        let told = tokio::time::timeout(patience, news.wait_for(Option::is_some)).await;
        told.ok()?.ok().and_then(|fate| *fate)
    }

    /// Ends when nothing of it is left but its log.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// How a replica ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fate {
    /// 128 + N after signal N.
    pub status: u32,
    /// Something in it was killed for want of memory.
    pub out_of_memory: bool,
    /// It was refused a process or thread.
    pub out_of_pids: bool,
}

impl Fate {
    /// In words, for callers and people.
    pub fn cause(&self, settings: &Settings) -> String {
        if self.out_of_memory {
            format!("it was out of memory (the limit is {})", settings.memory)
        } else if self.out_of_pids {
            let (status, limit) = (self.status, settings.pids);
            format!("it ended with status {status} after it was refused a process (the limit is {limit})")
        } else {
            format!("it ended with status {}", self.status)
        }
    }
}

/// A replica that ended without being asked to.
#[derive(Clone, Debug)]
pub struct Death {
    pub time: jiff::Timestamp,
    pub replica: String,
    pub version: VersionNumber,
    pub cause: String,
}

/// A replica that did not come to listen.
#[derive(Clone, Debug)]
pub struct FailedStart {
    pub time: jiff::Timestamp,
    pub version: VersionNumber,
    pub error: Arc<Error>,
}

/// The last of each that a function had since the server started.
#[derive(Clone, Default, Debug)]
pub struct Mishaps {
    pub death: Option<Death>,
    pub failed_start: Option<FailedStart>,
}

/// Where the time of a cold call went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timing {
    /// Until its turn to start, and until its image was there.
    pub queue: Duration,
    /// Network and files; from the pool, the mount.
    pub prepare: Duration,
    /// containerd's part; none from the pool.
    pub create: Duration,
    /// From the process's start until it listens; from the pool, the hand-over.
    pub boot: Duration,
}

/// A replica as people see it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    pub id: String,
    /// The container's ID in containerd.
    pub container: String,
    pub version: VersionNumber,
    pub address: std::net::IpAddr,
    pub port: u16,
    pub state: ReplicaState,
    pub pid: u32,
    pub in_flight: u32,
    /// Processes killed for want of memory so far.
    pub out_of_memory: u64,
    /// Processes or threads refused so far.
    pub out_of_pids: u64,
}

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    Ready,
    /// Finishing its calls before it ends.
    Draining,
}
