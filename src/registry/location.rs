//! Where a registry sends us next: the `Location` of an upload or a redirect, which is the registry's word and not to
//! be trusted further than that. Pure: a fuzz target feeds it.

use url::Url;

/// Longer ones are no honest upload session.
const MAX_LENGTH: usize = 16 << 10;

/// Why a `Location` is not followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    #[error("the Location is no URL")]
    NotAUrl,
    #[error("the Location is longer than 16 KiB")]
    TooLong,
    #[error("the Location is neither http nor https")]
    Scheme,
    #[error("the Location leads from https to plain http")]
    Downgrade,
    #[error("the Location carries a user or password of its own")]
    UserInfo,
}

/// The URL that `location` means when it is answered by `base` (RFC 9110, 10.2.2): relative to the host, to the path,
/// absolute, with or without a query of its own.
pub fn resolve(base: &Url, location: &str) -> Result<Url, InvalidLocation> {
    if location.len() > MAX_LENGTH {
        return Err(InvalidLocation::TooLong);
    }
    let mut url = base.join(location).map_err(|_| InvalidLocation::NotAUrl)?;
    match (base.scheme(), url.scheme()) {
        ("https", "http") => return Err(InvalidLocation::Downgrade),
        (_, "http" | "https") => {}
        _ => return Err(InvalidLocation::Scheme),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidLocation::UserInfo);
    }
    url.set_fragment(None);
    Ok(url)
}

/// Adds `digest=…` to an upload's URL and keeps what the registry put there, byte for byte: it may be signed.
pub fn with_digest(mut url: Url, digest: &crate::oci::Digest) -> Url {
    let query = match url.query() {
        Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
        _ => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

/// Whether credentials meant for `a` may go to `b`: the same scheme, host and port.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Url {
        "https://r.example:5000/v2/fn/add/blobs/uploads/".parse().unwrap()
    }

    #[test]
    fn locations_are_resolved_as_a_browser_would() {
        for (location, whole) in [
            ("/v2/x?_state=a%3D", "https://r.example:5000/v2/x?_state=a%3D"),
            ("uuid", "https://r.example:5000/v2/fn/add/blobs/uploads/uuid"),
            ("https://other.example/up?sig=1", "https://other.example/up?sig=1"),
            ("//other.example/up#x", "https://other.example/up"),
            ("?a=b", "https://r.example:5000/v2/fn/add/blobs/uploads/?a=b"),
        ] {
            assert_eq!(resolve(&base(), location).unwrap().as_str(), whole);
        }
    }

    #[test]
    fn what_leads_astray_is_refused() {
        for (location, why) in [
            ("http://r.example:5000/v2/x", InvalidLocation::Downgrade),
            ("file:///etc/passwd", InvalidLocation::Scheme),
            ("https://user:secret@r.example/x", InvalidLocation::UserInfo),
            ("https://[::1/x", InvalidLocation::NotAUrl),
            (&"a".repeat(20_000), InvalidLocation::TooLong),
        ] {
            assert_eq!(resolve(&base(), location).unwrap_err(), why);
        }
    }

    #[test]
    fn a_query_stays_and_the_digest_joins_it() {
        let digest = crate::oci::Digest::of(b"");
        for (url, end) in [
            ("https://h/u?_state=a%2Fb", "?_state=a%2Fb&digest=sha256:e3b0"),
            ("https://h/u", "/u?digest=sha256:e3b0"),
        ] {
            let whole = with_digest(url.parse().unwrap(), &digest);
            assert!(whole.as_str().contains(end), "{whole}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let same = |text: &str| same_origin(&base(), &text.parse().unwrap());
        assert!(same("https://r.example:5000/other"));
        assert!(!same("https://r.example/other"));
        assert!(!same("http://r.example:5000/"));
    }
}
