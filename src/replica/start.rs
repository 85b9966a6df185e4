//! One replica, from an image to a listening process; and its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::cgroup::Cgroup;
use super::dress::{Garment, dress};
use super::image::{FOLDER_LABEL, Images, RUNTIME_LABEL};
use super::revision::Revision;
use super::{Error, FolderId, Replica, Timing, WallSettings, logger, logs, ready};
use crate::containerd::{BindMount, Containerd, Labels, Limits, NewContainer, RuntimeSpec};
use crate::function::{Memory, Settings};
use crate::network::Network;
use crate::oci::ContainerConfig;
use crate::secrets::Secrets;

pub(super) const FUNCTION_LABEL: &str = "io.fnbuild.function";
pub(super) const VERSION_LABEL: &str = "io.fnbuild.version";
pub(super) const REVISION_LABEL: &str = "io.fnbuild.revision";
pub(super) const ADDRESS_LABEL: &str = "io.fnbuild.address";

/// Where a function listens if neither its environment nor its image says otherwise.
const PORT: u16 = 8081;
/// The same for an image without fnbuild's runtime: where OpenFaaS's and Knative's images listen.
const FOREIGN_PORT: u16 = 8080;

/// Lets the runtime say which call a printed line belongs to. It takes the variable away from the function.
const MARK_CALLS: &str = "FNBUILD_MARK_CALLS=1";

/// How long a process may take to end after SIGTERM. Its calls have ended before.
const GRACE: Duration = Duration::from_millis(300);

/// The kernel has no other weights for a cgroup's CPU.
pub(super) const LEAST_SHARES: u64 = 2;
const MOST_SHARES: u64 = 262_144;

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// What it takes to start and end replicas.
pub(super) struct Starter {
    pub containerd: Containerd,
    pub network: Network,
    pub images: Images,
    pub secrets: Option<Arc<Secrets>>,
    pub folder: FolderId,
    pub data_dir: PathBuf,
    pub program: PathBuf,
    pub walls: WallSettings,
    pub start_timeout: Duration,
    /// Where functions may call others: at this port of the gateway.
    pub trigger: Option<u16>,
}

impl Starter {
    /// A replica's ID: the function's name, so that `ctr` says whose it is, and enough that none is used twice.
    pub fn new_id(&self, revision: &Revision) -> String {
        format!("{}-{:08x}", revision.name, getrandom::u32().unwrap_or_default())
    }

    /// Starts a replica under this ID and waits until it listens. On failure nothing stays but its log.
    pub async fn start(&self, revision: &Revision, id: &str) -> Result<(Arc<Replica>, Timing), Error> {
        let started = self.try_start(revision, id).await;
        match started {
            // The image was taken from containerd behind our back: fetch it again, once.
            Err(Error::Containerd(error)) if error.is_not_found() => {
                let _ = self.clean(id).await;
                self.images.forget(&revision.version.image.digest);
                let again = self.try_start(revision, id).await;
                self.or_clean(id, again).await
            }
            other => self.or_clean(id, other).await,
        }
    }

    async fn or_clean<T>(&self, id: &str, started: Result<T, Error>) -> Result<T, Error> {
        if started.is_err() {
            let _ = self.clean(id).await;
        }
        started
    }

    async fn try_start(&self, revision: &Revision, id: &str) -> Result<(Arc<Replica>, Timing), Error> {
        let mut timing = Timing::default();
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
        let settings = &revision.version.image.settings;
        let secrets = self.secrets(settings).await?;
        let image = self.images.prepare(&revision.version.image).await?;
        timing.queue = lap();

        let labels = Labels::from([(FOLDER_LABEL.into(), self.folder.to_string())]);
        let (attachment, rootfs) =
            tokio::try_join!(async { self.network.attach(id).await.map_err(Error::from) }, async {
                Ok(self.containerd.prepare_rootfs(id, image.chain.as_ref(), labels).await?)
            },)?;
        timing.prepare = lap();

        let config = &image.config.config;
        if config.entrypoint.iter().chain(&config.cmd).flatten().next().is_none() {
            return Err(Error::NoCommand { image: revision.version.image.digest.clone() });
        }
        let address = SocketAddr::new(attachment.address.into(), port(settings, config));
        let folder = self.folder_of(id);
        std::fs::create_dir_all(&folder).map_err(Error::files("create", &folder))?;
        self.write_hosts(id, attachment.address, revision.name.as_str())?;
        let spec = self.spec(id, (revision.name.as_str(), settings), config, attachment.address);
        let labels = self.labels(revision, address);
        let new = NewContainer { id, image: &image.name, labels, spec: &spec };
        self.containerd.create_container(new).await?;
        let log = logs::file(&self.data_dir, &revision.name, revision.version.number, id);
        let uri = logger::uri(&self.program, &log, self.walls.log_bytes)?;
        let pid = self.containerd.create_task(id, rootfs, &uri).await?;
        if !secrets.is_empty() {
            let user = self.walls.uid(attachment.address);
            let given = dress(pid, Garment { secrets, user, ..Garment::default() }).await;
            given.map_err(|source| Error::SecretFiles { id: id.into(), source })?;
        }
        self.containerd.start_task(id).await?;
        timing.create = lap();

        let has_health = image.config.config.labels.contains_key(RUNTIME_LABEL);
        self.listening(id, address, (has_health, &log, settings.memory)).await?;
        timing.boot = lap();
        let (name, version) = (revision.name.clone(), revision.version.number);
        let (fate, _) = watch::channel(None);
        let gone = Default::default();
        Ok((Arc::new(Replica { id: id.into(), function: name, version, address, pid, fate, gone }), timing))
    }

