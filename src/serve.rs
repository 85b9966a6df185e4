//! `fnbuild serve`: opens what a [`Config`] names, joins the rooms, and stops them in order.
//!
//! Everything that can fail at the start fails before a listener is announced, as one error with its next step. A
//! registry that is away is no such thing: what was pulled before can be served without it.

mod embedded;
mod error;
mod gate;
mod listeners;
mod local;
mod member;
mod origin;
mod router;
mod told;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{About, Api, Changes};
use crate::auth::Tokens;
use crate::cluster::{Cluster, Membership};
use crate::config::{Config, DataFolder};
use crate::gateway::{Gateway, Limits};
use crate::listen::{Listener, Plain, Tls, Workers};
use crate::publish::Published;
use crate::queue::{Dispatcher, Queue, QueueConfig, Schedules, Ticker};
use crate::replica::{FolderId, ReplicaConfig, Replicas};
use crate::secrets::{SecretKey, Secrets};
use crate::store::{EtcdStore, FunctionStore, SledStore, StoreError};
use crate::telemetry::Figures;
use crate::telemetry::trace::{Exporter, Tracer};
use embedded::Embedded;
pub use error::ServeError;
use gate::Gate;
pub use listeners::Listeners;
pub use local::Local;
use member::Member;
use router::Router;
use told::{queue_config, registry_of, replica_config, workshop};

/// What a server ends for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Stop,
    /// Another program takes its place in this process.
    HandOver,
}

/// While calls in flight finish, between two looks whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A server whose parts are all up and whose listeners are open.
pub struct Server {
    config: Config,
    listeners: Listeners,
    sockets: Vec<(TcpListener, SocketAddr)>,
    workers: Workers,
    api: Arc<Api>,
    router: Arc<Router>,
    replicas: Arc<Replicas>,
    embedded: Option<Embedded>,
    tls: Option<Arc<Tls>>,
    /// What whoever starts it should know of tokens.
    notes: Vec<String>,
    ticker: Ticker,
    dispatcher: Dispatcher,
    /// Where somebody wants traces.
    exporter: Option<Exporter>,
    /// Where there are other nodes.
    member: Option<Member>,
    /// Given back last.
    _folder: DataFolder,
}

