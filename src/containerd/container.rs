//! Container records and the writable snapshot each one has.

use containerd_client::services::v1::{self as c8d, snapshots as snap};
use containerd_client::tonic::Code;
use containerd_client::types::Mount;

use super::{Containerd, Error, Labels, RuntimeSpec, SNAPSHOTTER, tolerate};
use crate::oci::Digest;

/// The shim for runc: in every containerd since 1.2.
const RUNTIME: &str = "io.containerd.runc.v2";

/// What a container is made of.
pub struct NewContainer<'a> {
    /// At most 76 characters of `[A-Za-z0-9_.-]`.
    pub id: &'a str,
    /// The name of the image record.
    pub image: &'a str,
    pub labels: Labels,
    pub spec: &'a RuntimeSpec,
}

/// A container as containerd lists it.
#[derive(Clone, Debug)]
pub struct ContainerInfo {
    pub id: String,
    pub image: String,
    pub labels: Labels,
}

/// Where a container's files are: to be handed to the task.
pub struct RootFs(pub(super) Vec<Mount>);

impl Containerd {
    /// A writable snapshot under the container's ID on top of the unpacked layers. `labels` also keep it from being
    /// collected until the container's record refers to it.
    pub async fn prepare_rootfs(
        &self,
        id: &str,
        chain: Option<&Digest>,
        labels: Labels,
    ) -> Result<RootFs, Error> {
        let mut labels = labels;
        labels.insert("containerd.io/gc.root".into(), jiff::Timestamp::now().to_string());
        let request = snap::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id.into(),
            parent: chain.map(Digest::to_string).unwrap_or_default(),
            labels,
        };
        let answer = self.snapshots().prepare(request).await;
        let answer = answer.map_err(|status| self.failed(format!("prepare files of {id}"), status))?;
        Ok(RootFs(answer.into_inner().mounts))
    }

    /// Records the container. Its snapshot must be there; nothing runs yet.
    pub async fn create_container(&self, new: NewContainer<'_>) -> Result<(), Error> {
        let container = c8d::Container {
            id: new.id.into(),
            labels: new.labels,
            image: new.image.into(),
            runtime: Some(c8d::container::Runtime { name: RUNTIME.into(), options: None }),
            spec: Some(new.spec.wire()),
            snapshotter: SNAPSHOTTER.into(),
            snapshot_key: new.id.into(),
            ..Default::default()
        };
        let request = c8d::CreateContainerRequest { container: Some(container) };
        let created = self.containers().create(request).await;
        created.map(drop).map_err(|status| self.failed(format!("create container {}", new.id), status))
    }

    /// The `process` of a container's runtime spec.
    pub(super) async fn container_process(&self, id: &str) -> Result<serde_json::Value, Error> {
        let answer = self.containers().get(c8d::GetContainerRequest { id: id.into() }).await;
        let answer = answer.map_err(|status| self.failed(format!("look at container {id}"), status))?;
        let spec = answer.into_inner().container.and_then(|container| container.spec).unwrap_or_default();
        let mut spec: serde_json::Value = serde_json::from_slice(&spec.value)
            .map_err(|source| Error::Spec { container: id.into(), source })?;
        Ok(spec["process"].take())
    }

    /// Containers with this label.
    pub async fn containers_labelled(&self, label: &str, value: &str) -> Result<Vec<ContainerInfo>, Error> {
        let request = c8d::ListContainersRequest { filters: vec![super::lease::filter(label, value)] };
        let answer = self.containers().list(request).await.map_err(|s| self.failed("list containers", s))?;
        let info = |c: c8d::Container| ContainerInfo { id: c.id, image: c.image, labels: c.labels };
        Ok(answer.into_inner().containers.into_iter().map(info).collect())
    }

    /// Says anew what a container is: image, spec and the labels given, its others staying. What runs in it does not
    /// change, but what is run beside it and who reads the record go by it.
    pub async fn update_container(&self, new: NewContainer<'_>) -> Result<(), Error> {
        let id = new.id;
        let labels = new.labels.keys().map(|key| format!("labels.{key}"));
        let paths = labels.chain(["image".to_string(), "spec".into()]).collect();
        let container = c8d::Container {
            id: id.into(),
            labels: new.labels,
            image: new.image.into(),
            spec: Some(new.spec.wire()),
            ..Default::default()
        };
        let request = c8d::UpdateContainerRequest {
            container: Some(container),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let updated = self.containers().update(request).await;
        updated.map(drop).map_err(|status| self.failed(format!("update container {id}"), status))
    }

    /// Deletes the record. One that is gone is success.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let deleted = self.containers().delete(c8d::DeleteContainerRequest { id: id.into() }).await;
        deleted
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|status| self.failed(format!("delete container {id}"), status))
    }
}
