//! What the trigger does to headers: RFC 9110 section 7.6.1 (connection-specific ones go no further), `X-Forwarded-*`,
//! `X-Call-Id`.

use std::net::IpAddr;

use http::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

pub const CALL_ID: HeaderName = HeaderName::from_static("x-call-id");
pub const COLD_START: HeaderName = HeaderName::from_static("x-cold-start");
pub const DURATION: HeaderName = HeaderName::from_static("x-duration-seconds");
pub const ERROR: HeaderName = HeaderName::from_static("x-fnbuild-error");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub const START_TIME: HeaderName = HeaderName::from_static("x-start-time");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes away everything that was meant for this connection only.
pub fn strip_connection(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A client must not be able to make us drop what the message is framed or routed by.
            .filter(|name| !PROTECTED.contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

const PROTECTED: [HeaderName; 7] = [
    HOST,
    http::header::CONTENT_LENGTH,
    http::header::CONTENT_TYPE,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    CALL_ID,
];

/// The protocol that the client wants to change to, if it does.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| asks).cloned()
}

/// Makes a client's headers those of a call: connection-specific ones out, who called in.
pub fn forward(headers: &mut HeaderMap, peer: IpAddr, call: &HeaderValue) {
    strip_connection(headers);
    // The answer to it has been given here already.
    headers.remove(EXPECT);
    let before = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    let chain = match before {
        Some(before) => format!("{before}, {peer}"),
        None => peer.to_string(),
    };
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    headers.insert(CALL_ID, call.clone());
}

/// The client's own name for the call where it is sane, else a new one.
pub fn call_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(legal)
    };
    headers.get(CALL_ID).filter(sane).cloned().unwrap_or_else(new_call_id)
}

fn new_call_id() -> HeaderValue {
    let mut random = [0; 16];
    // Without randomness the ID repeats, which is a pity and no danger: it only names log lines.
    let _ = getrandom::fill(&mut random);
    let text = format!("{:032x}", u128::from_be_bytes(random));
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn what_is_meant_for_the_connection_goes_no_further() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "content-length"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
        ]);
        strip_connection(&mut map);
        assert_eq!(map, headers(&[("content-length", "5"), ("x-kept", "1")]));
    }

    #[test]
    fn the_chain_of_clients_is_kept() {
        let mut map =
            headers(&[("host", "h"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")]);
        forward(&mut map, "127.0.0.1".parse().unwrap(), &HeaderValue::from_static("c"));
        assert_eq!(map["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
        assert_eq!(
            (&map["x-forwarded-host"], &map["x-forwarded-proto"], &map["x-call-id"]),
            (
                &HeaderValue::from_static("h"),
                &HeaderValue::from_static("https"),
                &HeaderValue::from_static("c")
            )
        );
    }

    #[test]
    fn a_call_id_is_kept_if_it_is_sane() {
        assert_eq!(call_id(&headers(&[("x-call-id", "a-1_b.c:d")])), "a-1_b.c:d");
        for wrong in ["", "a b", "a\"b", &"x".repeat(129)] {
            let map = HeaderMap::from_iter([(CALL_ID, HeaderValue::from_str(wrong).unwrap())]);
            assert_eq!(call_id(&map).len(), 32, "{wrong}");
        }
        assert_ne!(call_id(&HeaderMap::new()), call_id(&HeaderMap::new()));
    }

    #[test]
    fn an_upgrade_takes_both_headers() {
        assert_eq!(
            upgrade(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")])).unwrap(),
            "websocket"
        );
        assert_eq!(upgrade(&headers(&[("upgrade", "websocket")])), None);
        assert_eq!(upgrade(&headers(&[("connection", "upgrade")])), None);
    }
}
