//! One exchange with a registry: authorization, redirects, retries, and the watch for transfers that stall.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use url::Url;

use super::access::Patience;
use super::auth::{Auth, Scope};
use super::body::{Moved, Outgoing, Payload};
use super::connect::{Connector, Failed};
use super::error::shown;
use super::location;
use super::{Access, Error};

const MAX_REDIRECTS: usize = 5;
/// What is read of an answer that is only there to say what went wrong.
const MAX_ERROR_BODY: u64 = 64 << 10;
const AGENT: &str = concat!("fnbuild/", env!("CARGO_PKG_VERSION"));

/// A request, which may have to be sent more than once.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub payload: Payload,
    pub scope: &'a Scope,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, url: Url, scope: &'a Scope) -> Self {
        Self { method, url, headers: Vec::new(), payload: Payload::None, scope }
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn payload(mut self, payload: Payload) -> Self {
        self.payload = payload;
        self
    }
}

/// Kept-alive connections and nothing more: no authorization, no retry.
pub(super) struct Http {
    client: Client<Connector, Outgoing>,
    patience: Patience,
}

impl Http {
    fn new(access: &Access) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(Connector::new(access.clone()));
        Self { client, patience: access.patience.clone() }
    }

    /// Sends once and waits for the head of the answer, as long as anything moves.
    async fn send(&self, call: &Call<'_>, authorization: Option<HeaderValue>) -> Result<Answer, Error> {
        let (method, url) = (&call.method, &call.url);
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| Error::Broken {
            method: method.clone(),
            url: shown(url),
            source,
        };
        let moved = Moved::default();
        let body = call.payload.body(moved.clone()).map_err(|source| content_error(call, source))?;
        let mut request = http::Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() =
            url.as_str().parse().map_err(|_| Error::protocol(method, url, "the URL fits no request"))?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.extend(call.headers.iter().cloned());
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        tracing::trace!(%method, url = shown(url), "request");
        let mut answer = pin!(self.client.request(request));
        let mut before = 0;
        let response = loop {
            match tokio::time::timeout(self.patience.idle, &mut answer).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) => {
                    return Err(match Failed::take(&error) {
                        Some(connect) => connect,
                        None if is_content(&error) => content_error(call, std::io::Error::other(error)),
                        None => broken(error.into()),
                    });
                }
                Err(_) => {
                    let now = moved.load(Ordering::Relaxed);
                    if now == before {
                        let after = self.patience.idle;
                        return Err(Error::Stalled { method: method.clone(), url: shown(url), after });
                    }
                    before = now;
                }
            }
        };
        let (head, body) = response.into_parts();
        tracing::trace!(%method, url = shown(url), status = head.status.as_u16(), "answer");
        Ok(Answer { method: method.clone(), url: url.clone(), head, body, idle: self.patience.idle })
    }

    /// A GET whose answer is small, for the token server. Follows no redirect: the password would go along.
    pub async fn get_small(
        &self,
        url: &Url,
        authorization: Option<HeaderValue>,
    ) -> Result<(StatusCode, Bytes), Error> {
        let scope = Scope::none();
        let answer = self.send(&Call::new(Method::GET, url.clone(), &scope), authorization).await?;
        Ok((answer.head.status, answer.bytes(MAX_ERROR_BODY).await?))
    }

    pub async fn post_form(&self, url: &Url, form: String) -> Result<(StatusCode, Bytes), Error> {
        let scope = Scope::none();
        let call = Call::new(Method::POST, url.clone(), &scope)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .payload(Payload::Bytes(form.into()));
        let answer = self.send(&call, None).await?;
        Ok((answer.head.status, answer.bytes(MAX_ERROR_BODY).await?))
    }
}

/// The body could not be read: ours to mend, not the network's.
fn is_content(error: &hyper_util::client::legacy::Error) -> bool {
    let inner = std::error::Error::source(error).and_then(|inner| inner.downcast_ref::<hyper::Error>());
    inner.is_some_and(hyper::Error::is_user)
}

fn content_error(call: &Call<'_>, source: std::io::Error) -> Error {
    match &call.payload {
        Payload::Content(content) => Error::Source { digest: content.digest().clone(), source },
        _ => Error::Broken { method: call.method.clone(), url: shown(&call.url), source: source.into() },
    }
}

