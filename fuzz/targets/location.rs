//! Any text as the `Location` of a registry's answer: refused, or a URL that gives nothing away.

#![no_main]

use fnbuild::oci::Digest;
use fnbuild::registry::location::{resolve, same_origin, with_digest};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|text: &str| {
    for base in [
        "https://r.example:5000/v2/fn/add/blobs/uploads/",
        "http://localhost:5000/v2/fn/a/blobs/uploads/?x=y",
    ] {
        let base: Url = base.parse().expect("a constant");
        let Ok(url) = resolve(&base, text) else { continue };
        assert!(matches!((base.scheme(), url.scheme()), (_, "https") | ("http", "http")), "{url}");
        assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{url}");
        assert!(url.host_str().is_some_and(|host| !host.is_empty()), "{url}");
        assert!(same_origin(&url, &url));
        let ours = (url.scheme(), url.host_str(), url.port_or_known_default());
        assert_eq!(
            same_origin(&url, &base),
            ours == (base.scheme(), base.host_str(), base.port_or_known_default()),
            "{url}"
        );
        let digest = Digest::of(text);
        let put = with_digest(url.clone(), &digest);
        // What the registry put there stays, byte for byte; the digest comes last and alone.
        let query = put.query().expect("it has the digest");
        assert!(query.starts_with(url.query().unwrap_or_default()), "{put}");
        assert!(query.ends_with(&format!("digest={digest}")), "{put}");
        assert_eq!((put.path(), put.host(), put.port()), (url.path(), url.host(), url.port()));
        assert_eq!(resolve(&base, url.as_str()).as_ref(), Ok(&url), "it is its own meaning");
    }
});