impl Server {
    /// Opens everything. `program` is fnbuild itself, as containerd is to start it for the logs.
    pub async fn start(mut config: Config, program: PathBuf) -> Result<Self, ServeError> {
        let folder = DataFolder::open(&config.data_dir)?;
        let (store, shared) = open_store(&config, &folder).await?;
        let id = FolderId::of(folder.path())?;
        folder.mark_used()?;
        let mut listeners = Listeners::bind(&config.listen)?;
        let port = listeners.addresses().first().map(SocketAddr::port);
        let mut embedded = match config.registry.embedded {
            Some(port) => Some(Embedded::start(&config.data_dir.join("registry"), port).await?),
            None => None,
        };
        if let Some(embedded) = &embedded {
            config.registry.host = embedded.host();
        }
        let registry = Arc::new(registry_of(&config)?);
        let key = SecretKey::load_or_create(&config.secret_key_file)?;
        let secrets = Arc::new(Secrets::new(Arc::clone(&store), key));
        let cluster = Cluster::alone(id.as_str());
        let figures = Arc::<Figures>::default();
        let traces = config.traces.clone().map(|settings| Tracer::start(settings, Arc::clone(&figures)));
        let (tracer, exporter) = traces.transpose()?.unzip();
        let mut settings = ReplicaConfig {
            store: Some(Arc::clone(&store)),
            cluster: Arc::clone(&cluster),
            secrets: Some(Arc::clone(&secrets)),
            figures: Arc::clone(&figures),
            ..replica_config(&config, id.clone(), &registry, program)
        };
        settings.network.trigger = port.filter(|_| config.function_calls);
        let replicas = Replicas::start(settings).await?;
        if config.function_calls
            && let Some(address) = listeners::for_functions(&listeners.addresses(), replicas.gateway())
        {
            listeners.add(address)?;
        }
        let functions = IpAddr::from(replicas.gateway());
        let tls = config.access.tls.clone();
        let plain = Plain::Local { functions };
        let tls = tls.map(|files| Tls::load(files.certificate, files.key, plain)).transpose()?.map(Arc::new);
        let tokens = Tokens::new(Arc::clone(&store));
        let (gate, notes) = Gate::start(&config, tokens.clone(), functions).await?;
        let published = Published::new(Arc::clone(&registry));
        let uploads = config.data_dir.join("uploads");
        empty_folder(&uploads)
            .map_err(|source| ServeError::System { step: "make the folder for uploads", source })?;
        let queue = Queue::open(
            QueueConfig { figures: Arc::clone(&figures), ..queue_config(&config, listeners.addresses()) },
            Arc::clone(&store),
            Arc::clone(&cluster),
        )?;
        let api = Arc::new(Api {
            changes: Changes::new(
                Arc::clone(&store),
                published.clone(),
                Arc::clone(&replicas),
                (config.data_dir.join("unfinished"), config.keep),
            ),
            queue: Arc::clone(&queue),
            schedules: Schedules::new(Arc::clone(&store)),
            store,
            secrets,
            tokens,
            replicas: Arc::clone(&replicas),
            cluster: Arc::clone(&cluster),
            published,
            workshop: workshop(&config, registry, Arc::clone(&figures)).with_tracer(tracer.clone()),
            figures,
            registry_figures: embedded.as_mut().and_then(Embedded::take_figures),
            about: About {
                url: url(&listeners, tls.is_some()),
                id: id.to_string(),
                namespace: config.namespace.clone(),
                host: host_name(),
                uploads,
            },
            stopping: CancellationToken::new(),
        });
        let limits = Limits {
            request_body: config.max_request_body,
            response_body: config.max_response_body,
            start_timeout: config.start_timeout,
            idle_timeout: config.idle_timeout,
        };
        let (gate, workers) = (Arc::new(gate), Workers::start());
        let gateway = Gateway::new(Arc::clone(&replicas), limits, &workers);
        let gateway = Arc::new(gateway.with_door(Arc::clone(&gate) as _).with_tracer(tracer));
        let router = Arc::new(Router::new(Arc::clone(&gateway), Arc::clone(&api), gate));
        let sockets = listeners.serving();
        let sockets = sockets.map_err(|source| ServeError::System { step: "serve its listeners", source })?;
        let member = shared.map(|store| Member::start(Membership::new(store, cluster), Arc::clone(&api)));
        let (dispatcher, ticker) = (Dispatcher::start(&queue, &gateway), Ticker::start(&queue));
        Ok(Self {
            config,
            listeners,
            sockets,
            workers,
            api,
            router,
            replicas,
            embedded,
            tls,
            notes,
            ticker,
            dispatcher,
            exporter,
            member,
            _folder: folder,
        })
    }

