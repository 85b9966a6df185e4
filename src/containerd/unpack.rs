//! From layers in the content store to snapshots, by chain ID: image-spec, "Layer ChainID".
//!
//! Real chain IDs make the snapshots the same as those of `ctr` and `nerdctl`, so that a base is unpacked once.

use std::path::PathBuf;

use containerd_client::services::v1::{self as c8d, snapshots as snap};
use containerd_client::tonic::Code;
use containerd_client::types;

use super::{Containerd, Error, Labels, SNAPSHOTTER, tolerate};
use crate::oci::{Descriptor, Digest};

/// The name of the snapshot that has these layers, lowest first, applied. `None` for none.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff| Digest::of(format!("{chain} {diff}"))))
}

impl Containerd {
    /// Whether a committed snapshot of this name exists.
    pub async fn has_snapshot(&self, name: &str) -> Result<bool, Error> {
        let request = snap::StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: name.into() };
        match self.snapshots().stat(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.failed(format!("look for snapshot {name}"), status)),
        }
    }

    /// Applies the layers that are not applied yet and gives the chain ID of the whole. To be called under a lease.
    pub async fn unpack(&self, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<Option<Digest>, Error> {
        let whole = chain_id(diff_ids);
        if let Some(whole) = &whole
            && self.has_snapshot(&whole.to_string()).await?
        {
            return Ok(Some(whole.clone()));
        }
        let mut parent = None;
        for (at, (layer, diff_id)) in layers.iter().zip(diff_ids).enumerate() {
            let chain = chain_id(&diff_ids[..=at]).unwrap_or_else(|| diff_id.clone());
            if !self.has_snapshot(&chain.to_string()).await?
                && let Err(error) = self.apply(layer, diff_id, parent.as_ref(), &chain).await
                // Somebody else may have been faster with the same layer.
                && !self.has_snapshot(&chain.to_string()).await?
            {
                return Err(error);
            }
            let labels = Labels::from([("containerd.io/uncompressed".into(), diff_id.to_string())]);
            self.label_blob(&layer.digest, labels).await?;
            parent = Some(chain);
        }
        Ok(whole)
    }

    async fn apply(
        &self,
        layer: &Descriptor,
        diff_id: &Digest,
        parent: Option<&Digest>,
        chain: &Digest,
    ) -> Result<(), Error> {
        let key = format!("extract-{:016x} {chain}", getrandom::u64().unwrap_or_default());
        let applied = self.apply_under(&key, layer, parent, chain).await;
        let committed = match applied {
            Ok(actual) if actual == diff_id.to_string() => self.commit(&key, chain).await,
            Ok(actual) => {
                Err(Error::DiffId { layer: layer.digest.clone(), expected: diff_id.clone(), actual })
            }
            Err(error) => Err(error),
        };
        if committed.is_err() {
            let _ = self.remove_snapshot(&key).await;
        }
        committed
    }

    /// Applies a layer onto a snapshot in the making; gives the digest of what was applied.
    async fn apply_under(
        &self,
        key: &str,
        layer: &Descriptor,
        parent: Option<&Digest>,
        chain: &Digest,
    ) -> Result<String, Error> {
        let failed = |source| self.failed(format!("unpack layer {}", layer.digest), source);
        let request = snap::PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.into(),
            parent: parent.map(Digest::to_string).unwrap_or_default(),
            labels: Labels::from([("containerd.io/snapshot.ref".into(), chain.to_string())]),
        };
        let mounts = self.snapshots().prepare(request).await.map_err(failed)?.into_inner().mounts;
        let request = c8d::ApplyRequest { diff: Some(wire_descriptor(layer)), mounts, ..Default::default() };
        let applied = self.diff().apply(request).await.map_err(failed)?.into_inner().applied;
        Ok(applied.map(|descriptor| descriptor.digest).unwrap_or_default())
    }

    async fn commit(&self, key: &str, chain: &Digest) -> Result<(), Error> {
        let request = snap::CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            name: chain.to_string(),
            key: key.into(),
            labels: Labels::from([("containerd.io/snapshot.ref".into(), chain.to_string())]),
        };
        let committed = self.snapshots().commit(request).await;
        committed.map(drop).map_err(|status| self.failed(format!("commit snapshot {chain}"), status))
    }

    /// Removes a snapshot. One that is gone is success.
    pub async fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        let request = snap::RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        let removed = self.snapshots().remove(request).await;
        removed
            .map(drop)
            .or_else(tolerate(Code::NotFound))
            .map_err(|status| self.failed(format!("remove snapshot {key}"), status))
    }

    /// The keys of the snapshots with this label.
    pub async fn snapshots_labelled(&self, label: &str, value: &str) -> Result<Vec<String>, Error> {
        let failed = |source| self.failed("list snapshots", source);
        let filters = vec![super::lease::filter(label, value)];
        let request = snap::ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), filters };
        let mut answer = self.snapshots().list(request).await.map_err(failed)?.into_inner();
        let mut keys = Vec::new();
        while let Some(part) = answer.message().await.map_err(failed)? {
            keys.extend(part.info.into_iter().map(|info| info.name));
        }
        Ok(keys)
    }
}

impl Containerd {
    /// The folders on this machine that the layers of an unpacked chain were applied to, the uppermost first. They stay
    /// where they are for as long as the chain's snapshot exists.
    pub async fn layer_folders(&self, chain: &Digest) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| self.failed(format!("look into snapshot {chain}"), source);
        // Only its mounts are wanted. If this is interrupted the collector takes it: nothing refers to it.
        let key = format!("view-{:016x} {chain}", getrandom::u64().unwrap_or_default());
        let request = snap::ViewSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.clone(),
            parent: chain.to_string(),
            ..Default::default()
        };
        let mounts = self.snapshots().view(request).await.map_err(failed)?.into_inner().mounts;
        self.remove_snapshot(&key).await?;
        Ok(folders(&mounts))
    }
}

/// One layer is bound, several are an overlay's lower folders.
fn folders(mounts: &[types::Mount]) -> Vec<PathBuf> {
    let Some(mount) = mounts.first() else { return Vec::new() };
    if mount.r#type == "bind" {
        return vec![mount.source.clone().into()];
    }
    let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    lower.unwrap_or_default().split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

pub(super) fn wire_descriptor(descriptor: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_of_layers_are_read_from_mounts() {
        let mount = |kind: &str, source: &str, options: &[&str]| types::Mount {
            r#type: kind.into(),
            source: source.into(),
            options: options.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        assert_eq!(folders(&[mount("bind", "/s/1/fs", &["ro", "rbind"])]), [PathBuf::from("/s/1/fs")]);
        let overlay = mount("overlay", "overlay", &["index=off", "lowerdir=/s/2/fs:/s/1/fs"]);
        assert_eq!(folders(&[overlay]), [PathBuf::from("/s/2/fs"), "/s/1/fs".into()]);
    }

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        assert_eq!(chain_id(&[a.clone(), b.clone()]), Some(Digest::of(format!("{a} {b}"))));
    }
}
