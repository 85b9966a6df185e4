//! Pull-through: what is missing here is fetched from another registry, verified, kept, and served from then on.
//!
//! By digest nothing is asked twice. A tag is asked for again each time, as it may have moved; when the other registry is
//! away, the tag that is known answers. Only anonymous access and a user in the URL are known here: it is a cache, not a
//! client.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::watch;

use super::ServerError;
use super::answer::{self, Code, JSON, Problem};
use super::arriving::{Arriving, Transfer};
use super::manifest::{MAX_MANIFEST, Outline};
use super::route::ManifestName;
use super::server::{Answer, Registry};
use super::store::{Found, Store, StoreError, UploadId};
use crate::oci::{Digest, Hasher, Repository, Tag};

/// Every kind of manifest: the client behind us picks.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
    */*;q=0.1";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two reads of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the other registry gave nothing.
#[derive(Debug, thiserror::Error)]
enum Upstream {
    #[error("ask {url}")]
    Away { url: String, source: reqwest::Error },
    #[error("{url} answered {status}")]
    Refused { url: String, status: StatusCode },
    #[error("{url} gave content that is not {expected}")]
    Wrong { url: String, expected: Digest },
    #[error("{url} gave a manifest larger than {MAX_MANIFEST} bytes")]
    TooLarge { url: String },
}

impl From<Upstream> for Problem {
    fn from(error: Upstream) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "the mirrored registry");
        Self::new(Code::Upstream, format!("the mirrored registry did not help: {error}"))
    }
}

pub struct Mirror {
    /// `https://HOST[:PORT]`, without a slash at its end.
    base: String,
    user: Option<(String, String)>,
    client: reqwest::Client,
    /// Bearer tokens by repository.
    tokens: Mutex<HashMap<Repository, String>>,
    /// Blobs on their way, so that many clients cause one transfer.
    arriving: Mutex<HashMap<(Repository, Digest), Slot>>,
}

/// Locked while a transfer begins.
type Slot = Arc<tokio::sync::Mutex<Option<Arriving>>>;

/// What became of a blob that was missing.
pub enum Mirrored {
    Here,
    Arriving(Arriving, u64),
    Nowhere,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

impl Mirror {
    pub fn new(url: &str) -> Result<Self, ServerError> {
        let invalid = || ServerError::MirrorUrl { url: url.into() };
        let mut parsed = reqwest::Url::parse(url).map_err(|_| invalid())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() || parsed.path() != "/"
        {
            return Err(invalid());
        }
        let name = parsed.username().to_string();
        let user = (!name.is_empty()).then(|| (name, parsed.password().unwrap_or_default().to_string()));
        parsed.set_username("").and_then(|()| parsed.set_password(None)).map_err(|()| invalid())?;
        // Somebody else may have installed one already; which one does not matter.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|source| ServerError::MirrorClient { source })?;
        let base = parsed.as_str().trim_end_matches('/').into();
        Ok(Self { base, user, client, tokens: Mutex::default(), arriving: Mutex::default() })
    }

    fn token(&self, repository: &Repository) -> Option<String> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(repository).cloned()
    }

    /// A good answer, or `None` for a 404.
    async fn ask(
        &self,
        method: Method,
        repository: &Repository,
        path: &str,
    ) -> Result<Option<reqwest::Response>, Upstream> {
        let url = format!("{}/v2/{repository}/{path}", self.base);
        let away = |source| Upstream::Away { url: url.clone(), source };
        let mut renewed = false;
        loop {
            let mut request = self.client.request(method.clone(), &url).header(header::ACCEPT, ACCEPT);
            match (self.token(repository), &self.user) {
                (Some(token), _) => request = request.bearer_auth(token),
                (None, Some((user, password))) => request = request.basic_auth(user, Some(password)),
                (None, None) => {}
            }
            let response = request.send().await.map_err(away)?;
            match response.status() {
                StatusCode::OK => return Ok(Some(response)),
                StatusCode::NOT_FOUND => return Ok(None),
                StatusCode::UNAUTHORIZED if !renewed => {
                    renewed = true;
                    let challenge = response.headers().get(header::WWW_AUTHENTICATE);
                    let challenge = challenge.and_then(|value| value.to_str().ok()).unwrap_or_default();
                    let Some(token) = self.renew(challenge).await.map_err(away)? else {
                        return Err(Upstream::Refused { url, status: response.status() });
                    };
                    let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                    tokens.insert(repository.clone(), token);
                }
                status => return Err(Upstream::Refused { url, status }),
            }
        }
    }

    /// A token from where the challenge says: `Bearer realm="…",service="…",scope="…"`.
    async fn renew(&self, challenge: &str) -> Result<Option<String>, reqwest::Error> {
        let Some(parameters) = challenge.strip_prefix("Bearer ") else { return Ok(None) };
        let parameter = |name: &str| {
            let (_, rest) = parameters.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let Some(realm) = parameter("realm") else { return Ok(None) };
        let query = ["service", "scope"].into_iter().filter_map(|name| Some((name, parameter(name)?)));
        let Ok(url) = reqwest::Url::parse_with_params(realm, query) else { return Ok(None) };
        let mut request = self.client.get(url);
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, Some(password));
        }
        let token: Token = request.send().await?.error_for_status()?.json().await?;
        Ok(Some(token.token))
    }

    fn slot(&self, key: &(Repository, Digest)) -> Slot {
        let mut slots = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that neither a transfer nor a client holds any more.
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        slots.entry(key.clone()).or_default().clone()
    }

    /// Joins the transfer of a blob, or begins it. `None` if the blob is here by now, or not there.
    async fn fetch(
        &self,
        store: &Arc<Store>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Arriving>, Problem> {
        let key = (repository.clone(), digest.clone());
        let slot = self.slot(&key);
        let mut current = slot.lock().await;
        if let Some(arriving) = current.as_ref().filter(|arriving| arriving.goes_on()) {
            return Ok(Some(arriving.clone()));
        }
        if store.index().blob_in(repository, digest, None).is_some() {
            return Ok(None);
        }
        let path = format!("blobs/{digest}");
        let Some(response) = self.ask(Method::GET, repository, &path).await? else { return Ok(None) };
        let id = store.uploads().begin(repository, digest.algorithm()).await?;
        let path = store.uploads().path(repository, &id);
        let file = std::fs::File::open(&path).map_err(|source| StoreError::io("open", &path, source))?;
        let (sender, receiver) = watch::channel(Transfer::Going(0));
        let arriving = Arriving::new(file, response.content_length(), receiver);
        *current = Some(arriving.clone());
        let (store, held) = (store.clone(), slot.clone());
        // It goes on if the client goes away: the next one will ask for it, too.
        tokio::spawn(async move {
            let sender = Arc::new(sender);
            let kept = keep(&store, &key, &id, response, &sender).await;
            sender.send_replace(match kept {
                Ok(()) => Transfer::Kept,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, digest = %key.1, "the mirrored registry");
                    Transfer::Failed(error.to_string())
                }
            });
            drop(held);
        });
        Ok(Some(arriving))
    }

    async fn manifest(
        &self,
        repository: &Repository,
        name: &ManifestName,
    ) -> Result<Option<(Digest, Option<String>, Bytes)>, Upstream> {
        let Some(response) = self.ask(Method::GET, repository, &path_of(name)).await? else {
            return Ok(None);
        };
        let url = response.url().to_string();
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = content_type.map(str::to_string);
        let mut bytes = BytesMut::new();
        let mut body = reqwest::Body::from(response);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| Upstream::Away { url: url.clone(), source })?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
            if bytes.len() > MAX_MANIFEST {
                return Err(Upstream::TooLarge { url });
            }
        }
        let expected = match name {
            ManifestName::Digest(digest) => digest.clone(),
            ManifestName::Tag(_) => return Ok(Some((Digest::of(&bytes), content_type, bytes.freeze()))),
        };
        let mut hasher = Hasher::new(expected.algorithm());
        hasher.update(&bytes);
        if hasher.finish() != expected {
            return Err(Upstream::Wrong { url, expected });
        }
        Ok(Some((expected, content_type, bytes.freeze())))
    }
}

/// Receives, verifies and stores a blob.
async fn keep(
    store: &Store,
    (repository, digest): &(Repository, Digest),
    id: &UploadId,
    response: reqwest::Response,
    progress: &Arc<watch::Sender<Transfer>>,
) -> Result<(), StoreError> {
    let (length, progress) = (response.content_length(), progress.clone());
    let mut upload = store.uploads().open(repository, id)?;
    upload.report_to(Arc::new(move |written| drop(progress.send_replace(Transfer::Going(written)))));
    match upload.complete(&mut reqwest::Body::from(response), length).await {
        Ok(received) => store.commit(upload, received, repository, digest).await,
        Err(error) => {
            drop(upload.cancel().await);
            Err(error)
        }
    }
}

fn not_taken(problem: &str) -> String {
    format!("the mirrored registry's blob was not taken: {problem}")
}

fn path_of(name: &ManifestName) -> String {
    match name {
        ManifestName::Tag(tag) => format!("manifests/{tag}"),
        ManifestName::Digest(digest) => format!("manifests/{digest}"),
    }
}

impl Registry {
    /// Brings a manifest here that is missing, or whose tag has moved. Nothing to do without a mirror.
    pub async fn mirror_manifest(
        &self,
        repository: &Repository,
        name: &ManifestName,
        here: Option<&Found>,
    ) -> Result<(), Problem> {
        let Some(mirror) = self.mirror() else { return Ok(()) };
        let asked = match (name, here) {
            (ManifestName::Digest(_), Some(_)) => return Ok(()),
            (ManifestName::Tag(tag), Some(here)) => match self.moved(mirror, repository, tag, here).await {
                Ok(false) => return Ok(()),
                Ok(true) => mirror.manifest(repository, name).await,
                Err(error) => Err(error),
            },
            (_, None) => mirror.manifest(repository, name).await,
        };
        let (digest, content_type, bytes) = match (asked, here) {
            (Ok(Some(manifest)), _) => manifest,
            (Ok(None), _) => return Ok(()),
            (Err(error), Some(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "serving what is known");
                return Ok(());
            }
            (Err(error), None) => return Err(error.into()),
        };
        let tags = match name {
            ManifestName::Tag(tag) => vec![tag.clone()],
            ManifestName::Digest(_) => Vec::new(),
        };
        let outline = Outline::read(&bytes)?;
        let (record, _) = outline.record(repository, content_type.as_deref(), (digest, &bytes), tags)?;
        self.store().put_manifest(record, bytes, &[]).await?;
        Ok(())
    }

    /// Whether the other registry's tag points elsewhere.
    async fn moved(
        &self,
        mirror: &Mirror,
        repository: &Repository,
        tag: &Tag,
        here: &Found,
    ) -> Result<bool, Upstream> {
        let path = format!("manifests/{tag}");
        let Some(response) = mirror.ask(Method::HEAD, repository, &path).await? else { return Ok(false) };
        let digest = response.headers().get(answer::CONTENT_DIGEST).and_then(|value| value.to_str().ok());
        Ok(digest.is_none_or(|digest| digest != here.digest.to_string()))
    }

    /// Brings a blob here: one that is small, or of which the client wants a part, before this returns; any other
    /// can be followed.
    pub async fn mirror_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        whole: bool,
    ) -> Result<Mirrored, Problem> {
        let Some(mirror) = self.mirror() else { return Ok(Mirrored::Nowhere) };
        let Some(arriving) = mirror.fetch(self.store(), repository, digest).await? else {
            let here = self.store().index().blob_in(repository, digest, None).is_some();
            return Ok(if here { Mirrored::Here } else { Mirrored::Nowhere });
        };
        match arriving.worth_following() {
            Some(size) if whole => Ok(Mirrored::Arriving(arriving, size)),
            _ => match arriving.ended().await {
                Ok(()) => Ok(Mirrored::Here),
                Err(problem) => Err(Problem::new(Code::Upstream, not_taken(&problem))),
            },
        }
    }

    /// The other registry's list of tags, when it answers.
    pub async fn mirror_tags(&self, repository: &Repository, query: Option<&str>) -> Option<Answer> {
        let mirror = self.mirror()?;
        let path = query.map_or_else(|| "tags/list".into(), |query| format!("tags/list?{query}"));
        let response = mirror.ask(Method::GET, repository, &path).await.ok()??;
        let next = response.headers().get(header::LINK).cloned();
        let mut listed = answer::full(StatusCode::OK, JSON, response.bytes().await.ok()?);
        if let Some(next) = next {
            listed.headers_mut().insert(header::LINK, next);
        }
        Some(Ok(listed))
    }
}