    /// Where it listens, ports that were free to choose included.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.addresses()
    }

    /// The same as people write it.
    pub fn urls(&self) -> Vec<String> {
        self.listeners.addresses().iter().map(|address| url_of(address, self.tls.is_some())).collect()
    }

    /// What there is to know of tokens, if management takes any.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// `HOST[:PORT]` of where its images are.
    pub fn registry_host(&self) -> &str {
        &self.config.registry.host
    }

    /// What became of the registry that comes with the server, unless another one was named.
    pub fn registry(&self) -> Option<String> {
        self.embedded.as_ref().map(Embedded::told)
    }

    /// Why it cannot serve everything yet, if so.
    pub async fn problems(&self) -> Vec<String> {
        self.api.problems().await
    }

    /// Serves until `shutdown` is done; then says so at `/readyz`, finishes the calls in flight, and leaves the
    /// replicas to the next server. For a hand-over it leaves the listeners too, open all the while.
    pub async fn run(self, shutdown: impl Future<Output = Ending>) -> Option<Listeners> {
        let stop = CancellationToken::new();
        let api = Arc::clone(&self.api);
        // What an earlier server left undone, or this one while the registry was away. Nothing waits for it.
        let repair = tokio::spawn(async move { api.changes.keep_finishing().await });
        let serving: Vec<_> = self
            .sockets
            .into_iter()
            .map(|(listener, _)| {
                let service = router::service(Arc::clone(&self.router));
                let stopped = stop.clone().cancelled_owned();
                let workers = self.workers.clone();
                let listener = Listener::new(listener).tls(self.tls.clone()).drain(self.config.drain);
                tokio::spawn(listener.serve(workers, Arc::new(service), stopped))
            })
            .collect();
        if let Some(tls) = self.tls {
            tokio::spawn(tls.follow(stop.clone()));
        }
        let ending = shutdown.await;
        self.api.stopping.cancel();
        self.ticker.stop().await;
        self.dispatcher.pause();
        // A server that is handed over is there again before anybody notices.
        if ending == Ending::Stop {
            // Balancers see /readyz and look elsewhere; who does not is told to, while the last calls finish.
            tokio::time::sleep(self.config.notice).await;
            self.router.refuse();
            let finished = async {
                while self.replicas.calls_in_flight() > 0 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            };
            let _ = tokio::time::timeout(self.config.drain, finished).await;
        }
        let listeners = (ending == Ending::HandOver).then_some(self.listeners);
        stop.cancel();
        let dispatched = tokio::spawn(self.dispatcher.stop(self.config.drain));
        for ended in futures_util::future::join_all(serving).await {
            if !ended.unwrap_or(false) {
                tracing::warn!("calls were cut off: they took longer than --drain");
            }
        }
        let _ = dispatched.await;
        repair.abort();
        if let Some(member) = self.member {
            member.stop().await;
        }
        self.replicas.stop().await;
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
        listeners
    }
}

/// Removes from this machine what a data folder's server left running on purpose: containers, images, network. Needs
/// neither registry nor records, and leaves both alone: a server that is started again serves as before.
pub async fn clean_up(config: &Config, program: PathBuf) -> Result<(), ServeError> {
    let folder = DataFolder::open(&config.data_dir)?;
    let id = FolderId::of(folder.path())?;
    let registry = Arc::new(registry_of(config)?);
    // Without records everything that carries the folder's ID is a stray.
    let replicas = Replicas::start(replica_config(config, id, &registry, program)).await?;
    Ok(replicas.remove_all().await?)
}

/// Records in etcd, where one is named, and then the store that nodes share; else in the data folder, and made only where
/// no server has used it.
async fn open_store(
    config: &Config,
    folder: &DataFolder,
) -> Result<(Arc<dyn FunctionStore>, Option<Arc<EtcdStore>>), StoreError> {
    if let Some(options) = config.etcd.options()? {
        let store = Arc::new(EtcdStore::open(&options, &folder.path().join("mirror")).await?);
        return Ok((Arc::clone(&store) as Arc<dyn FunctionStore>, Some(store)));
    }
    let records = folder.path().join("records");
    if folder.is_fresh() && !records.exists() {
        SledStore::create(&records)?;
    }
    Ok((Arc::new(SledStore::open(&records)?), None))
}

/// As this machine calls itself.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_string()
}

/// Where people find the trigger: at the first listener.
fn url(listeners: &Listeners, tls: bool) -> String {
    listeners.addresses().first().map(|address| url_of(address, tls)).unwrap_or_default()
}

/// Loopback takes plain HTTP too, which needs no certificate for it.
fn url_of(address: &SocketAddr, tls: bool) -> String {
    let scheme = if tls && !address.ip().is_loopback() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Uploads of a server that was killed are of no use to the next.
fn empty_folder(folder: &std::path::Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(folder)
}
