//! Which function a path means, and what is left of the path for it.

use http::Uri;
use http::uri::PathAndQuery;

use crate::function::{NAMESPACE, Target};

const PREFIX: &str = "/function/";
const LATER: &str = "/async-function/";

/// Whether a path is the trigger's.
pub fn is_trigger(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// Whether a path is that of a call to be made later.
pub fn is_later(path: &str) -> bool {
    path.starts_with(LATER)
}

/// The target, and the path and query as the function sees them. `None` where no function can have this path.
pub fn route(uri: &Uri) -> Option<(Target, PathAndQuery)> {
    below(PREFIX, uri)
}

/// The same for a call to be made later.
pub fn route_later(uri: &Uri) -> Option<(Target, PathAndQuery)> {
    below(LATER, uri)
}

fn below(prefix: &str, uri: &Uri) -> Option<(Target, PathAndQuery)> {
    let whole = uri.path_and_query()?.as_str();
    let rest = whole.strip_prefix(prefix)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    // OpenFaaS's clients may name the namespace too: `add.openfaas-fn`. No name has a dot of its own.
    let name = name.strip_suffix(NAMESPACE).and_then(|name| name.strip_suffix('.')).unwrap_or(name);
    let target = name.parse().ok()?;
    let path = match rest.as_bytes().first() {
        Some(b'/') => rest.parse(),
        Some(_) => format!("/{rest}").parse(),
        None => Ok(PathAndQuery::from_static("/")),
    };
    Some((target, path.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_and_the_query_are_the_functions() {
        for (uri, target, path) in [
            ("/function/add", "add", "/"),
            ("/function/add/", "add", "/"),
            ("/function/add?x=1", "add", "/?x=1"),
            ("/function/add/a//b/%2e%2e?x=/", "add", "/a//b/%2e%2e?x=/"),
            ("/function/add@3/x", "add@3", "/x"),
            ("/function/add.openfaas-fn/x", "add", "/x"),
        ] {
            let (found, rest) = route(&uri.parse().unwrap()).unwrap();
            assert_eq!((found.to_string().as_str(), rest.as_str()), (target, path));
            let later = uri.replace("/function/", "/async-function/").parse().unwrap();
            assert_eq!(route_later(&later), Some((found, rest)));
            assert_eq!(route(&later), None);
        }
        for uri in [
            "/function/",
            "/function",
            "/",
            "/function/Add",
            "/function/a%64d",
            "/function/add@",
            "/function/add.other",
            "*",
        ] {
            assert!(route(&uri.parse().unwrap()).is_none(), "{uri}");
        }
    }
}