    /// Waits until the replica listens, or ends, or takes too long.
    pub(super) async fn listening(
        &self,
        id: &str,
        address: SocketAddr,
        (health, log, limit): (bool, &Path, Memory),
    ) -> Result<(), Error> {
        let port = address.port();
        tokio::select! {
            () = ready::ready(address, health) => Ok(()),
            exit = self.containerd.wait_task(id) => {
                let status = exit?.status;
                // Known as long as the task is.
                let starved = self.strain(id).out_of_memory > 0;
                // Ends the task, so that the logger has written all that there was.
                let _ = self.containerd.remove_task(id).await;
                let last_lines = logs::last_lines(log, 5);
                Err(match starved {
                    true => Error::OutOfMemory { limit, last_lines },
                    false => Error::Died { status, port, last_lines },
                })
            }
            () = tokio::time::sleep(self.start_timeout) => {
                Err(Error::NotListening { port, waited: self.start_timeout })
            }
        }
    }

    pub(super) fn labels(&self, revision: &Revision, address: SocketAddr) -> Labels {
        Labels::from([
            (FOLDER_LABEL.into(), self.folder.to_string()),
            (FUNCTION_LABEL.into(), revision.name.to_string()),
            (VERSION_LABEL.into(), revision.version.number.to_string()),
            (REVISION_LABEL.into(), revision.key.to_string()),
            (ADDRESS_LABEL.into(), address.to_string()),
        ])
    }

    /// A container of this image's configuration, in the network at this address, for this host name and settings.
    pub(super) fn spec(
        &self,
        id: &str,
        (hostname, settings): (&str, &Settings),
        config: &ContainerConfig,
        address: Ipv4Addr,
    ) -> RuntimeSpec {
        let mut env = environment(settings, &config.env, port(settings, config));
        if let Some(port) = self.trigger {
            env.push(format!("FNBUILD_GATEWAY=http://{}:{port}", self.network.subnet().gateway()));
        }
        if config.labels.contains_key(RUNTIME_LABEL) {
            env.push(MARK_CALLS.into());
        }
        RuntimeSpec {
            args: config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect(),
            env,
            working_dir: config.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or("/".into()),
            hostname: hostname.into(),
            uid: self.walls.uid(address),
            limits: self.walls.limits(settings),
            netns: self.network.namespace(id),
            cgroup: self.cgroup(id),
            mounts: vec![
                BindMount::new(self.network.resolv_conf(), "/etc/resolv.conf"),
                BindMount::new(self.hosts(id), "/etc/hosts"),
            ],
        }
    }

    fn hosts(&self, id: &str) -> PathBuf {
        self.folder_of(id).join("hosts")
    }

    /// Written in place: a container that has it mounted reads the new text.
    pub(super) fn write_hosts(&self, id: &str, address: Ipv4Addr, hostname: &str) -> Result<(), Error> {
        let hosts = self.hosts(id);
        let text = format!("127.0.0.1\tlocalhost\n{address}\t{hostname}\n");
        std::fs::write(&hosts, text).map_err(Error::files("write", &hosts))
    }

