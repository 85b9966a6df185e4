//! Garbage collection beside pushes: removes what no manifest keeps, and never what a client was just told is there.
//!
//! A blob goes when no manifest of any repository refers to it *and* nobody has uploaded it, mounted it or asked for it
//! (`HEAD`) within the grace time. Both are checked and the blob is hidden under one write lock of the index, while the
//! gate keeps every push from standing between its check and its answer. From then on clients are told to upload it.

use std::collections::HashSet;
use std::fs;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::record::{Record, Seconds, now};
use super::{Store, StoreError, blocking};
use crate::oci::{Algorithm, Digest, Repository};

/// Blobs removed while pushes wait.
const STEP: usize = 512;

/// What may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// How long an answer "no need to upload that" is kept to.
    pub grace: Duration,
    /// How long a manifest without a tag is kept; `None` keeps it for good.
    pub untagged: Option<Duration>,
    /// How long an upload may lie still.
    pub uploads: Duration,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(60 * 60),
            untagged: None,
            uploads: Duration::from_secs(24 * 60 * 60),
            dry_run: false,
        }
    }
}

/// What went, or would go.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Report {
    pub dry_run: bool,
    /// Old untagged versions, as `REPOSITORY@DIGEST`.
    pub manifests: Vec<String>,
    pub blobs: usize,
    pub bytes: u64,
    /// Unreferenced too, but promised within the grace time.
    pub kept_blobs: usize,
    pub kept_bytes: u64,
    pub uploads: usize,
    pub upload_bytes: u64,
}

impl Store {
    /// One collection.
    pub async fn collect(&self, policy: Policy) -> Result<Report, StoreError> {
        let mut report = Report { dry_run: policy.dry_run, ..Report::default() };
        let ignored = self.collect_manifests(policy, &mut report).await?;
        let before = ago(policy.grace);
        let all = self.index().unreferenced(Seconds::MAX, &ignored);
        let (old, kept): (Vec<_>, Vec<_>) = {
            let old: HashSet<_> = self.index().unreferenced(before, &ignored).into_iter().collect();
            all.into_iter().partition(|blob| old.contains(blob) && !self.written_since(&blob.0, before))
        };
        report.kept_blobs = kept.len();
        report.kept_bytes = kept.iter().map(|(_, size)| size).sum();
        if policy.dry_run {
            count(&mut report, &old);
        } else {
            for step in old.chunks(STEP) {
                let digests: Vec<Digest> = step.iter().map(|(digest, _)| digest.clone()).collect();
                let gone = self.remove(&digests, before).await?;
                count(&mut report, &gone);
            }
        }
        self.collect_strays(before, &mut report).await?;
        (report.uploads, report.upload_bytes) = self.uploads.sweep(policy.uploads, policy.dry_run)?;
        if !policy.dry_run {
            self.write_layout().await;
        }
        Ok(report)
    }

    /// Old untagged manifests. In a dry run they stay, and are given back to be counted as gone.
    async fn collect_manifests(
        &self,
        policy: Policy,
        report: &mut Report,
    ) -> Result<HashSet<(Repository, Digest)>, StoreError> {
        let Some(age) = policy.untagged else { return Ok(HashSet::new()) };
        // Nobody pushes a tag to one of them between the question and the removal.
        let _gate = self.gate.write().await;
        let old = self.index().untagged(ago(age));
        report.manifests = old.iter().map(|(repository, digest)| format!("{repository}@{digest}")).collect();
        if policy.dry_run {
            return Ok(old.into_iter().collect());
        }
        let forget = |(repository, digest)| {
            self.journal.append(Record::Forget { repository, digest }, Bytes::new(), None)
        };
        try_join_all(old.into_iter().map(forget)).await?;
        Ok(HashSet::new())
    }

    /// Removes those of `digests` that may still go.
    async fn remove(&self, digests: &[Digest], before: Seconds) -> Result<Vec<(Digest, u64)>, StoreError> {
        let _gate = self.gate.write().await;
        let gone =
            self.index.write().unwrap_or_else(PoisonError::into_inner).condemn_unreferenced(digests, before);
        // Durable before the first file goes: a record without its file would be a promise broken.
        let records = gone.iter().map(|(digest, _)| Record::Gone { digest: digest.clone() });
        try_join_all(records.map(|record| self.journal.append(record, Bytes::new(), None))).await?;
        let paths: Vec<_> = gone.iter().map(|(digest, _)| self.blob_path(digest)).collect();
        blocking(move || {
            for path in paths {
                match fs::remove_file(&path) {
                    Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &path, source));
                    }
                    _ => {}
                }
            }
            Ok(())
        })
        .await?;
        Ok(gone)
    }

    /// Files that the index does not know: what a crash left between the file and its record.
    async fn collect_strays(&self, before: Seconds, report: &mut Report) -> Result<(), StoreError> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let folder = self.root.join("blobs").join(algorithm.name());
            let listed = blocking(move || {
                let entries =
                    fs::read_dir(&folder).map_err(|source| StoreError::io("read", &folder, source))?;
                Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect::<Vec<_>>())
            })
            .await?;
            for name in listed {
                let Ok(digest) = format!("{}:{name}", algorithm.name()).parse::<Digest>() else { continue };
                if self.index().has(&digest) || self.written_since(&digest, before) {
                    continue;
                }
                // A push that has placed its file but not yet its record holds the gate.
                let _gate = self.gate.write().await;
                let path = self.blob_path(&digest);
                let Ok(metadata) = fs::metadata(&path) else { continue };
                if self.index().has(&digest) {
                    continue;
                }
                if !report.dry_run {
                    fs::remove_file(&path).map_err(|source| StoreError::io("remove", &path, source))?;
                }
                count(report, &[(digest, metadata.len())]);
            }
        }
        Ok(())
    }

    /// Whether the file is younger: a promise of an earlier process, see [`Store::promise`].
    fn written_since(&self, digest: &Digest, before: Seconds) -> bool {
        let modified = fs::metadata(self.blob_path(digest)).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|time| {
            time.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() > before.into())
        })
    }
}

fn count(report: &mut Report, blobs: &[(Digest, u64)]) {
    report.blobs += blobs.len();
    report.bytes += blobs.iter().map(|(_, size)| size).sum::<u64>();
}

fn ago(age: Duration) -> Seconds {
    now().saturating_sub(Seconds::try_from(age.as_secs()).unwrap_or(Seconds::MAX))
}
