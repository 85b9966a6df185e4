//! Driving containerd (1.6 and later) over gRPC: leases, content, unpack, images, containers, runtime spec, tasks.
//!
//! Only calls that 1.6 has, so no Transfer service: blobs are written into the content store and layers applied onto
//! snapshots here. What a container is for, which network it has and when it ends is not known in this room.

mod container;
mod content;
mod error;
mod exec;
mod image;
mod lease;
mod spec;
mod task;
mod unpack;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use containerd_client::services::v1 as c8d;
use containerd_client::tonic::metadata::AsciiMetadataValue;
use containerd_client::tonic::service::Interceptor;
use containerd_client::tonic::service::interceptor::InterceptedService;
use containerd_client::tonic::transport::{Channel, Endpoint};
use containerd_client::tonic::{Code, Request, Status};

pub use container::{ContainerInfo, NewContainer};
pub use error::Error;
pub use exec::{Exec, ExecRequest};
pub use image::PinnedImage;
pub use lease::Lease;
pub use spec::{BindMount, CPU_PERIOD, Limits, RuntimeSpec};
pub use task::{Exit, TaskState, TaskStatus};
pub use unpack::chain_id;

/// Keys and values that containerd keeps with a thing and can filter by.
pub type Labels = HashMap<String, String>;

/// Where layers become folders. The only one that every containerd on Linux has.
const SNAPSHOTTER: &str = "overlayfs";

/// containerd sends lists of up to 16 MiB; tonic would refuse beyond 4.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection to containerd within one of its namespaces. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Containerd {
    channel: Channel,
    headers: Headers,
    socket: PathBuf,
}

/// Puts the namespace, and a lease where there is one, on every call.
#[derive(Clone)]
struct Headers {
    namespace: AsciiMetadataValue,
    lease: Option<AsciiMetadataValue>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

/// One accessor for each generated client, with our headers and message size.
macro_rules! clients {
    ($($name:ident: $client:path),* $(,)?) => {
        impl Containerd {
            $(fn $name(&self) -> $client {
                <$client>::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
            })*
        }
    };
}

clients! {
    namespaces: c8d::namespaces_client::NamespacesClient<Service>,
    leases: c8d::leases_client::LeasesClient<Service>,
    content: c8d::content_client::ContentClient<Service>,
    snapshots: c8d::snapshots::snapshots_client::SnapshotsClient<Service>,
    diff: c8d::diff_client::DiffClient<Service>,
    images: c8d::images_client::ImagesClient<Service>,
    containers: c8d::containers_client::ContainersClient<Service>,
    tasks: c8d::tasks_client::TasksClient<Service>,
}

impl Containerd {
    /// Connects to the socket and makes the namespace if it is not there.
    pub async fn connect(socket: &Path, namespace: &str) -> Result<Self, Error> {
        let path = socket.to_path_buf();
        // Lazy, so that a containerd that was started anew is found again by the next call.
        let channel = Endpoint::from_static("http://containerd.invalid").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
            }),
        );
        let value = namespace.parse().map_err(|_| Error::Namespace { name: namespace.into() })?;
        let containerd =
            Self { channel, headers: Headers { namespace: value, lease: None }, socket: socket.into() };
        containerd.version().await.map_err(Error::of_connecting)?;
        let wanted = c8d::Namespace { name: namespace.into(), ..Default::default() };
        let request = c8d::CreateNamespaceRequest { namespace: Some(wanted) };
        let created = containerd.namespaces().create(request).await;
        let failed = |source| containerd.failed("make the namespace", source).of_connecting();
        created.map(drop).or_else(tolerate(Code::AlreadyExists)).map_err(failed)?;
        Ok(containerd)
    }

    /// containerd's own version, which also proves that it answers.
    pub async fn version(&self) -> Result<String, Error> {
        let mut client = c8d::version_client::VersionClient::new(self.channel.clone());
        let answer = client.version(()).await.map_err(|source| self.failed("ask its version", source))?;
        Ok(answer.into_inner().version)
    }

    /// Removes the namespace, which must be empty.
    pub async fn remove_namespace(&self, name: &str) -> Result<(), Error> {
        let request = c8d::DeleteNamespaceRequest { name: name.into() };
        let deleted = self.namespaces().delete(request).await;
        deleted.map(drop).or_else(tolerate(Code::NotFound)).map_err(|s| self.failed("remove namespace", s))
    }

    /// The same connection with everything it makes held by a lease.
    fn within(&self, lease: AsciiMetadataValue) -> Self {
        let headers = Headers { lease: Some(lease), ..self.headers.clone() };
        Self { headers, ..self.clone() }
    }

    fn failed(&self, what: impl Into<String>, source: Status) -> Error {
        Error::call(&self.socket, what, source)
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }
}

/// For `or_else`: a status that means "already so" is success.
fn tolerate(code: Code) -> impl FnOnce(Status) -> Result<(), Status> {
    move |status| if status.code() == code { Ok(()) } else { Err(status) }
}
