//! Where answers go: `X-Callback-Url`, and which URLs it may name.
//!
//! Whoever may call a function chooses this URL, and the server, which stands where callers may not, connects to it. So
//! it goes no further than functions themselves may (`--egress`), and to hosts that the operator names. Names are
//! resolved here, each address is checked, and the connection is made to the address that was checked; redirects are not
//! followed. Of this server itself only functions can be called back, never its management.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use super::error::QueueError;
use crate::gateway::{is_later, is_trigger};
use crate::tls;

/// How often an answer is sent at most.
pub const ATTEMPTS: u32 = 5;
/// One attempt, to the answer's head.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which hosts may be called back that are not named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    Nowhere,
    /// Public addresses only.
    #[default]
    Public,
    /// Everything but this machine's loopback.
    Everywhere,
}

/// `HOST` or `HOST:PORT`, as the operator names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallbackHost {
    host: String,
    port: Option<u16>,
}

impl FromStr for CallbackHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(&format!("http://{text}/"));
        let url =
            url.ok().filter(|url| url.path() == "/" && url.username().is_empty() && !text.contains('/'));
        let expected = || format!("{text:?} is neither HOST nor HOST:PORT");
        let host = url.as_ref().and_then(Url::host_str).ok_or_else(expected)?.to_string();
        // The URL leaves 80 out.
        let port = text.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok(Self { host, port })
    }
}

/// Sends answers to where they may go.
pub struct Callbacks {
    pub reach: Reach,
    pub hosts: Vec<CallbackHost>,
    /// Where this server listens.
    pub own: Vec<SocketAddr>,
    tls: OnceLock<TlsConnector>,
}

/// Why an answer did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Undelivered {
    #[error("{0}")]
    Refused(String),
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
}

impl Undelivered {
    /// Whether another attempt may go better.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Connection(_) | Self::TooSlow => true,
            Self::Status(status) => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
        }
    }
}

impl Callbacks {
    pub fn new(reach: Reach, hosts: Vec<CallbackHost>, own: Vec<SocketAddr>) -> Self {
        Self { reach, hosts, own, tls: OnceLock::new() }
    }

