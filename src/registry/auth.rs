//! Proving who we are: distribution's Basic and Bearer schemes. Nobody is asked before a registry wants to know.
//!
//! Credentials are looked up once for each registry, kept in memory, and shown by nothing: [`Secret`] has no text form.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::Error;
use super::credentials::{self, Login};
use super::error::shown;
use super::transport::Http;
use crate::oci::Repository;

/// Text that must not be seen: not in logs, not in errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a request needs to be allowed: distribution's "Token Scope Documentation".
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Scope(Vec<String>);

impl Scope {
    /// Nothing but to be known: a login.
    pub fn none() -> Self {
        Self::default()
    }

    pub fn pull(repository: &Repository) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub fn push(repository: &Repository) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    pub fn delete(repository: &Repository) -> Self {
        Self(vec![format!("repository:{repository}:pull,delete")])
    }

    /// A mount reads what it mounts.
    pub fn mount(repository: &Repository, from: &Repository) -> Self {
        Self(vec![format!("repository:{repository}:pull,push"), format!("repository:{from}:pull")])
    }

    fn words(&self) -> String {
        if self.0.is_empty() { "the registry".into() } else { self.0.join(" ") }
    }
}

/// How one registry wants us to prove who we are, and what it gave for it.
pub(super) struct Auth {
    registry: String,
    root: Url,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` until asked for; `Some(None)` where there are none.
    login: Option<Option<Login>>,
    scheme: Option<Scheme>,
    tokens: HashMap<Scope, Token>,
}

#[derive(Clone, PartialEq)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

struct Token {
    header: HeaderValue,
    expires: Instant,
}

impl Auth {
    pub fn new(registry: String, root: Url, login: Option<Login>) -> Self {
        let state = State { login: login.map(Some), ..State::default() };
        Self { registry, root, state: Mutex::new(state) }
    }

    /// The `Authorization` to send along, once the registry has said which it wants.
    pub async fn header(&self, http: &Http, scope: &Scope) -> Result<Option<HeaderValue>, Error> {
        let mut state = self.state.lock().await;
        match state.scheme.clone() {
            None => Ok(None),
            Some(scheme) => self.obtain(&mut state, http, &scheme, scope).await.map(Some),
        }
    }

    /// Answers a 401. `refused` is what had been sent, which is of no more use.
    pub async fn challenge(
        &self,
        http: &Http,
        challenges: &[HeaderValue],
        scope: &Scope,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Error> {
        let mut state = self.state.lock().await;
        let scheme = self.choose(challenges)?;
        if state.tokens.get(scope).is_some_and(|token| refused == Some(&token.header)) {
            state.tokens.remove(scope);
        }
        let header = self.obtain(&mut state, http, &scheme, scope).await?;
        if refused == Some(&header) {
            return Err(self.refused(scope));
        }
        state.scheme = Some(scheme);
        Ok(header)
    }

    /// What we sent for `scope` was not good enough.
    pub fn refused(&self, scope: &Scope) -> Error {
        Error::Forbidden { registry: self.registry.clone(), what: scope.words() }
    }

    /// The strongest scheme that we speak among the challenges (RFC 9110, 11.6.1).
    fn choose(&self, challenges: &[HeaderValue]) -> Result<Scheme, Error> {
        let mut basic = false;
        for text in challenges.iter().filter_map(|value| value.to_str().ok()) {
            for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let realm = self.realm(&parameter("realm").unwrap_or_default())?;
                    return Ok(Scheme::Bearer { realm, service: parameter("service") });
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
            }
        }
        let problem = "it asks for neither Basic nor Bearer credentials".to_string();
        let unknown = Error::Token { registry: self.registry.clone(), realm: "nowhere".into(), problem };
        if basic { Ok(Scheme::Basic) } else { Err(unknown) }
    }

    /// The token server is the registry's word. A registry behind TLS must not make us send a password in the clear.
    fn realm(&self, text: &str) -> Result<Url, Error> {
        let refuse = |problem: &str| Error::Token {
            registry: self.registry.clone(),
            realm: text.chars().take(200).collect(),
            problem: problem.into(),
        };
        let realm: Url = text.parse().map_err(|_| refuse("the realm is no URL"))?;
        match (self.root.scheme(), realm.scheme()) {
            (_, "https") | ("http", "http") => Ok(realm),
            ("https", "http") => Err(refuse("the registry uses TLS, its token server does not")),
            _ => Err(refuse("the realm is neither http nor https")),
        }
    }

    async fn obtain(
        &self,
        state: &mut State,
        http: &Http,
        scheme: &Scheme,
        scope: &Scope,
    ) -> Result<HeaderValue, Error> {
        match scheme {
            Scheme::Basic => match self.login(state).await? {
                Some(Login::Password { user, password }) => {
                    basic(&user, &password).ok_or_else(|| self.unusable())
                }
                _ => Err(Error::Unauthorized { registry: self.registry.clone(), what: scope.words() }),
            },
            Scheme::Bearer { realm, service } => {
                if let Some(token) = state.tokens.get(scope).filter(|token| token.expires > Instant::now()) {
                    return Ok(token.header.clone());
                }
                let login = self.login(state).await?;
                let token = self.fetch(http, realm, service.as_deref(), scope, login).await?;
                let header = token.header.clone();
                state.tokens.insert(scope.clone(), token);
                Ok(header)
            }
        }
    }

    async fn login(&self, state: &mut State) -> Result<Option<Login>, Error> {
        if state.login.is_none() {
            state.login = Some(credentials::find(&self.registry).await?);
        }
        Ok(state.login.clone().flatten())
    }

    /// distribution's "Token Authentication Specification", and its OAuth2 form for an identity token.
    async fn fetch(
        &self,
        http: &Http,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
        login: Option<Login>,
    ) -> Result<Token, Error> {
        let fail =
            |problem: String| Error::Token { registry: self.registry.clone(), realm: shown(realm), problem };
        let service = service.map(|service| ("service", service));
        let (status, bytes) = if let Some(Login::Identity(token)) = &login {
            // In a block of its own: what makes the form cannot be sent between threads, the form can.
            let form = {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", "refresh_token").append_pair("client_id", "fnbuild");
                form.append_pair("refresh_token", token.reveal()).append_pair("scope", &scope.0.join(" "));
                form.extend_pairs(service);
                form.finish()
            };
            http.post_form(realm, form).await?
        } else {
            let mut url = realm.clone();
            url.query_pairs_mut()
                .extend_pairs(service)
                .extend_pairs(scope.0.iter().map(|scope| ("scope", scope)));
            let header = match &login {
                Some(Login::Password { user, password }) => {
                    Some(basic(user, password).ok_or_else(|| self.unusable())?)
                }
                _ => None,
            };
            http.get_small(&url, header).await?
        };
        if matches!(status.as_u16(), 401 | 403) {
            let (registry, what) = (self.registry.clone(), scope.words());
            return Err(match login {
                Some(_) => Error::Forbidden { registry, what },
                None => Error::Unauthorized { registry, what },
            });
        }
        if !status.is_success() {
            return Err(fail(status.to_string()));
        }
        let grant: Grant =
            serde_json::from_slice(&bytes).map_err(|_| fail("its answer is no token".into()))?;
        let text = grant.token.or(grant.access_token).filter(|token| !token.is_empty());
        let text = text.ok_or_else(|| fail("its answer holds no token".into()))?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}"))
            .map_err(|_| fail("its token fits no header".into()))?;
        header.set_sensitive(true);
        // A token is renewed before it ends, so that it does not end between two requests of one push.
        let lives = Duration::from_secs(grant.expires_in.unwrap_or(60).min(3600));
        Ok(Token { header, expires: Instant::now() + lives.saturating_sub(Duration::from_secs(5)) })
    }

    fn unusable(&self) -> Error {
        Error::Credentials { registry: self.registry.clone(), problem: "user or password fit no header" }
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct Grant {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn basic(user: &str, password: &Secret) -> Option<HeaderValue> {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal())));
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(root: &str) -> Auth {
        Auth::new("r.example".into(), root.parse().unwrap(), None)
    }

    #[test]
    fn bearer_is_chosen_before_basic() {
        let challenges = [
            HeaderValue::from_static("Basic realm=\"r\""),
            HeaderValue::from_static("Bearer realm=\"https://t.example/token\",service=\"r\",scope=\"x,y\""),
        ];
        let Ok(Scheme::Bearer { realm, service }) = auth("https://r.example/").choose(&challenges) else {
            panic!("no bearer")
        };
        assert_eq!((realm.as_str(), service.as_deref()), ("https://t.example/token", Some("r")));
    }

    #[test]
    fn a_registry_with_tls_cannot_lead_to_a_token_server_without() {
        let challenge = [HeaderValue::from_static("Bearer realm=\"http://t.example/token\"")];
        assert!(auth("https://r.example/").choose(&challenge).is_err());
        assert!(auth("http://localhost:5000/").choose(&challenge).is_ok());
    }

    #[test]
    fn garbage_is_an_error() {
        for text in ["", "Bearer", "Bearer realm=\"file:///x\"", "Negotiate", "\"\"=,,"] {
            assert!(
                auth("https://r.example/").choose(&[HeaderValue::from_str(text).unwrap()]).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn secrets_have_no_text_form() {
        let login = Login::Password { user: "ada".into(), password: Secret::new("hunter2") };
        assert!(!format!("{login:?}").contains("hunter2"));
    }
}
