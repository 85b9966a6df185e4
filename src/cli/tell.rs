//! Telling the server of an image that is in the registry: it numbers the version, and runs it.

use http::Method;

use super::server::{Server, ServerArguments, ServerError};
use crate::api;
use crate::function::{FunctionName, SettingsPatch, VersionRequest};
use crate::oci::Reference;
use crate::publish::{Job, PushedImage};

/// The version that a pushed image is to be.
pub fn version(job: &Job, pushed: &PushedImage, settings: SettingsPatch) -> VersionRequest {
    VersionRequest {
        repository: job.repository.clone(),
        digest: pushed.digest.clone(),
        source: Some(pushed.source.clone()),
        base: Some(pushed.base.clone()),
        entry: Some(pushed.entry.clone()),
        parameters: pushed.parameters.clone(),
        packages: pushed.packages.iter().flat_map(|report| report.packages.clone()).collect(),
        settings,
        author: Some(super::author::author()),
    }
}

/// Asks the server to record and run it. `host` is the registry that the image was pushed to.
pub async fn tell(
    server: &ServerArguments,
    name: &FunctionName,
    host: &str,
    request: &VersionRequest,
) -> anyhow::Result<api::Pushed> {
    let path = format!("/v1/functions/{name}/versions");
    let told = Server::new(server)?.call(Method::POST, &path, Some(request)).await;
    told.map_err(|error| match error.downcast::<ServerError>() {
        Ok(ServerError::Away { url, source }) => {
            let reference = Reference::by_digest(host, &request.repository, &request.digest).to_string();
            PushedOnly { reference, url, source }.into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    })
}

/// The image is there, and nobody runs it.
#[derive(Debug, thiserror::Error)]
#[error("{reference} is pushed, but there is no server at {url} to run it")]
pub struct PushedOnly {
    reference: String,
    url: String,
    source: std::io::Error,
}

impl PushedOnly {
    pub fn hint(&self) -> Option<String> {
        Some(
            "start one with `fnbuild serve` and push again, or push with --image-only if no server is wanted"
                .into(),
        )
    }
}
