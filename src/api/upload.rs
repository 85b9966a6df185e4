//! `PUT /v1/functions/NAME`: a zip or a `.py` becomes a version.
//!
//! The body goes to a file, at most as much of it as a source may be, and is built from there: it is never in memory
//! as a whole. Whoever goes away while sending leaves nothing behind; a build that has begun goes on to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use http::{HeaderMap, header};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use utoipa::IntoParams;

use super::description::Changes;
use super::extract::{Path, Query};
use super::functions::detached;
use super::{Api, ApiError, Pushed};
use crate::function::{EntryPoint, FunctionName, SettingsPatch};
use crate::publish::{Order, lock_beside};
use crate::telemetry::trace::Context;

/// The header that carries changes to the settings, as JSON.
pub const SETTINGS_HEADER: &str = "x-fnbuild-settings";

/// The header that says who pushes.
pub const AUTHOR_HEADER: &str = "x-fnbuild-author";

/// The headers that carry a list of packages and a lock from beside the source, in base64.
pub const REQUIREMENTS_HEADER: &str = "x-fnbuild-requirements";
pub const LOCK_HEADER: &str = "x-fnbuild-lock";
/// The most bytes of either, before they are encoded: a header is no place for more.
pub const LONGEST_LIST: usize = 64 << 10;

/// What sends nothing for so long has gone away.
const SILENCE: Duration = Duration::from_secs(60);
/// File systems take no longer names.
const LONGEST_NAME: usize = 255;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct About {
    /// `module:function`.
    entry: Option<String>,
    /// A `.py` is a module under this name; `func.py` where none is given.
    filename: Option<String>,
    /// The name of a base that is here.
    base: Option<String>,
    /// Only the packages that are listed.
    #[serde(default)]
    no_deps: bool,
}

/// The form of the body, where its type says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Zip,
    Python,
}

/// The body, as the description has it.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it only lends its schema")]
struct Source(Vec<u8>);

/// A zip or a `.py` becomes a version.
#[utoipa::path(
    put, path = "/v1/functions/{name}",
    params(
        FunctionName,
        About,
        ("x-fnbuild-settings" = Option<String>, Header, description = "changes to the settings, as JSON"),
        ("x-fnbuild-author" = Option<String>, Header, description = "who pushes, for the image's labels"),
        ("x-fnbuild-requirements" = Option<String>, Header, description = "a requirements.txt, in base64"),
        ("x-fnbuild-lock" = Option<String>, Header, description = "a requirements.lock, in base64"),
    ),
    request_body(content((Source = "application/zip"), (Source = "text/x-python"))),
    responses((status = 200, body = Pushed), (status = 201, body = Pushed), Changes)
)]
pub async fn upload(
    State(api): State<Arc<Api>>,
    Path(name): Path<FunctionName>,
    Query(about): Query<About>,
    request: Request,
) -> Result<Response, ApiError> {
    let entry = about.entry.as_deref().map(str::parse::<EntryPoint>).transpose();
    let entry = entry.map_err(|error| ApiError::Request { what: format!("entry: {error}") })?;
    let settings = settings(request.headers())?;
    let author = request.headers().get(AUTHOR_HEADER).and_then(|who| Some(who.to_str().ok()?.to_string()));
    let context = Context::of(request.headers());
    let module = about.filename.as_deref().map(module_file).transpose()?;
    let said = said_form(request.headers());
    let lists = Lists::of(request.headers())?;
    let (folder, source) = api.spool(said, module, request).await?;
    let requirements = lists.keep(&folder, &source)?;
    let (base, no_deps) = (about.base, about.no_deps);
    let order = Order { source, entry, base, requirements, no_deps, settings, author, context };
    detached(async move {
        let request = api.workshop.make(&name, order).await?;
        drop(folder);
        Ok(api.pushed(&api.changes.push(&name, &request).await?))
    })
    .await
}

impl Api {
    /// Writes the body to a file of the name that it is to be built under, in a folder that goes when it is dropped.
    async fn spool(
        &self,
        said: Option<Form>,
        module: Option<String>,
        request: Request,
    ) -> Result<(TempDir, PathBuf), ApiError> {
        let failed = |source| ApiError::Disk { step: "keep the upload", source };
        let limit = self.workshop.largest_source();
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(ApiError::SourceTooLarge { limit });
        }
        let folder = TempDir::new_in(&self.about.uploads).map_err(failed)?;
        let spooled = folder.path().join("upload");
        let first = write(request.into_body(), &spooled, limit).await?;
        let form = said.unwrap_or_else(|| form_of(&first));
        let name = match form {
            Form::Zip => "source.zip".into(),
            Form::Python => module.unwrap_or_else(|| "func.py".into()),
        };
        let source = folder.path().join("source").join(name);
        tokio::fs::create_dir(folder.path().join("source")).await.map_err(failed)?;
        tokio::fs::rename(&spooled, &source).await.map_err(failed)?;
        Ok((folder, source))
    }
}

