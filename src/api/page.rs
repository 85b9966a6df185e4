//! `GET /ui`: a page to look at, served from the program itself. What it shows it asks of the API, as anybody could.
//!
//! The files below `page/` name no other host, and the policy that they are served with lets a browser ask none. They
//! hold nothing secret: where the API wants a token, the page asks its reader for one.

use axum::Router;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::{HeaderName, header};

use super::functions::nothing;

/// Nothing inline, nothing from elsewhere, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content.
const FILES: [(&str, &str, &str); 13] = [
    ("/ui", HTML, include_str!("page/index.html")),
    ("/ui/", HTML, include_str!("page/index.html")),
    ("/ui/page.css", STYLE, include_str!("page/page.css")),
    ("/ui/icon.svg", IMAGE, include_str!("page/icon.svg")),
    ("/ui/page.js", SCRIPT, include_str!("page/page.js")),
    ("/ui/api.js", SCRIPT, include_str!("page/api.js")),
    ("/ui/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/ui/plot.js", SCRIPT, include_str!("page/plot.js")),
    ("/ui/upload.js", SCRIPT, include_str!("page/upload.js")),
    ("/ui/overview.js", SCRIPT, include_str!("page/overview.js")),
    ("/ui/function.js", SCRIPT, include_str!("page/function.js")),
    ("/ui/call.js", SCRIPT, include_str!("page/call.js")),
    ("/ui/logs.js", SCRIPT, include_str!("page/logs.js")),
];

/// Whether a path is the page's.
pub fn is_page(path: &str) -> bool {
    path == "/" || path.strip_prefix("/ui").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub fn page() -> Router {
    let front = get(|| async { Redirect::temporary("/ui") });
    FILES
        .into_iter()
        .fold(Router::new().fallback(nothing).route("/", front), |router, (path, kind, content)| {
            router.route(path, get(move || async move { file(kind, content) }))
        })
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // Another program may be in this one's place tomorrow.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_names_another_host_or_writes_markup() {
        for (path, _, content) in FILES {
            for wrong in
                ["innerHTML", "outerHTML", "document.write", "eval(", " style=", "<script>", "onclick="]
            {
                assert!(!content.contains(wrong), "{path}: {wrong}");
            }
            let urls = content.match_indices("//").map(|(at, _)| &content[at.saturating_sub(6)..]);
            let mut elsewhere = urls.filter(|rest| rest.starts_with("http") || rest.starts_with("ttps:"));
            let allowed = |rest: &str| rest.starts_with("http://www.w3.org/2000/svg");
            assert!(elsewhere.all(allowed), "{path} names a host");
        }
    }
}
