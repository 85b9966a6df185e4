//! Replicas in the real containerd, each test in a namespace and a data folder of its own.

mod abuse;
mod egress;
pub mod image;
mod life;
mod places;
mod pool;
mod secrets;
mod walls;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fnbuild::cluster::Cluster;
use fnbuild::function::{FunctionName, FunctionRecord, NewVersion, Settings};
use fnbuild::replica::{FolderId, Lease, ReplicaConfig, Replicas, ScaleSettings};
use fnbuild::secrets::{SecretKey, Secrets};
use fnbuild::store::{FunctionStore, SledStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::run;
use image::Images;

/// Listens, and is process 1's only child.
const HTTPD: &str = "exec httpd -f -p 8081 -h /www";

/// A data folder with its own containerd namespace, and the images of its functions.
struct Site {
    data: tempfile::TempDir,
    namespace: String,
    images: Arc<Images>,
    secrets: Arc<Secrets>,
    store: Arc<SledStore>,
    records: Vec<FunctionRecord>,
}

impl Site {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        // Not by the folder's ID, which is looked for everywhere when all is over.
        let random: u64 = getrandom::u64().unwrap();
        let namespace = format!("fnbuild-test-{random:016x}");
        let store = data.path().join("records");
        SledStore::create(&store).unwrap();
        let store = Arc::new(SledStore::open(&store).unwrap());
        let key = SecretKey::load_or_create(&data.path().join("secret.key")).unwrap();
        let secrets = Arc::new(Secrets::new(store.clone(), key));
        Self { data, namespace, images: Arc::default(), secrets, store, records: Vec::new() }
    }

    /// Another data folder in the same namespace of containerd.
    fn beside(other: &Self) -> Self {
        let mut site = Self::new();
        site.namespace.clone_from(&other.namespace);
        site
    }

    fn id(&self) -> FolderId {
        FolderId::of(self.data.path()).unwrap()
    }

    fn with(mut self, name: &str, script: &str, settings: Settings) -> Self {
        let version = self.images.add(name, script, settings);
        self.records.push(record(name, version));
        self
    }

    fn with_python(mut self, name: &str, code: &str, settings: Settings) -> Self {
        let version = self.images.python(name, code, settings);
        self.records.push(record(name, version));
        self
    }

    fn config(&self) -> ReplicaConfig {
        ReplicaConfig {
            figures: Arc::default(),
            socket: super::support::server::containerd(),
            namespace: self.namespace.clone(),
            data_dir: self.data.path().into(),
            folder: self.id(),
            images: self.images.clone(),
            store: Some(self.store.clone()),
            cluster: Cluster::alone(self.id().as_str()),
            secrets: Some(self.secrets.clone()),
            program: env!("CARGO_BIN_EXE_fnbuild").into(),
            network: Default::default(),
            scale: ScaleSettings { start_timeout: Duration::from_secs(30), ..Default::default() },
            walls: Default::default(),
        }
    }

    async fn start(&self) -> Arc<Replicas> {
        self.start_with(self.config()).await
    }

    async fn start_with(&self, config: ReplicaConfig) -> Arc<Replicas> {
        for record in &self.records {
            self.put(record).await;
        }
        Replicas::start(config).await.unwrap()
    }

    async fn put(&self, record: &FunctionRecord) {
        match self.store.get(&record.name).await.unwrap() {
            Some(stored) => self.store.update(record, stored.revision).await.unwrap(),
            None => self.store.create(record).await.unwrap(),
        };
    }

    /// What of this data folder is on the machine, counted where it is: nothing is asked of fnbuild.
    fn left(&self) -> Vec<String> {
        let id = self.id();
        let mut left = Vec::new();
        let mut look = |what: &str, text: String, mark: &str| {
            left.extend(text.lines().filter(|l| l.contains(mark)).map(|l| format!("{what}: {l}")));
        };
        for thing in ["containers", "tasks", "snapshots", "leases", "images"] {
            look(thing, ctr(&self.namespace, &[thing, "ls"]), id.as_str());
        }
        look("interface", run(Command::new("ip").args(["-o", "link"])), id.as_str());
        for table in ["filter", "nat"] {
            look(table, run(Command::new("iptables").args(["-w", "-t", table, "-S"])), id.as_str());
        }
        look("mount", std::fs::read_to_string("/proc/self/mountinfo").unwrap(), id.as_str());
        for folder in ["/run/netns", "/run/fnbuild/subnets", "/sys/fs/cgroup/memory", "/sys/fs/cgroup"] {
            let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let names: Vec<_> = names.map(|name| name.file_name().into_string().unwrap()).collect();
            look(folder, names.join("\n"), id.as_str());
        }
        left
    }

    /// Gives everything up, and proves that nothing stays: not even what containerd would need to keep its namespace.
    async fn close(&self, replicas: Arc<Replicas>) {
        self.close_folder(replicas).await;
        let socket = super::support::server::containerd();
        super::support::server::remove_namespace(&socket, &self.namespace).unwrap();
    }

    async fn close_folder(&self, replicas: Arc<Replicas>) {
        replicas.remove_all().await.unwrap();
        assert_eq!(self.left(), Vec::<String>::new());
        let leases = std::fs::read_dir(self.data.path().join("network/ipam")).into_iter().flatten().flatten();
        for network in leases {
            let held = std::fs::read_dir(network.path()).unwrap().flatten();
            let held: Vec<_> = held.map(|f| f.file_name().into_string().unwrap()).collect();
            assert!(held.iter().all(|name| name.parse::<std::net::Ipv4Addr>().is_err()), "{held:?}");
        }
    }
}

impl Drop for Site {
    /// A test that failed cleans up too: a server without records removes all that its folder has.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let config = ReplicaConfig { store: None, ..self.config() };
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async { Replicas::start(config).await?.remove_all().await })
        });
        if !matches!(cleaner.join(), Ok(Ok(()))) {
            eprintln!("data folder {} is not cleaned up", self.id());
        }
    }
}

fn ctr(namespace: &str, args: &[&str]) -> String {
    run(Command::new("ctr").args(["-n", namespace]).args(args))
}

fn record(name: &str, version: NewVersion) -> FunctionRecord {
    FunctionRecord::first(name.parse().unwrap(), version, "2026-01-01T00:00:00Z".into())
}

fn function(name: &str) -> FunctionName {
    name.parse().unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn acquire(replicas: &Arc<Replicas>, name: &str) -> Lease {
    replicas.acquire(&function(name), None, soon()).await.unwrap()
}

/// Runs a shell script inside; gives what it printed.
async fn inside(lease: &Lease, script: &str) -> String {
    let mut stream = TcpStream::connect(lease.replica().address).await.unwrap();
    let length = script.len();
    let request = format!("POST /cgi-bin/run HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{script}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or(("", &answer));
    assert!(head.contains(" 200 "), "{answer}");
    body.trim_end().to_string()
}
