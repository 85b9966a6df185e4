//! Keeps web pages away from the management paths: a browser on this machine can reach loopback too.

use http::{HeaderMap, header};

/// Whether a request says that it comes from, or is meant for, somewhere else: a `Host` that is not this machine
/// (DNS rebinding), or an `Origin` that is not the `Host`.
pub fn is_foreign(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|host| is_local(host)) else { return true };
    headers.get_all(header::ORIGIN).iter().any(|origin| {
        let same = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        same.is_none_or(|origin| !origin.eq_ignore_ascii_case(host))
    })
}

/// `localhost`, an address of loopback, with or without a port.
fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    if host.contains('@') {
        return false;
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(lines: &[(&'static str, &str)]) -> bool {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), value.parse().unwrap())
        };
        is_foreign(&lines.iter().map(pair).collect())
    }

    #[test]
    fn this_machine_is_not_foreign() {
        for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "fn.localhost:1"] {
            assert!(!foreign(&[("host", host)]), "{host}");
        }
        assert!(!foreign(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
    }

    #[test]
    fn everything_else_is() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "a@localhost",
            "",
        ] {
            assert!(foreign(&[("host", host)]), "{host}");
        }
        assert!(foreign(&[]));
        for origin in ["http://evil.example", "null", "http://localhost:3000", "https://localhost:8080"] {
            assert!(foreign(&[("host", "localhost:8080"), ("origin", origin)]), "{origin}");
        }
    }
}
