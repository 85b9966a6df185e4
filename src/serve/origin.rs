//! Keeps pages that functions answer apart from management. Both are at one address, and browsers let pages of one address
//! act for each other: a function's page could read the token that `/ui` keeps, and change whatever its reader may.
//!
//! The policy takes a page's origin away, and what a page may do by itself stays. A policy of the function's own stays beside
//! it; of several, browsers do what all of them allow.

use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, Response};

/// Everything but `allow-same-origin`, and but what only pages in frames need.
const SANDBOX: HeaderValue = HeaderValue::from_static(
    "sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups \
     allow-popups-to-escape-sandbox allow-scripts",
);

/// A function's answer, as it is given where management is served too.
pub fn apart<B>(mut response: Response<B>) -> Response<B> {
    response.headers_mut().append(CONTENT_SECURITY_POLICY, SANDBOX);
    response
}
