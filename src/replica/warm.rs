//! A container of a base that is nobody's yet, and how it becomes a function's: once, for one version.
//!
//! Its runtime is up and listens, but answers no call. Where the code will be it has a folder with a socket; it has
//! connected there, and the socket was unlinked, before anything was sent. There is no other way to it: not over the
//! network, and none at all once a function's code runs in it.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::cgroup::Cgroup;
use super::dress::{Garment, dress};
use super::image::{Base, CODE, Code, ENTRY, FOLDER_LABEL, Unpacked};
use super::revision::Revision;
use super::secret_files::SecretFiles;
use super::start::{LEAST_SHARES, Starter, port};
use super::{Error, Replica, Timing, logger, logs, ready};
use crate::containerd::{BindMount, Labels, NewContainer};
use crate::function::{Memory, Settings};

/// What the runtime looks for in the code's folder.
const SOCKET: &str = ".fnbuild-pool";

/// The host name of a container that is nobody's.
const NOBODY: &str = "fnbuild";

/// The entry point where neither settings nor image name one.
const DEFAULT_ENTRY: &str = "func:run";

/// How long a runtime that waits may take to say that it has understood.
const PATIENCE: Duration = Duration::from_secs(5);

/// Environment that the interpreter, a library or the runtime reads when it starts, by name or prefix: set later it
/// would not count.
const READ_AT_START: [&str; 14] = [
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "TZ",
    "PORT",
    "MALLOC_",
    "GLIBC_",
    "FLASK_",
    "WERKZEUG_",
    "GRANIAN_",
    "RUST_",
    "TOKIO_",
    "FNBUILD_CODE",
];

/// One that waits. Dropping it ends its process, but not what containerd knows of it.
pub(super) struct Warm {
    pub id: String,
    address: Ipv4Addr,
    port: u16,
    pid: u32,
    channel: UnixStream,
    /// Bytes of memory that its runtime cannot do without.
    pub held: u64,
}

impl Warm {
    /// Whether it can be held to so much memory: the kernel refuses a limit below what is in use, or ends who is above it.
    pub fn fits(&self, limit: Memory) -> bool {
        self.held < limit.0
    }