/// Exchanges with one registry.
pub(super) struct Transport {
    http: Http,
    auth: Auth,
    root: Url,
    /// Once it has answered, a refused connection is a restart, not a wrong name.
    answered: AtomicBool,
}

impl Transport {
    pub fn new(access: &Access, auth: Auth, root: Url) -> Self {
        Self { http: Http::new(access), auth, root, answered: AtomicBool::new(false) }
    }

    /// One try: with authorization where it is this registry, through redirects where there are any.
    pub async fn once(&self, mut call: Call<'_>) -> Result<Answer, Error> {
        let mut challenged = false;
        let mut redirects = 0;
        loop {
            // Credentials are for this registry's own origin; a storage or another host never sees them.
            let ours = location::same_origin(&call.url, &self.root);
            let mut authorization = None;
            if ours {
                authorization = self.auth.header(&self.http, call.scope).await?;
            }
            let mut answer = self.http.send(&call, authorization.clone()).await?;
            self.answered.store(true, Ordering::Relaxed);
            if answer.head.status == StatusCode::UNAUTHORIZED && ours {
                let challenges: Vec<_> =
                    answer.head.headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
                answer.drain().await;
                if challenged {
                    return Err(self.auth.refused(call.scope));
                }
                challenged = true;
                self.auth.challenge(&self.http, &challenges, call.scope, authorization.as_ref()).await?;
                continue;
            }
            if !answer.redirects() {
                return Ok(answer);
            }
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(answer.protocol(format!("more than {MAX_REDIRECTS} redirects")));
            }
            call.url = answer.location()?;
            answer.drain().await;
        }
    }

    /// Runs `attempt` until it succeeds, fails for good, or patience ends.
    pub async fn patiently<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let patience = &self.http.patience;
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            tries += 1;
            let restarting = matches!(error, Error::Connect { refused: true, .. })
                && self.answered.load(Ordering::Relaxed);
            if tries >= patience.attempts || !(error.is_transient() || restarting) {
                return Err(error);
            }
            let pause = pause(patience, tries, &error);
            if begun.elapsed() + pause > patience.total {
                return Err(error);
            }
            tracing::debug!(%error, ?pause, tries, "trying again");
            tokio::time::sleep(pause).await;
        }
    }

    /// [`Self::once`], patiently. Statuses that call for another try are errors here already.
    pub async fn send<'a>(&self, call: impl Fn() -> Call<'a>) -> Result<Answer, Error> {
        self.patiently(|| async { self.once(call()).await?.unless_transient().await }).await
    }
}

/// Half of the pause is certain, half is chance, so that many clients do not come back at once.
fn pause(patience: &Patience, tries: u32, error: &Error) -> Duration {
    let asked = match error {
        Error::Status { retry_after, .. } => *retry_after,
        _ => None,
    };
    let doubled = patience.backoff.saturating_mul(1 << (tries - 1).min(16)).min(patience.longest_pause);
    let chance = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    let own = doubled / 2 + (doubled / 2).mul_f64(chance);
    asked.map_or(own, |asked| asked.min(patience.longest_pause).max(own))
}

