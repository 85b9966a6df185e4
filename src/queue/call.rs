//! A call that is kept, as data: what it is, and how far it has come.

use std::fmt::Display;
use std::str::FromStr;

use http::Method;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};

use crate::function::Target;

/// A call's number in the queue of its node: the order in which calls came in.
pub type Number = u64;

/// Milliseconds since 1970: as precise as a queue needs to be.
pub type Millis = u64;

/// What never changes of a call; its body is beside it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    pub id: String,
    #[serde(with = "as_text")]
    pub target: Target,
    #[serde(with = "as_text")]
    pub method: Method,
    /// As the function sees it.
    #[serde(with = "as_text")]
    pub path: PathAndQuery,
    pub headers: Headers,
    /// Where the answer goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    pub accepted: Millis,
    /// Of the body, in bytes.
    pub length: u64,
    /// The schedule that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
}

/// How far a call has come.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Progress {
    /// Since when it is tried.
    pub since: Millis,
    /// How often the function was reached.
    pub attempts: u32,
    /// How often it was not.
    pub deferrals: u32,
    /// When it is made next.
    pub due: Millis,
    /// Since when it is a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Last>,
}

impl Progress {
    /// A call that has just come in, or that somebody wants to be made anew.
    pub fn begun(now: Millis) -> Self {
        Self { since: now, due: now, ..Self::default() }
    }
}

/// What came of the last attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Last {
    pub at: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    pub reason: String,
    /// The beginning of what was answered, where that is text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
}

/// Header lines; a value's bytes are kept as the characters of the same numbers, since not all of them are UTF-8.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Headers(Vec<(String, String)>);

impl From<&HeaderMap> for Headers {
    fn from(map: &HeaderMap) -> Self {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.as_bytes().iter().map(|byte| char::from(*byte)).collect())
        };
        Self(map.iter().map(line).collect())
    }
}

impl Headers {
    pub fn to_map(&self) -> HeaderMap {
        let line = |(name, value): &(String, String)| {
            let bytes: Vec<u8> = value.chars().filter_map(|c| u8::try_from(c).ok()).collect();
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(&bytes).ok()?))
        };
        let mut map = HeaderMap::new();
        for (name, value) in self.0.iter().filter_map(line) {
            map.append(name, value);
        }
        map
    }

    /// For people: what lets somebody in is kept back.
    pub fn shown(&self) -> Vec<(String, String)> {
        let secret = |name: &str| [AUTHORIZATION, COOKIE].iter().any(|secret| secret.as_str() == name);
        let line = |(name, value): &(String, String)| {
            let value = if secret(name) { "(kept back)" } else { value };
            (name.clone(), value.to_string())
        };
        self.0.iter().map(line).collect()
    }
}

/// What reads and writes itself as text.
mod as_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Display, FromStr};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Now, as the queue counts.
pub fn now() -> Millis {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// For people and programs: RFC 3339, UTC.
pub fn told(time: Millis) -> String {
    let time = i64::try_from(time).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_comes_back_as_it_went() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("authorization", HeaderValue::from_static("Bearer x"));
        let call = Call {
            id: "c".into(),
            target: "add@3".parse().unwrap(),
            method: Method::PATCH,
            path: PathAndQuery::from_static("/a//b?x=%20"),
            headers: Headers::from(&headers),
            callback: None,
            accepted: 1,
            length: 0,
            schedule: None,
        };
        let read: Call = serde_json::from_slice(&serde_json::to_vec(&call).unwrap()).unwrap();
        assert_eq!(read, call);
        assert_eq!(read.headers.to_map(), headers);
        let shown = read.headers.shown();
        assert!(shown.contains(&("authorization".into(), "(kept back)".into())), "{shown:?}");
    }
}
