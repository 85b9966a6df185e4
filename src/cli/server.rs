//! The command line's end of the server's API: one request on one connection, plain HTTP.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::api::Problem;

/// Where the server is.
#[derive(clap::Args)]
pub struct ServerArguments {
    /// The fnbuild server
    #[arg(long, env = "FNBUILD_SERVER", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub server: String,
}

/// A body that is sent to the server.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// No answer of the API that is read whole is larger, and a wrong server must not fill the memory.
const LARGEST_ANSWER: usize = 64 << 20;

/// A server that may or may not be there.
pub struct Server {
    url: String,
    authority: http::uri::Authority,
}

/// What can go wrong between the command line and the server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{url:?} is no server's URL: expected http://HOST[:PORT]")]
    Url { url: String },
    #[error("no server at {url}")]
    Away {
        url: String,
        #[source]
        source: std::io::Error,
    },
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
            Self::Refused { status: StatusCode::NOT_FOUND, .. } => {
                Some("`fnbuild list` shows the functions that are there".into())
            }
            Self::Refused { .. } | Self::Broken { .. } | Self::Foreign { .. } => None,
        }
    }
}

impl Server {
    pub fn new(arguments: &ServerArguments) -> Result<Self, ServerError> {
        let refused = || ServerError::Url { url: arguments.server.clone() };
        let uri: http::Uri = arguments.server.parse().map_err(|_| refused())?;
        let authority = uri.authority().cloned().ok_or_else(refused)?;
        if uri.scheme_str() != Some("http") || uri.path() != "/" || authority.as_str().contains('@') {
            return Err(refused());
        }
        Ok(Self { url: format!("http://{authority}"), authority })
    }

    /// `http://HOST[:PORT]`, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A request for `path`, to be completed and given to [`Server::send`].
    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header(header::HOST, self.authority.as_str())
    }

    /// Sends a request and gives the answer, whatever its status.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ServerError> {
        let port = self.authority.port_u16().unwrap_or(80);
        let host = self.authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|source| ServerError::Away { url: self.url.clone(), source })?;
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

    /// The body of an answer, which must not be larger than any of the API's.
    pub async fn read(&self, response: Response<Incoming>) -> Result<Bytes, ServerError> {
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        Ok(body.map_err(|source| ServerError::Broken { url: self.url.clone(), source })?.to_bytes())
    }
}

/// A body that is in memory already.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// What a verb that talks to the server runs on.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
