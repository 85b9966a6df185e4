//! How a registry may be talked to: with TLS or without, whom to trust, how patiently.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Error;

/// What the user allowed for a registry beyond its name.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// HTTP without TLS. Loopback needs no permission.
    pub plain_http: bool,
    /// TLS, but any certificate will do.
    pub insecure: bool,
    /// PEM certificates to trust besides the system's.
    pub ca: Option<PathBuf>,
    pub patience: Patience,
}

/// The bounds of retrying. The defaults are meant for people who wait.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Tries of one request or one upload, the first included.
    pub attempts: u32,
    /// No new try begins after this.
    pub total: Duration,
    /// The first pause; it doubles from try to try, and a random part of it is waited.
    pub backoff: Duration,
    /// No pause is longer, whatever `Retry-After` asks for.
    pub longest_pause: Duration,
    /// A transfer in which not one byte moves for so long is given up. A slow one is not.
    pub idle: Duration,
    pub connect: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            total: Duration::from_secs(90),
            backoff: Duration::from_millis(200),
            longest_pause: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            connect: Duration::from_secs(10),
        }
    }
}

/// A registry's `HOST[:PORT]`, as a flag takes it.
///
/// # Errors
/// [`Error::InvalidHost`], for a URL above all.
pub fn host(text: &str) -> Result<String, Error> {
    root(text, &Access::default()).map(|_| text.into())
}

/// The root URL of a registry, `http://HOST[:PORT]/` or `https://…`.
pub(super) fn root(host: &str, access: &Access) -> Result<Url, Error> {
    // Docker Hub's API has never lived under its name.
    let api = if host == "docker.io" { "registry-1.docker.io" } else { host };
    let refuse = || Error::InvalidHost { host: host.chars().take(300).collect() };
    let parse = |scheme: &str| format!("{scheme}://{api}/").parse::<Url>().map_err(|_| refuse());
    let url = parse("https")?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || url.username() != "" {
        return Err(refuse());
    }
    let loopback =
        url.host().is_some_and(|host| is_loopback(&host)) && !access.insecure && access.ca.is_none();
    if access.plain_http || loopback { parse("http") } else { Ok(url) }
}

/// Whether a host can only be this machine. A name that merely resolves to it does not count.
pub(super) fn is_loopback(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        url::Host::Ipv4(address) => IpAddr::from(*address).is_loopback(),
        url::Host::Ipv6(address) => IpAddr::from(*address).is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_or_by_permission() {
        let plain = Access { plain_http: true, ..Access::default() };
        for (host, access, url) in [
            ("localhost:5000", Access::default(), "http://localhost:5000/"),
            ("127.0.0.1:5000", Access::default(), "http://127.0.0.1:5000/"),
            ("[::1]:5000", Access::default(), "http://[::1]:5000/"),
            ("registry:5000", Access::default(), "https://registry:5000/"),
            ("registry:5000", plain, "http://registry:5000/"),
            ("localhost:5000", Access { insecure: true, ..Access::default() }, "https://localhost:5000/"),
            ("docker.io", Access::default(), "https://registry-1.docker.io/"),
        ] {
            assert_eq!(root(host, &access).unwrap().as_str(), url);
        }
    }

    #[test]
    fn a_host_is_a_host_and_nothing_more() {
        for host in ["", "a/b", "a?b", "u@a", "a#b", "a b", "a:b"] {
            assert!(root(host, &Access::default()).is_err(), "{host}");
        }
    }
}