    /// Whether its runtime still does.
    pub fn waits(&self) -> bool {
        let read = self.channel.try_read(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Whether a function of these settings must have a container of its own from the start.
pub(super) fn starts_alone(settings: &Settings) -> bool {
    let counts = |name: &String| READ_AT_START.iter().any(|start| name.starts_with(start));
    settings.env.keys().any(counts)
}

impl Starter {
    /// Starts a container of this base under this ID and waits until its runtime does. On failure the caller cleans.
    pub async fn warm(&self, base: &Base, id: &str) -> Result<Warm, Error> {
        let settings = Settings::default();
        let labels = Labels::from([(FOLDER_LABEL.into(), self.folder.to_string())]);
        let (attachment, rootfs) =
            tokio::try_join!(async { self.network.attach(id).await.map_err(Error::from) }, async {
                Ok(self.containerd.prepare_rootfs(id, Some(&base.chain), labels.clone()).await?)
            },)?;
        let slot = self.folder_of(id).join("slot");
        let listener = listen(&slot).map_err(Error::files("make", &slot))?;
        self.write_hosts(id, attachment.address, NOBODY)?;
        let mut spec = self.spec(id, (NOBODY, &settings), &base.config, attachment.address);
        spec.mounts.push(BindMount::new(&slot, CODE));
        // Nobody waits for it: whoever does anything else goes first.
        spec.limits.cpu_shares = LEAST_SHARES;
        self.containerd.create_container(NewContainer { id, image: "", labels, spec: &spec }).await?;
        let log = logs::nobodys_file(&self.data_dir, id);
        let uri = logger::uri(&self.program, &log, self.walls.log_bytes)?;
        let pid = self.containerd.create_task(id, rootfs, &uri).await?;
        self.containerd.start_task(id).await?;
        let (address, port) = (attachment.address, port(&settings, &base.config));
        let channel = self.connected(id, &listener, port).await?;
        // The way there, and the server's first thread, are made before anybody waits for them.
        ready::answers(SocketAddr::from((address, port))).await;
        let socket = slot.join(SOCKET);
        fs::remove_file(&socket).map_err(Error::files("remove", &socket))?;
        let held = Cgroup(&self.cgroup(id)).memory_held();
        Ok(Warm { id: id.into(), address, port, pid, channel, held })
    }

    async fn connected(&self, id: &str, listener: &UnixListener, port: u16) -> Result<UnixStream, Error> {
        tokio::select! {
            accepted = listener.accept() => {
                accepted.map(|(channel, _)| channel).map_err(|source| Error::HandOver { id: id.into(), source })
            }
            exit = self.containerd.wait_task(id) => {
                let status = exit?.status;
                let _ = self.containerd.remove_task(id).await;
                let last_lines = logs::last_lines(&logs::nobodys_file(&self.data_dir, id), 5);
                Err(Error::Died { status, port, last_lines })
            }
            () = tokio::time::sleep(self.start_timeout) => {
                Err(Error::NotListening { port, waited: self.start_timeout })
            }
        }
    }

    /// Makes it a replica of this version: limits, names, log, secrets, files, and then the word to go. On failure it
    /// must not be used again; the caller cleans.
    pub async fn hand_over(
        &self,
        warm: Warm,
        revision: &Revision,
        (image, code): (&Unpacked, &Code),
        secrets: SecretFiles,
    ) -> Result<(Arc<Replica>, Timing), Error> {
        let mut timing = Timing::default();
        let mut clock = Instant::now();
        let mut lap = || std::mem::replace(&mut clock, Instant::now()).elapsed();
        let id = warm.id.clone();
        let failed = |source| Error::HandOver { id: id.clone(), source };
        let (name, number) = (revision.name.clone(), revision.version.number);
        let settings = &revision.version.image.settings;
        Cgroup(&self.cgroup(&id)).limit(&self.walls.limits(settings)).map_err(failed)?;
        self.write_hosts(&id, warm.address, name.as_str())?;
        let log = logs::file(&self.data_dir, &name, number, &id);
        logs::claim(&self.data_dir, &id, &log)?;
        let garment = Garment {
            code: code.folders.clone(),
            hostname: Some(name.to_string()),
            secrets,
            user: self.walls.uid(warm.address),
        };
        dress(warm.pid, garment).await.map_err(failed)?;
        timing.prepare = lap();
        let message = message(settings, image);
        let told = tokio::time::timeout(PATIENCE, tell(warm.channel, message)).await;
        told.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
        // Told is not loaded: until the import has ended, calls belong to the version before.
        let address = SocketAddr::from((warm.address, warm.port));
        self.listening(&id, address, (true, &log, settings.memory)).await?;
        timing.boot = lap();
        let (fate, _) = watch::channel(None);
        let (pid, gone) = (warm.pid, Default::default());
        Ok((Arc::new(Replica { id, function: name, version: number, address, pid, fate, gone }), timing))
    }

    /// Records in containerd whose it is, for the next server, for commands run in it and for who looks.
    pub async fn record(
        &self,
        replica: &Replica,
        revision: &Revision,
        image: &Unpacked,
    ) -> Result<(), Error> {
        let SocketAddr::V4(address) = replica.address else { return Ok(()) };
        let settings = &revision.version.image.settings;
        let config = &image.config.config;
        let spec = self.spec(&replica.id, (revision.name.as_str(), settings), config, *address.ip());
        let mut labels = self.labels(revision, replica.address);
        // Its own snapshot stands on the base alone: the code below its feet must not be collected.
        labels.extend(
            image.chain.iter().map(|chain| (self.containerd.snapshot_reference(), chain.to_string())),
        );
        let new = NewContainer { id: &replica.id, image: &image.name, labels, spec: &spec };
        Ok(self.containerd.update_container(new).await?)
    }
}

/// A socket in a folder, for one that has no rights there but to connect.
fn listen(slot: &Path) -> io::Result<UnixListener> {
    fs::create_dir_all(slot)?;
    fs::set_permissions(slot, Permissions::from_mode(0o755))?;
    // A socket's path has at most 107 bytes, which a data folder's may exceed.
    let folder = File::open(slot)?;
    let short = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let listener = UnixListener::bind(&short)?;
    fs::set_permissions(slot.join(SOCKET), Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// A line of JSON, as the runtime's `handover` reads it.
fn message(settings: &Settings, image: &Unpacked) -> Vec<u8> {
    let prefix = format!("{ENTRY}=");
    let of_image = image.config.config.env.iter().find_map(|pair| pair.strip_prefix(&prefix));
    let mut env = settings.env.clone();
    if let Some(entry) = of_image {
        env.entry(ENTRY.into()).or_insert(entry.into());
    }
    let entry = env.get(ENTRY).map_or(DEFAULT_ENTRY, String::as_str);
    let mut line = json!({ "env": env, "entry": entry }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Sends the message and reads that it was understood.
async fn tell(mut channel: UnixStream, message: Vec<u8>) -> io::Result<()> {
    channel.write_all(&message).await?;
    let mut answer = String::new();
    BufReader::new(channel).read_line(&mut answer).await?;
    let understood = serde_json::from_str::<serde_json::Value>(&answer).is_ok_and(|a| a["ok"] == true);
    if understood {
        Ok(())
    } else {
        Err(io::Error::other(format!("the runtime answered {:?}", answer.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_at_the_start_alone_is_started_with() {
        let with = |name: &str| {
            let mut settings = Settings::default();
            settings.env.insert(name.into(), "1".into());
            starts_alone(&settings)
        };
        assert!(["PYTHONHASHSEED", "LD_PRELOAD", "LANG", "LC_ALL", "TZ", "PORT"].into_iter().all(with));
        assert!(!["GREETING", "PATH", "DATABASE_URL"].into_iter().any(with));
        assert!(!starts_alone(&Settings::default()));
    }
}
