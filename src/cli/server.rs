//! The command line's end of the server's API: one request on one connection.

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::api::Problem;
use crate::function::FunctionName;

use super::OutputFormat;
use super::tls::{Tls, TlsError};

// Where the server is.
#[derive(clap::Args)]
pub struct ServerArguments {
    /// The fnbuild server
    #[arg(long, env = "FNBUILD_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub server: String,
    /// A token for the server, or @FILE with one
    #[arg(long, env = "FNBUILD_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// A certificate authority to trust for a server at https://
    #[arg(long, env = "FNBUILD_SERVER_CA", value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
}

// Which server is asked, and how what it answers is printed.
#[derive(clap::Args)]
pub struct AskArguments {
    #[command(flatten)]
    pub at: ServerArguments,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub output: OutputFormat,
}

impl AskArguments {
    pub fn server(&self) -> Result<Server, ServerError> {
        Server::new(&self.at)
    }
}

/// A body that is sent to the server.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// No answer of the API that is read whole is larger, and a wrong server must not fill the memory.
const LARGEST_ANSWER: usize = 64 << 20;

/// A server that may or may not be there.
pub struct Server {
    url: String,
    authority: http::uri::Authority,
    authorization: Option<HeaderValue>,
    /// Where it is spoken to by TLS.
    tls: Option<Tls>,
}

/// What can go wrong between the command line and the server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{url:?} is no server's URL: expected http://HOST[:PORT] or https://HOST[:PORT]")]
    Url { url: String },
    #[error("no server at {url}")]
    Away {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read the token in {}", path.display())]
    TokenFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the token has characters that no token has")]
    Token,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the connection to the server at {url} broke")]
    Broken {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{}", problem.error_message)]
    Refused { status: StatusCode, problem: Problem },
    #[error("what answers at {url} is no fnbuild server ({what})")]
    Foreign { url: String, what: String },
}

impl ServerError {
    /// The next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Url { .. } => {
                Some("give --server or FNBUILD_SERVER, for example http://127.0.0.1:8080".into())
            }
            Self::Away { .. } => {
                Some("start one with `fnbuild serve`, or name another with --server or FNBUILD_SERVER".into())
            }
            Self::Refused { problem: Problem { hint: Some(hint), .. }, .. } => Some(hint.clone()),
            Self::Tls(error) => error.hint(),
            Self::Token | Self::TokenFile { .. } => {
                Some("give --token or FNBUILD_TOKEN: a token, or @FILE".into())
            }
            Self::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
                Some("give --token or FNBUILD_TOKEN; `fnbuild token create` makes one".into())
            }
            Self::Refused { status: StatusCode::NOT_FOUND, .. } => {
                Some("`fnbuild list` shows the functions that are there".into())
            }
            Self::Broken { url, source } if url.starts_with("http:") && is_no_http(&**source) => {
                Some("what answers there speaks no plain HTTP: is it to be https:// ?".into())
            }
            Self::Refused { .. } | Self::Broken { .. } | Self::Foreign { .. } => None,
        }
    }
}

fn is_no_http(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse)
}

impl Server {
    pub fn new(arguments: &ServerArguments) -> Result<Self, ServerError> {
        let refused = || ServerError::Url { url: arguments.server.clone() };
        let uri: http::Uri = arguments.server.parse().map_err(|_| refused())?;
        let authority = uri.authority().cloned().ok_or_else(refused)?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || uri.path() != "/" || authority.as_str().contains('@') {
            return Err(refused());
        }
        let authorization = arguments.token.as_deref().map(bearer).transpose()?;
        let tls = (scheme == "https").then(|| Tls::new(arguments.server_ca.as_deref())).transpose()?;
        Ok(Self { url: format!("{scheme}://{authority}"), authority, authorization, tls })
    }

    /// `http://HOST[:PORT]` or `https://…`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request for `path`, to be completed and given to [`Server::send`].
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request =
            Request::builder().method(method).uri(path).header(header::HOST, self.authority.as_str());
        match &self.authorization {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        }
    }

    /// Sends a request and gives the answer, whatever its status.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ServerError> {
        let port = self.authority.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|source| ServerError::Away { url: self.url.clone(), source })?;
        match &self.tls {
            Some(tls) => self.converse(tls.wrap(host, stream).await?, request).await,
            None => self.converse(stream, request).await,
        }
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ServerError> {
        let broken =
            |source: hyper::Error| ServerError::Broken { url: self.url.clone(), source: source.into() };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(broken)
    }

    /// Sends a request and gives the answer if it is a good one; else the error that it tells.
    pub async fn send_ok(&self, request: Request<Body>) -> Result<Response<Incoming>, ServerError> {
        let response = self.send(request).await?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        Err(self.error(response).await?)
    }

    /// The error that an answer tells.
    pub async fn error(&self, response: Response<Incoming>) -> Result<ServerError, ServerError> {
        let status = response.status();
        let body = self.read(response).await?;
        Ok(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => ServerError::Refused { status, problem },
            Err(_) => ServerError::Foreign { url: self.url.clone(), what: format!("it said {status}") },
        })
    }

    /// One call of the API: JSON in, if any, and JSON out.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let body = body.map(serde_json::to_vec).transpose()?;
        let request = self.request(method, path).header(header::CONTENT_TYPE, "application/json");
        let response = self.send_ok(request.body(whole(body.unwrap_or_default()))?).await?;
        let bytes = self.read(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            ServerError::Foreign { url: self.url.clone(), what: format!("its answer: {error}") }.into()
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Fails where there is no function of this name: for a list that may be empty because it is misspelt.
    pub async fn must_have(&self, name: &FunctionName) -> anyhow::Result<()> {
        self.get::<serde::de::IgnoredAny>(&format!("/v1/functions/{name}")).await.map(drop)
    }

    /// The body of an answer, which must not be larger than any of the API's.
    pub async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ServerError> {
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        Ok(body.map_err(|source| ServerError::Broken { url: self.url.clone(), source })?.to_bytes())
    }
}

/// The header for a token, or for the one in `@FILE`.
fn bearer(token: &str) -> Result<HeaderValue, ServerError> {
    let read = match token.strip_prefix('@') {
        Some(path) => {
            let failed = |source| ServerError::TokenFile { path: path.into(), source };
            std::fs::read_to_string(path).map_err(failed)?
        }
        None => token.to_string(),
    };
    let mut value =
        HeaderValue::try_from(format!("Bearer {}", read.trim())).map_err(|_| ServerError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A body that is in memory already.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// What a verb that talks to the server runs on.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
