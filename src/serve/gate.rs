//! Who is let in where: the rule for each request, and the record of every change.
//!
//! | where | nothing brought | a token |
//! |---|---|---|
//! | loopback (`--auth auto`, `local`) | may do everything, unless a web page or a proxy sent it | its role |
//! | loopback (`--auth always`), beyond | 401 | its role |
//! | beyond (`--auth local`), the functions' network | no such path | no such path |

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::response::Response;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request};
use hyper::body::Incoming;
use tower::ServiceExt;

use crate::api;
use crate::auth::{
    AdminToken, Audit, AuthError, Caller, Credentials, Door, Entry, Need, Refused, Role, Tokens,
    ensure_admin, is_platform_token,
};
use crate::config::{AuthMode, Config};
use crate::gateway::{Doorkeeper, NotAdmitted, NotAdmittedKind};
use crate::listen::Connection;
use crate::store::StoreError;

/// No name is in a longer body.
const LARGEST_NAMING: usize = 2 << 20;

/// The rules of a server.
pub struct Gate {
    door: Door,
    audit: Audit,
    mode: AuthMode,
    /// The address by which functions reach this machine.
    functions: IpAddr,
    /// Whether the pages that functions answer may do what whoever looks at them may.
    trusts_pages: bool,
}

impl Gate {
    /// Opens the audit log and makes the admin's token where one is needed. With lines for whoever starts the server.
    pub async fn start(
        config: &Config,
        tokens: Tokens,
        functions: IpAddr,
    ) -> Result<(Self, Vec<String>), AuthError> {
        let path = config.data_dir.join("audit.log");
        let failed = |source| AuthError::File { step: "open", path: path.clone(), source };
        let audit = Audit::open(&path).map_err(failed)?;
        let mode = config.access.auth;
        let is_open = config.listen.iter().any(|address| !is_loopback(address));
        let mut notes = Vec::new();
        if mode == AuthMode::Always || (mode == AuthMode::Auto && is_open) {
            notes.push(match ensure_admin(&tokens, &config.data_dir.join("admin.token")).await {
                Ok(AdminToken::In(path)) => {
                    format!("management takes a token: the admin's is in {}", path.display())
                }
                Ok(AdminToken::NotHere) => {
                    "management takes a token: the admin's was made on another node, or is revoked".into()
                }
                Err(AuthError::Store(StoreError::Away { .. })) => {
                    "management takes a token: the admin's is made when etcd is back, at the next start"
                        .into()
                }
                Err(error) => return Err(error),
            });
            if config.access.tls.is_none() && is_open {
                notes.push(
                    "tokens travel unsealed beyond this machine: give --tls-cert and --tls-key, or put TLS in front"
                        .into(),
                );
            }
        }
        let trusts_pages = config.access.trust_pages;
        Ok((Self { door: Door::new(tokens), audit, mode, functions, trusts_pages }, notes))
    }

    /// Whether there is any management where a connection came in.
    pub fn manages(&self, from: &Connection) -> bool {
        let local = from.local.ip().to_canonical();
        local != self.functions && (self.mode != AuthMode::Local || local.is_loopback())
    }

    /// Whether what functions answer on a connection must not share an origin with management.
    pub fn keeps_apart(&self, from: &Connection) -> bool {
        !self.trusts_pages && self.manages(from)
    }

    /// Answers a management request, if it may be made.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        from: &Connection,
        management: axum::Router,
    ) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_string());
        let need = api::need(&method, &path);
        let is_change = need != Need::Read && !is_look(&method);
        let caller = match self.caller(&request, from, need).await {
            Ok(caller) => caller,
            Err(NotLetIn::Foreign) => return api::foreign(),
            Err(NotLetIn::Refused(refused)) => {
                let response = api::refused(&refused);
                if let Refused::TooSmall { name, role, .. } = &refused
                    && is_change
                {
                    let who = Caller { name: name.clone(), role: *role };
                    self.note(&who, from, (&method, &path), None, &response);
                }
                return response;
            }
        };
        if !is_change {
            return run(management, request.map(Body::new)).await;
        }
        let (subject, request) = match api::names_in_body(&path) {
            true => match name_within(request).await {
                Ok(found) => found,
                Err(response) => return response,
            },
            false => (None, request.map(Body::new)),
        };
        let response = run(management, request).await;
        self.note(&caller, from, (&method, &path), subject.as_deref(), &response);
        response
    }

    async fn caller(
        &self,
        request: &Request<Incoming>,
        from: &Connection,
        need: Need,
    ) -> Result<Caller, NotLetIn> {
        let headers = request.headers();
        let brought = Credentials::of(headers);
        let is_local = is_loopback(&from.local) && self.mode != AuthMode::Always;
        match &brought {
            Credentials::Nothing if is_local => {
                if api::is_foreign(headers, from.encrypted) {
                    return Err(NotLetIn::Foreign);
                }
                if !api::is_forwarded(headers) {
                    return Ok(Caller { name: "local".into(), role: Role::Admin });
                }
            }
            // A browser adds what it was once told to every page's requests; a bearer it is told by its own page.
            Credentials::Token { basic: true, .. } if api::is_cross_origin(headers) => {
                return Err(NotLetIn::Foreign);
            }
            _ => {}
        }
        self.door.admit(&brought, from.peer.ip(), need).await.map_err(NotLetIn::Refused)
    }

    fn note(
        &self,
        who: &Caller,
        from: &Connection,
        (method, path): (&Method, &str),
        subject: Option<&str>,
        response: &Response,
    ) {
        let status = response.status();
        let outcome = match status.as_u16() {
            401 | 403 | 429 => "refused",
            ..=399 => "done",
            _ => "failed",
        };
        self.audit.write(&Entry {
            who: &who.name,
            role: who.role.as_str(),
            peer: from.peer.ip().to_canonical().to_string(),
            method: method.as_str(),
            path: path.get(..300).unwrap_or(path),
            subject,
            status: status.as_u16(),
            outcome,
        });
    }
}

enum NotLetIn {
    Foreign,
    Refused(Refused),
}

async fn run(router: axum::Router, request: Request<Body>) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn is_look(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// What a body names, and the request as it was.
async fn name_within(request: Request<Incoming>) -> Result<(Option<String>, Request<Body>), Response> {
    let (parts, body) = request.into_parts();
    match axum::body::to_bytes(Body::new(body), LARGEST_NAMING).await {
        Ok(bytes) => Ok((api::name_in_body(&bytes), Request::from_parts(parts, bytes.into()))),
        Err(_) => Err(api::body_too_large()),
    }
}

impl Doorkeeper for Gate {
    fn is_own(&self, authorization: &HeaderValue) -> bool {
        is_platform_token(authorization)
    }

    fn admit<'a>(
        &'a self,
        authorization: Option<&'a HeaderValue>,
        peer: IpAddr,
    ) -> BoxFuture<'a, Result<(), NotAdmitted>> {
        let brought = authorization.map_or(Credentials::Nothing, Credentials::read);
        Box::pin(async move {
            let admitted = self.door.admit(&brought, peer, Need::Invoke).await;
            admitted.map(drop).map_err(|refused| NotAdmitted {
                kind: match &refused {
                    Refused::Missing | Refused::Wrong => NotAdmittedKind::Unknown,
                    Refused::TooSmall { .. } => NotAdmittedKind::Forbidden,
                    Refused::TooMany { retry_after, .. } => {
                        NotAdmittedKind::TooMany { retry_after: *retry_after }
                    }
                    Refused::Unchecked(_) => NotAdmittedKind::Unchecked,
                },
                reason: refused.to_string(),
            })
        })
    }
}