/// The head of an answer, and its body still to come.
pub(super) struct Answer {
    pub method: Method,
    pub url: Url,
    pub head: http::response::Parts,
    body: Incoming,
    idle: Duration,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The declared length of the body.
    pub fn length(&self) -> Option<u64> {
        self.header(http::header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Where the answer sends us.
    pub fn location(&self) -> Result<Url, Error> {
        let text = self.header(LOCATION).ok_or_else(|| self.protocol("the answer has no Location"))?;
        location::resolve(&self.url, text).map_err(|error| self.protocol(error.to_string()))
    }

    pub fn protocol(&self, problem: impl Into<String>) -> Error {
        Error::protocol(&self.method, &self.url, problem)
    }

    /// The next piece of the body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await.map_err(|_| {
                Error::Stalled { method: self.method.clone(), url: shown(&self.url), after: self.idle }
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => continue,
                },
                Some(Err(error)) => {
                    let source = Box::new(error);
                    return Err(Error::Broken { method: self.method.clone(), url: shown(&self.url), source });
                }
            }
        }
    }

    /// The whole body, if it is no longer than `limit`.
    pub async fn bytes(mut self, limit: u64) -> Result<Bytes, Error> {
        let what = format!("the answer to {} {}", self.method, shown(&self.url));
        if let Some(size) = self.length().filter(|size| *size > limit && self.method != Method::HEAD) {
            return Err(Error::TooLarge { what, size, limit });
        }
        let mut bytes = bytes::BytesMut::new();
        while let Some(piece) = self.piece().await? {
            bytes.extend_from_slice(&piece);
            let size = bytes.len() as u64;
            if size > limit {
                return Err(Error::TooLarge { what, size, limit });
            }
        }
        Ok(bytes.freeze())
    }

    /// Reads a short rest, so that the connection can serve again; a long one is not worth it.
    pub async fn drain(&mut self) {
        let mut left = MAX_ERROR_BODY;
        while let Ok(Some(piece)) = self.piece().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                return;
            }
        }
    }

    /// The answer as an error, with the registry's own words.
    pub async fn into_error(mut self) -> Error {
        let retry_after = self.header(RETRY_AFTER).and_then(retry_after);
        let html = self.header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html"));
        let mut bytes = Vec::new();
        while let Ok(Some(piece)) = self.piece().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > MAX_ERROR_BODY {
                break;
            }
        }
        let message = if html { ": an HTML page, not a registry's answer".into() } else { message(&bytes) };
        let (method, url, status) = (self.method, shown(&self.url), self.head.status);
        Error::Status { method, url, status, message, retry_after }
    }

    /// What went wrong, in the words of distribution-spec, "Error Codes". Consumes the body.
    pub async fn errors(self) -> Result<Vec<ErrorInfo>, Error> {
        let bytes = self.bytes(MAX_ERROR_BODY * 16).await?;
        Ok(serde_json::from_slice::<Envelope>(&bytes).map(|envelope| envelope.errors).unwrap_or_default())
    }

    async fn unless_transient(self) -> Result<Self, Error> {
        match self.head.status.as_u16() {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => Err(self.into_error().await),
            _ => Ok(self),
        }
    }

    fn redirects(&self) -> bool {
        let reading = matches!(self.method, Method::GET | Method::HEAD);
        match self.head.status.as_u16() {
            307 | 308 => true,
            301..=303 => reading,
            _ => false,
        }
    }
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse().ok().map(Duration::from_secs);
    seconds.or_else(|| httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok())
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<ErrorInfo>,
}

/// One entry of distribution-spec's error envelope. Codes are the registry's own text: an unknown one is no surprise.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ErrorInfo {
    pub code: String,
    pub message: String,
    pub detail: serde_json::Value,
}

/// `: CODE: text` of the first errors, or the beginning of whatever text there is.
fn message(bytes: &[u8]) -> String {
    let errors =
        serde_json::from_slice::<Envelope>(bytes).map(|envelope| envelope.errors).unwrap_or_default();
    let mut said: Vec<String> = errors
        .iter()
        .take(3)
        .map(|error| match (error.code.as_str(), error.message.as_str()) {
            (code, "") => code.to_string(),
            (code, text) => format!("{code}: {text}"),
        })
        .collect();
    if said.is_empty() {
        said.push(String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_string());
    }
    let said = said.join("; ");
    let clean: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
    if clean.is_empty() { clean } else { format!(": {clean}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_and_is_capped_whatever_is_asked() {
        let patience = Patience { backoff: Duration::from_millis(100), ..Patience::default() };
        let asking = |seconds| Error::Status {
            method: Method::GET,
            url: String::new(),
            status: StatusCode::TOO_MANY_REQUESTS,
            message: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let own = pause(&patience, 3, &Error::InvalidHost { host: String::new() });
        assert!((Duration::from_millis(200)..=Duration::from_millis(400)).contains(&own), "{own:?}");
        assert_eq!(pause(&patience, 1, &asking(2)), Duration::from_secs(2));
        assert_eq!(pause(&patience, 1, &asking(86_400)), patience.longest_pause);
        assert!(pause(&patience, 60, &asking(0)) <= patience.longest_pause);
    }

    #[test]
    fn a_registrys_words_are_shown_and_cleaned() {
        let envelope = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"},{"code":"X"}]}"#;
        assert_eq!(message(envelope), ": DENIED: no[31m; X");
        assert_eq!(message(b"plain text\nmore"), ": plain text");
        assert_eq!(message(b""), "");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("soon"), None);
        let in_an_hour = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
        assert!(retry_after(&in_an_hour).unwrap() > Duration::from_secs(3500));
    }
}
