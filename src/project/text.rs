//! Values as people write them in TOML and YAML: text, or a number or truth value that stands for its text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::function::{EntryPoint, Memory, parse_cpu, parse_duration};

/// A scalar, as it was written.
#[derive(Clone, Debug)]
pub(super) struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl Visitor<'_> for Scalar {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.into()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }
        }
        // YAML is asked for text, so that 1.10 stays 1.10; TOML gives what it has.
        deserializer.deserialize_str(Scalar)
    }
}

pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Memory>, D::Error> {
    parsed(deserializer, Memory::from_str)
}

pub(super) fn entry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<EntryPoint>, D::Error> {
    parsed(deserializer, EntryPoint::from_str)
}

/// In thousandths of a CPU.
pub(super) fn cpu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    parsed(deserializer, parse_cpu)
}

/// In milliseconds.
pub(super) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let time: Option<Duration> = parsed(deserializer, parse_duration)?;
    time.map(|time| u64::try_from(time.as_millis()).map_err(D::Error::custom)).transpose()
}

fn parsed<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, D::Error> {
    let Text(text) = Text::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}
