//! What a request brings in `Authorization`: a bearer token (RFC 6750), or a token as the password of basic
//! authentication (RFC 7617), which is what OpenFaaS's clients and browsers know.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, HeaderValue, header};
use zeroize::Zeroizing;

use super::token::{PREFIX, Token};

/// The user that OpenFaaS's clients log in as. The password alone says who it is.
const BASIC_USER: &str = "admin";

/// What a request brings.
#[derive(Debug)]
pub enum Credentials {
    /// Or an empty one, which is what OpenFaaS's clients send who have not logged in.
    Nothing,
    /// Something that can be no token of ours.
    Unknown,
    Token {
        token: Token,
        /// Browsers send it along with whatever any page asks for.
        basic: bool,
    },
}

impl Credentials {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) => Self::read(value),
            (Some(_), Some(_)) => Self::Unknown,
        }
    }

    pub fn read(value: &HeaderValue) -> Self {
        let Some((basic, text)) = secret(value) else { return Self::Unknown };
        if text.is_empty() || (basic && *text == ":") {
            return Self::Nothing;
        }
        if !basic {
            return Token::parse(&text).map_or(Self::Unknown, |token| Self::Token { token, basic });
        }
        let Some((user, password)) = text.split_once(':') else { return Self::Unknown };
        match Token::parse(password) {
            Some(token) if user == BASIC_USER || user == token.name().as_str() => {
                Self::Token { token, basic }
            }
            _ => Self::Unknown,
        }
    }
}

/// Whether it looks like a token of ours, right or wrong: nothing that a function has business with.
pub fn is_platform_token(value: &HeaderValue) -> bool {
    match secret(value) {
        Some((true, text)) => text.split_once(':').is_some_and(|(_, password)| password.starts_with(PREFIX)),
        Some((false, text)) => text.starts_with(PREFIX),
        None => false,
    }
}

/// Whether it is basic authentication, and what follows the scheme, decoded.
fn secret(value: &HeaderValue) -> Option<(bool, Zeroizing<String>)> {
    let value = value.to_str().ok()?.trim();
    if value.is_empty() {
        return Some((false, Zeroizing::default()));
    }
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some((false, Zeroizing::new(rest.into())));
    }
    let decoded = BASE64.decode(rest).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some((true, Zeroizing::new(String::from_utf8(decoded).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_as_a_bearer_or_as_a_password() {
        let token = format!("fnb_ci_{}", "a".repeat(64));
        let basic =
            |user: &str, password: &str| format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
        let read = |text: &str| Credentials::read(&HeaderValue::from_str(text).unwrap());
        for (text, is_basic) in [
            (format!("Bearer {token}"), false),
            (format!("bearer  {token}"), false),
            (basic("admin", &token), true),
            (basic("ci", &token).replace("Basic", "basic"), true),
        ] {
            let read = read(&text);
            assert!(matches!(read, Credentials::Token { basic, .. } if basic == is_basic), "{text} {read:?}");
            assert!(is_platform_token(&HeaderValue::from_str(&text).unwrap()));
        }
        for text in [
            token.clone(),
            "Bearer abc".into(),
            format!("Digest {token}"),
            "Basic !".into(),
            basic("admin", "secret"),
            basic("somebody", &token),
            format!("Basic {}", BASE64.encode(&token)),
        ] {
            assert!(matches!(read(&text), Credentials::Unknown), "{text}");
        }
        for text in ["", " ", "Bearer", "Bearer ", "basic", "Basic Og=="] {
            assert!(matches!(read(text), Credentials::Nothing), "{text}");
        }
        for (text, ours) in [("Bearer fnb_x", true), ("Bearer eyJhbGciOi", false), ("Basic YTpi", false)] {
            assert_eq!(is_platform_token(&HeaderValue::from_static(text)), ours, "{text}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert!(matches!(Credentials::of(&headers), Credentials::Nothing));
        let value = HeaderValue::from_str(&format!("Bearer fnb_ci_{}", "a".repeat(64))).unwrap();
        headers.append(header::AUTHORIZATION, value.clone());
        assert!(matches!(Credentials::of(&headers), Credentials::Token { .. }));
        headers.append(header::AUTHORIZATION, value);
        assert!(matches!(Credentials::of(&headers), Credentials::Unknown));
    }
}