/// What says which packages are wanted, beside the source.
struct Lists {
    requirements: Option<Vec<u8>>,
    lock: Option<Vec<u8>>,
}

impl Lists {
    fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let decoded = |name: &'static str| {
            let Some(value) = headers.get(name) else { return Ok(None) };
            let bytes = STANDARD.decode(value).ok().filter(|bytes| bytes.len() <= LONGEST_LIST);
            let refused = || ApiError::Request {
                what: format!("{name}: expected base64 of at most {LONGEST_LIST} bytes"),
            };
            bytes.map(Some).ok_or_else(refused)
        };
        Ok(Self { requirements: decoded(REQUIREMENTS_HEADER)?, lock: decoded(LOCK_HEADER)? })
    }

    /// Puts the lock beside the source, where it is looked for, and gives the file of the other list.
    fn keep(&self, folder: &TempDir, source: &std::path::Path) -> Result<Option<PathBuf>, ApiError> {
        let failed = |source| ApiError::Disk { step: "keep the upload", source };
        if let Some(lock) = &self.lock {
            std::fs::write(lock_beside(source), lock).map_err(failed)?;
        }
        let Some(list) = &self.requirements else { return Ok(None) };
        // Messages call it by its name.
        let path = folder.path().join("requirements.txt");
        std::fs::write(&path, list).map_err(failed)?;
        Ok(Some(path))
    }
}

/// Writes a body to a file and gives its first bytes.
async fn write(body: Body, path: &std::path::Path, limit: u64) -> Result<Vec<u8>, ApiError> {
    let failed = |source| ApiError::Disk { step: "keep the upload", source };
    let broken = |why: String| ApiError::Request { what: format!("the upload broke off: {why}") };
    let mut file = tokio::fs::File::create_new(path).await.map_err(failed)?;
    let (mut body, mut first, mut size) = (body.into_data_stream(), Vec::new(), 0_u64);
    loop {
        let piece = tokio::time::timeout(SILENCE, body.next()).await;
        let piece = piece.map_err(|_| broken(format!("nothing came for {} s", SILENCE.as_secs())))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| broken(error.to_string()))?;
        size += piece.len() as u64;
        if size > limit {
            return Err(ApiError::SourceTooLarge { limit });
        }
        if first.is_empty() {
            first.extend(piece.iter().take(512));
        }
        file.write_all(&piece).await.map_err(failed)?;
    }
    if size == 0 {
        return Err(ApiError::Request { what: "the body is empty: a zip or a .py is expected".into() });
    }
    file.flush().await.map_err(failed)?;
    Ok(first)
}

/// A zip begins with `PK`; text has no NUL. What is neither is left to the zip reader to say so.
fn form_of(first: &[u8]) -> Form {
    if first.starts_with(b"PK") || first.contains(&0) { Form::Zip } else { Form::Python }
}

/// By the content type. `curl` names a type that is neither, so that most uploads are told by their first bytes.
fn said_form(headers: &HeaderMap) -> Option<Form> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/zip" | "application/x-zip-compressed" => Some(Form::Zip),
        "text/x-python" | "text/x-script.python" | "application/x-python-code" => Some(Form::Python),
        _ => None,
    }
}

/// A file's name and nothing more: it becomes part of a path.
fn module_file(name: &str) -> Result<String, ApiError> {
    let plain = name.ends_with(".py") && name.len() <= LONGEST_NAME && !name.contains(['/', '\0']);
    let refused =
        || ApiError::Request { what: "filename: expected a name that ends in .py, without /".into() };
    plain.then(|| name.to_string()).ok_or_else(refused)
}

fn settings(headers: &HeaderMap) -> Result<SettingsPatch, ApiError> {
    let Some(value) = headers.get(SETTINGS_HEADER) else { return Ok(SettingsPatch::default()) };
    serde_json::from_slice(value.as_bytes())
        .map_err(|error| ApiError::Request { what: format!("{SETTINGS_HEADER}: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_told_by_the_type_and_else_by_the_first_bytes() {
        let headers = |kind: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        assert_eq!(said_form(&headers("application/zip")), Some(Form::Zip));
        assert_eq!(said_form(&headers("Text/X-Python; charset=utf-8")), Some(Form::Python));
        assert_eq!(said_form(&headers("application/x-www-form-urlencoded")), None);
        assert_eq!(form_of(b"PK\x03\x04"), Form::Zip);
        assert_eq!(form_of(b"def run(): pass"), Form::Python);
        assert_eq!(form_of(b"\x7fELF\0"), Form::Zip);
    }

    #[test]
    fn a_file_name_cannot_lead_out_of_its_folder() {
        assert_eq!(module_file("hello.py").unwrap(), "hello.py");
        for name in ["../x.py", "/etc/x.py", "x", "x.py/", "a\0.py", &format!("{}.py", "a".repeat(300))] {
            assert!(module_file(name).is_err(), "{name:?}");
        }
    }
}