    /// Below the root of every cgroup hierarchy.
    pub fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroups())
    }

    /// What all replicas' cgroups are below.
    pub fn cgroups(&self) -> String {
        format!("/fnbuild-{}", self.folder)
    }

    pub fn folder_of(&self, id: &str) -> PathBuf {
        self.data_dir.join("replicas").join(id)
    }

    /// Ends the replica's processes: SIGTERM, a short grace, SIGKILL.
    pub async fn end(&self, id: &str) -> Result<(), Error> {
        self.containerd.kill_task(id, SIGTERM, false).await?;
        if tokio::time::timeout(GRACE, self.containerd.wait_task(id)).await.is_err() {
            self.containerd.kill_task(id, SIGKILL, true).await?;
        }
        Ok(())
    }

    /// Removes all that a replica had, in whatever state it is. What is gone already is success.
    pub async fn clean(&self, id: &str) -> Result<(), Error> {
        let containers = async {
            if self.containerd.task(id).await?.is_some() {
                self.containerd.kill_task(id, SIGKILL, true).await?;
                // A task that was created but never started has nothing to wait for.
                let patience = Duration::from_secs(10);
                let _ = tokio::time::timeout(patience, self.containerd.wait_task(id)).await;
                self.containerd.remove_task(id).await?;
            }
            self.containerd.remove_container(id).await?;
            self.containerd.remove_snapshot(id).await
        };
        let (containers, network) = tokio::join!(containers, self.network.detach(id));
        Cgroup(&self.cgroup(id)).remove();
        let _ = std::fs::remove_dir_all(self.folder_of(id));
        let _ = std::fs::remove_file(logs::nobodys_file(&self.data_dir, id));
        containers?;
        Ok(network?)
    }
}

impl WallSettings {
    /// An address is unique on the machine, so what is counted up from it is too, without keeping any account. The
    /// 2²¹ users from `uid_base` up cover the whole range that subnets are taken from.
    pub(super) fn uid(&self, address: Ipv4Addr) -> u32 {
        self.uid_base.saturating_add(u32::from(address) & 0x1F_FFFF)
    }

    pub(super) fn limits(&self, settings: &Settings) -> Limits {
        Limits {
            memory_bytes: settings.memory.0,
            cpu_millis: settings.cpu_millis,
            cpu_shares: u64::from(settings.cpu_millis).clamp(LEAST_SHARES, MOST_SHARES),
            pids: settings.pids,
            tmp_bytes: self.tmp_bytes,
            open_files: self.open_files,
        }
    }
}

/// `PORT` of the function's settings, else of the image, else the image's first exposed TCP port, else what is usual for images of its kind.
pub(super) fn port(settings: &Settings, image: &ContainerConfig) -> u16 {
    let usual = if image.labels.contains_key(RUNTIME_LABEL) { PORT } else { FOREIGN_PORT };
    let from_image = || image.env.iter().find_map(|pair| pair.strip_prefix("PORT="));
    let named = settings.env.get("PORT").map(String::as_str).or_else(from_image);
    let exposed = || {
        image.exposed_ports.keys().find_map(|port| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        })
    };
    named.and_then(|text| text.parse().ok()).or_else(exposed).unwrap_or(usual)
}

/// The image's environment, then the settings', the later of two winning.
fn environment(settings: &Settings, image: &[String], port: u16) -> Vec<String> {
    // The user has no entry in the image's passwd file, and /tmp is the one folder that it can write to.
    let defaults = [("HOME".to_string(), "/tmp".to_string()), ("PORT".into(), port.to_string())];
    let mut pairs: Vec<(String, String)> = defaults.into();
    let image =
        image.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string()));
    for (key, value) in image.chain(settings.env.clone()) {
        match pairs.iter_mut().find(|(present, _)| *present == key) {
            Some(pair) => pair.1 = value,
            None => pairs.push((key, value)),
        }
    }
    pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_win_over_the_image_and_the_image_over_the_defaults() {
        let mut settings = Settings::default();
        let mut image = ContainerConfig::default();
        assert_eq!(port(&settings, &image), 8080);
        image.labels.insert(RUNTIME_LABEL.into(), "1".into());
        assert_eq!(port(&settings, &image), 8081);
        image.exposed_ports.insert("80/tcp".into(), Default::default());
        assert_eq!(port(&settings, &image), 80);
        image.env = vec!["PORT=9000".into(), "A=image".into()];
        assert_eq!(port(&settings, &image), 9000);
        settings.env.insert("A".into(), "settings".into());
        let env = environment(&settings, &image.env, 9000);
        assert_eq!(env, ["HOME=/tmp", "PORT=9000", "A=settings"]);
    }

    #[test]
    fn a_machine_of_many_cores_gets_the_largest_weight_there_is() {
        let shares = |cpu_millis| {
            let settings = Settings { cpu_millis, ..Settings::default() };
            WallSettings::default().limits(&settings).cpu_shares
        };
        assert_eq!([10, 500, 300_000].map(shares), [10, 500, 262_144]);
    }

    #[test]
    fn every_address_of_the_default_range_has_a_user_of_its_own() {
        let walls = WallSettings::default();
        let uids: std::collections::HashSet<u32> = (60..80)
            .flat_map(|second| (0..=255).map(move |third| (second, third)))
            .map(|(second, third)| walls.uid(std::net::Ipv4Addr::new(10, second, third, 7)))
            .collect();
        assert_eq!(uids.len(), 20 * 256);
        assert!(uids.iter().all(|uid| *uid >= walls.uid_base));
    }
}
