//! Whether the store, the registry and this node's containerd agree, and what can be done where they do not. The record
//! is the truth: everything else is made to follow it, and no record is ever changed.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::description::Changes;
use super::error::chain;
use super::extract::{Json, Query};
use super::{Api, ApiError, Examined, Finding};
use crate::function::FunctionRecord;

const PAGE: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Order {
    /// What can be made to follow the records is.
    #[serde(default)]
    repair: bool,
}

/// Whether the store, the registry and this node's containerd agree.
#[utoipa::path(post, path = "/v1/doctor", params(Order), responses((status = 200, body = Examined), Changes))]
pub async fn examine(
    State(api): State<Arc<Api>>,
    Query(order): Query<Order>,
) -> Result<Json<Examined>, ApiError> {
    // Whoever asked and went away still gets its repair whole.
    let examined = tokio::spawn(async move { api.examine(order.repair).await }).await;
    let broken =
        |error| ApiError::Disk { step: "finish the examination", source: std::io::Error::other(error) };
    examined.map_err(broken)?.map(Json)
}

impl Api {
    async fn examine(&self, repair: bool) -> Result<Examined, ApiError> {
        let mut examined = Examined { functions: 0, findings: self.changes.cut_off(repair).await? };
        let pinned = self.replicas.pinned_images().await?;
        let (mut needed, mut after) = (HashSet::new(), None);
        loop {
            let page = self.store.list(after.as_ref(), PAGE).await?;
            for record in page.records.iter().map(|stored| &stored.record) {
                examined.functions += 1;
                let digests = record.versions.iter().map(|version| version.image.digest.to_string());
                needed.extend(digests.filter(|digest| pinned.contains(digest)));
                examined.findings.extend(self.examine_one(record, repair).await);
            }
            after = page.records.into_iter().next_back().map(|stored| stored.record.name);
            if !page.more {
                break;
            }
        }
        for digest in self.replicas.unneeded_images(&needed, repair).await? {
            let what = format!("containerd keeps the image {digest}, which no version needs");
            examined.findings.push(Finding { what, repaired: repair });
        }
        for stray in self.replicas.strays(repair).await? {
            let what = format!("{stray} on this node is no replica's");
            examined.findings.push(Finding { what, repaired: repair });
        }
        Ok(examined)
    }

    async fn examine_one(&self, record: &FunctionRecord, repair: bool) -> Vec<Finding> {
        let name = &record.name;
        let mut findings = Vec::new();
        let mut lasting = |what: String| findings.push(Finding { what, repaired: false });
        if record.current().is_none() {
            lasting(format!(
                "{name} has no version {}, which its record calls the current one",
                record.current
            ));
        }
        for version in &record.versions {
            let image = &version.image;
            match self.published.contains(&image.repository, &image.digest).await {
                Ok(true) => {}
                Ok(false) => lasting(format!(
                    "the image of version {} of {name} is not in the registry: {}@{}",
                    version.number, image.repository, image.digest
                )),
                Err(error) => {
                    lasting(format!("version {} of {name}: {}", version.number, chain(&error)));
                    return findings;
                }
            }
        }
        match self.published.untagged(record).await {
            Ok(tags) if tags.is_empty() => {}
            Ok(tags) => {
                let mut repaired = repair;
                for number in record.versions.iter().map(|version| version.number).filter(|_| repair) {
                    repaired &= self.published.tag(record, number).await.is_ok();
                }
                let what = format!("tags of {name} do not say what its record says: {}", tags.join(", "));
                findings.push(Finding { what, repaired });
            }
            Err(error) => {
                findings.push(Finding {
                    what: format!("the tags of {name}: {}", chain(&error)),
                    repaired: false,
                });
            }
        }
        findings
    }
}
