//! What a management request takes, and what keeps web pages away from it: a browser on this machine can reach
//! loopback too.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::Problem;
use super::error::chain;
use crate::auth::{Need, Refused};

const TOKENS: &str = "/v1/tokens";
const ONE_CALL: &str = "/v1/calls/";

/// The role that a request takes.
pub fn need(method: &Method, path: &str) -> Need {
    match *method {
        _ if path == TOKENS || path.starts_with("/v1/tokens/") => Need::Admin,
        // A call is shown with what it was sent: as little for every eye as a secret's value.
        _ if path.starts_with(ONE_CALL) => Need::Deploy,
        Method::GET | Method::HEAD | Method::OPTIONS => Need::Read,
        _ => Need::Deploy,
    }
}

/// Whether it is the body and not the path that says what a change is about.
pub fn names_in_body(path: &str) -> bool {
    matches!(path, "/system/functions" | "/system/secrets" | TOKENS)
}

/// What a JSON body says that it is about.
pub fn name_in_body(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Named {
        service: Option<String>,
        function_name: Option<String>,
        name: Option<String>,
    }
    let named: Named = serde_json::from_slice(body).ok()?;
    let name = named.service.or(named.function_name).or(named.name)?;
    Some(name.chars().take(80).collect())
}

/// Whether a request says that it comes from, or is meant for, somewhere else: a `Host` that is not this machine
/// (DNS rebinding), an `Origin` that is not the `Host`, or another site by `Sec-Fetch-Site`.
pub fn is_foreign(headers: &HeaderMap, encrypted: bool) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|host| is_local(host)) else { return true };
    let scheme = if encrypted { "https://" } else { "http://" };
    let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let same = origin.to_str().ok().and_then(|origin| origin.strip_prefix(scheme));
        same.is_none_or(|origin| !origin.eq_ignore_ascii_case(host))
    });
    foreign || is_of_another_site(headers)
}

/// What a browser says that sends no `Origin`, as for an image. `none` is a person's own doing, in the address bar.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site != "same-origin" && site != "none")
}

/// Whether a page of another site made a browser send this. What is in front may have ended the TLS, so that the
/// scheme says nothing.
pub fn is_cross_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let crosses = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        !authority.zip(host).is_some_and(|((_, authority), host)| authority.eq_ignore_ascii_case(host))
    });
    crosses || is_of_another_site(headers)
}

/// Whether a proxy on this machine passed it on: it is from anywhere then.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    [header::FORWARDED, header::VIA].iter().any(|name| headers.contains_key(name))
        || headers.contains_key("x-forwarded-for")
        || headers.contains_key("x-real-ip")
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

/// 401, 403, 429 or 503, as RFC 9110 and RFC 6585 have them.
pub fn refused(refused: &Refused) -> Response {
    let (status, kind) = match refused {
        Refused::Missing | Refused::Wrong => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Refused::TooSmall { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
        Refused::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "TooManyFailures"),
        Refused::Unchecked(_) => (StatusCode::SERVICE_UNAVAILABLE, "TokensUnavailable"),
    };
    let mut response = problem(status, kind, chain(refused), refused.hint());
    let headers = response.headers_mut();
    if status == StatusCode::UNAUTHORIZED {
        for scheme in ["Basic realm=\"fnbuild\", charset=\"UTF-8\"", "Bearer realm=\"fnbuild\""] {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
    }
    if let Refused::TooMany { retry_after, .. } = refused {
        // Rounded up: who comes back at that second is let in.
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What a page of another site gets.
pub fn foreign() -> Response {
    let told =
        "management paths are for this machine: the request comes from another site, or names another host";
    problem(StatusCode::FORBIDDEN, "ForeignRequest", told.into(), None)
}

pub fn body_too_large() -> Response {
    problem(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", "the body is too large, or broke off".into(), None)
}

fn problem(status: StatusCode, kind: &str, error_message: String, hint: Option<String>) -> Response {
    let request_id = format!("{:016x}", getrandom::u64().unwrap_or_default());
    let problem = Problem { error_type: kind.into(), error_message, request_id, hint };
    (status, [("x-fnbuild-error", "platform")], Json(problem)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), value.parse().unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn foreign(lines: &[(&'static str, &str)]) -> bool {
        is_foreign(&headers(lines), false)
    }

    #[test]
    fn this_machine_is_not_foreign() {
        for host in ["localhost:8080", "127.0.0.1", "[::1]:8080", "fn.localhost:1"] {
            assert!(!foreign(&[("host", host)]), "{host}");
        }
        assert!(!foreign(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")]));
        let sealed = headers(&[("host", "localhost:8080"), ("origin", "https://localhost:8080")]);
        assert!(!is_foreign(&sealed, true));
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
        for (site, is_foreign) in
            [("cross-site", true), ("same-site", true), ("same-origin", false), ("none", false)]
        {
            let host = ("host", "localhost:8080");
            assert_eq!(foreign(&[host, ("sec-fetch-site", site)]), is_foreign, "{site}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_told_from_ones_own() {
        let crosses = |origin: &str| is_cross_origin(&headers(&[("host", "fn.example"), ("origin", origin)]));
        assert!(!crosses("https://fn.example") && !crosses("http://FN.example"));
        assert!(crosses("https://evil.example") && crosses("null") && crosses("https://fn.example:1"));
        assert!(!is_cross_origin(&headers(&[("host", "fn.example")])), "no browser");
        assert!(is_cross_origin(&headers(&[("host", "fn.example"), ("sec-fetch-site", "same-site")])));
    }

    #[test]
    fn a_look_takes_less_than_a_change_and_tokens_take_most() {
        assert_eq!(need(&Method::GET, "/v1/functions"), Need::Read);
        assert_eq!(need(&Method::PUT, "/v1/functions/a"), Need::Deploy);
        assert_eq!(need(&Method::POST, "/system/functions"), Need::Deploy);
        assert_eq!(need(&Method::GET, "/v1/calls"), Need::Read);
        assert_eq!(need(&Method::GET, "/v1/calls/1"), Need::Deploy);
        for path in ["/v1/tokens", "/v1/tokens/ci"] {
            assert_eq!(need(&Method::GET, path), Need::Admin);
        }
    }

    #[test]
    fn openfaas_bodies_say_what_they_are_about() {
        for (body, name) in [
            (r#"{"service": "a", "image": "b"}"#, Some("a")),
            (r#"{"functionName": "a"}"#, Some("a")),
            (r#"{"name": "key", "value": "secret"}"#, Some("key")),
            ("{}", None),
            ("x", None),
        ] {
            assert_eq!(name_in_body(body.as_bytes()).as_deref(), name);
        }
    }
}