    /// What can be said of a URL without resolving its name: so that a call is refused at once.
    pub fn check(&self, text: &str) -> Result<Url, QueueError> {
        let refused = |why: String| QueueError::Callback { url: text.chars().take(300).collect(), why };
        let url = Url::parse(text).map_err(|error| refused(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(refused("only http and https can be called".into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("it must hold no credentials".into()));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match literal {
            Some(address) => self.permit(&url, address, port).map_err(refused)?,
            None if self.reach == Reach::Nowhere && !self.names(&url, port) => {
                return Err(refused("it is none of the hosts that may be called back".into()));
            }
            None => {}
        }
        Ok(url)
    }

    /// Sends once.
    pub async fn send(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<(), Undelivered> {
        let sending = async {
            let stream = self.connect(url).await?;
            let path = match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_string(),
            };
            let mut request = Request::post(path).body(Full::new(body)).map_err(connection)?;
            *request.headers_mut() = headers;
            let host = url[url::Position::BeforeHost..url::Position::AfterPort].to_string();
            request.headers_mut().insert(HOST, HeaderValue::try_from(host).map_err(connection)?);
            match url.scheme() {
                "https" => exchange(self.secure(url, stream).await?, request).await,
                _ => exchange(stream, request).await,
            }
        };
        let status = tokio::time::timeout(PATIENCE, sending).await.map_err(|_| Undelivered::TooSlow)??;
        if status.is_success() { Ok(()) } else { Err(Undelivered::Status(status)) }
    }

    async fn connect(&self, url: &Url) -> Result<TcpStream, Undelivered> {
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            Some(Host::Domain(name)) => {
                tokio::net::lookup_host((name, port)).await.map_err(connection)?.collect()
            }
            None => Vec::new(),
        };
        let mut failed = Undelivered::Connection("the name has no address".into());
        for address in addresses {
            if let Err(why) = self.permit(url, address.ip(), address.port()) {
                failed = Undelivered::Refused(why);
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = connection(error),
            }
        }
        Err(failed)
    }

    /// Whether this address may be connected to for this URL.
    fn permit(&self, url: &Url, address: IpAddr, port: u16) -> Result<(), String> {
        let address = address.to_canonical();
        let permitted = match self.reach {
            _ if self.names(url, port) => true,
            Reach::Nowhere => false,
            Reach::Public => is_public(address),
            Reach::Everywhere => !address.is_loopback() && !address.is_unspecified(),
        };
        if !permitted {
            return Err(format!("{address} is not where functions may connect to"));
        }
        let is_own = |own: &SocketAddr| {
            let everywhere = own.ip().is_unspecified() && is_here(address);
            own.port() == port && (everywhere || own.ip().to_canonical() == address)
        };
        if self.own.iter().any(is_own) && !is_trigger(url.path()) && !is_later(url.path()) {
            return Err("of this server only functions can be called back".into());
        }
        Ok(())
    }

    fn names(&self, url: &Url, port: u16) -> bool {
        let host = url.host_str().unwrap_or_default();
        self.hosts.iter().any(|named| named.host == host && named.port.is_none_or(|named| named == port))
    }

    async fn secure(
        &self,
        url: &Url,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Undelivered> {
        let name = match url.host() {
            Some(Host::Domain(name)) => ServerName::try_from(name.to_string()).map_err(connection)?,
            Some(Host::Ipv4(address)) => ServerName::from(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => ServerName::from(IpAddr::V6(address)),
            None => return Err(Undelivered::Refused("it names no host".into())),
        };
        self.tls.get_or_init(connector).connect(name, stream).await.map_err(connection)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<StatusCode, Undelivered> {
    let (mut sender, driver) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(connection)?;
    let driver = tokio::spawn(driver);
    let answer = sender.send_request(request).await;
    driver.abort();
    Ok(answer.map_err(connection)?.status())
}

fn connector() -> TlsConnector {
    TlsConnector::from(Arc::new(tls::client(tls::roots_of_this_machine())))
}

fn connection(error: impl std::fmt::Display) -> Undelivered {
    Undelivered::Connection(error.to_string())
}

/// Whether an address is this machine's: only such a one can be bound to.
fn is_here(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// RFC 6890 and its registries: what is globally reachable, and not multicast.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            let special = matches!(
                (a, b, c),
                (0 | 10 | 127, ..)
                    | (100, 64..=127, _)
                    | (169, 254, _)
                    | (172, 16..=31, _)
                    | (192, 0, 0 | 2)
                    | (192, 88, 99)
                    | (192, 168, _)
                    | (198, 18 | 19, _)
                    | (198, 51, 100)
                    | (203, 0, 113)
                    | (224..=255, ..)
            );
            !special
        }
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // 2000::/3 is what is given out; within it documentation, and what carries an IPv4 address somewhere else.
    segments[0] & 0xe000 == 0x2000
        && !matches!((segments[0], segments[1]), (0x2001, 0x0000 | 0x0db8) | (0x2002, _))
        && segments[0] != 0x3fff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callbacks(reach: Reach, hosts: &[&str]) -> Callbacks {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Callbacks::new(reach, hosts, vec!["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:9090".parse().unwrap()])
    }

    #[test]
    fn what_is_not_public_is_refused_however_it_is_written() {
        let public = callbacks(Reach::Public, &[]);
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://[2002:7f00:1::]/",
            "http://10.1.2.3/",
            "http://172.31.0.1/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://100.64.0.1/",
            "http://224.0.0.1/",
            "ftp://93.184.216.34/",
            "file:///etc/passwd",
            "http://user:pass@93.184.216.34/",
            "93.184.216.34",
            "",
        ] {
            assert!(public.check(url).is_err(), "{url}");
        }
        for url in ["http://93.184.216.34/a?b", "https://example.com/", "http://[2606:4700::1111]:8443/"] {
            assert!(public.check(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn hosts_that_are_named_may_be_called_and_of_this_server_functions_only() {
        let named =
            callbacks(Reach::Nowhere, &["127.0.0.1:8080", "hook.internal", "127.0.0.1:80", "127.0.0.2"]);
        for url in [
            "http://127.0.0.1:8080/function/next",
            "http://127.0.0.1:8080/async-function/next",
            "http://hook.internal:1234/x",
            "https://hook.internal/x",
            "http://127.0.0.1/x",
        ] {
            assert!(named.check(url).is_ok(), "{url}");
        }
        for url in [
            "http://127.0.0.1:8080/system/functions",
            "http://127.0.0.1:8080/function/../system/functions",
            "http://127.0.0.1:8080/function/%2e%2e/system/functions",
            "http://127.0.0.1:8081/",
            "http://127.0.0.2:9090/v1/functions",
            "http://other.internal/",
            "http://93.184.216.34/",
        ] {
            assert!(named.check(url).is_err(), "{url}");
        }
        for text in ["", "a/b", "http://a", "a@b", "a:b:c"] {
            assert!(text.parse::<CallbackHost>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        let url = Url::parse("http://localhost:1/").unwrap();
        let public = callbacks(Reach::Public, &[]);
        assert!(public.check(url.as_str()).is_ok(), "nothing is known of it yet");
        let error = public.send(&url, HeaderMap::new(), Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Undelivered::Refused(_)) && !error.may_pass(), "{error}");
    }
}
