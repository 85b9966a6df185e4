//! Leases: what is made under one stays until the lease ends, whatever the garbage collector thinks.

use containerd_client::services::v1 as c8d;
use containerd_client::tonic::Code;
use jiff::{SignedDuration, Timestamp};

use super::{Containerd, Error, Labels, SNAPSHOTTER, tolerate};
use crate::oci::Digest;

/// How long a lease outlives a crash of its holder.
const EXPIRY: SignedDuration = SignedDuration::from_hours(1);

/// Holds what is made through [`Lease::client`]. Rust has no asynchronous drop: [`Lease::release`] must be called on
/// every way out; a lease that a crash left behind expires.
#[must_use]
pub struct Lease {
    id: String,
    client: Containerd,
    outer: Containerd,
}

impl Containerd {
    /// A new lease under this ID, which must be unique, with labels to find it by.
    pub async fn lease(&self, id: String, mut labels: Labels) -> Result<Lease, Error> {
        let failed = |source| self.failed(format!("create lease {id}"), source);
        let value = id.parse().map_err(|_| Error::Namespace { name: id.clone() })?;
        labels.insert("containerd.io/gc.expire".into(), (Timestamp::now() + EXPIRY).to_string());
        let request = c8d::CreateRequest { id: id.clone(), labels };
        self.leases().create(request).await.map_err(failed)?;
        Ok(Lease { client: self.within(value), outer: self.clone(), id })
    }

    /// The IDs of the leases with this label.
    pub async fn leases_labelled(&self, label: &str, value: &str) -> Result<Vec<String>, Error> {
        let request = c8d::ListRequest { filters: vec![filter(label, value)] };
        let answer = self.leases().list(request).await.map_err(|s| self.failed("list leases", s))?;
        Ok(answer.into_inner().leases.into_iter().map(|lease| lease.id).collect())
    }

    /// Ends a lease. One that is gone is success.
    pub async fn remove_lease(&self, id: &str, synchronous: bool) -> Result<(), Error> {
        let request = c8d::DeleteRequest { id: id.into(), sync: synchronous };
        let deleted = self.leases().delete(request).await;
        deleted
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|s| self.failed(format!("delete lease {id}"), s))
    }
}

impl Containerd {
    /// Within a lease: keeps a blob that is there, or will be, until the lease ends.
    pub async fn hold_blob(&self, digest: &Digest) -> Result<(), Error> {
        self.hold("content", digest.to_string()).await
    }

    /// Within a lease: the same for a snapshot.
    pub async fn hold_snapshot(&self, name: &str) -> Result<(), Error> {
        self.hold(&format!("snapshots/{SNAPSHOTTER}"), name.into()).await
    }

    async fn hold(&self, kind: &str, id: String) -> Result<(), Error> {
        let Some(lease) = self.headers.lease.as_ref().and_then(|lease| lease.to_str().ok()) else {
            return Ok(());
        };
        let resource = c8d::Resource { id, r#type: kind.into() };
        let request = c8d::AddResourceRequest { id: lease.into(), resource: Some(resource) };
        let added = self.leases().add_resource(request).await;
        added.map(drop).map_err(|status| self.failed(format!("hold something with lease {lease}"), status))
    }
}

impl Lease {
    /// The connection whose makings this lease holds.
    pub fn client(&self) -> &Containerd {
        &self.client
    }

    pub async fn release(self) -> Result<(), Error> {
        self.outer.remove_lease(&self.id, false).await
    }
}

/// containerd's filter for a label. Keys with dots must be quoted, values always are.
pub(super) fn filter(label: &str, value: &str) -> String {
    format!("labels.{label:?}=={value:?}")
}
