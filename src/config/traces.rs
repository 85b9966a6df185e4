//! What `fnbuild serve` can be told of traces: by its own flags, or by the environment that OpenTelemetry names.

use std::env;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::Url;

use super::ConfigError;
use crate::telemetry::trace::TraceSettings;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Of traces alone, path included.
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const PROTOCOL: &str = "http/protobuf";
const NAME: &str = "service.name";

#[derive(clap::Args, Clone, Debug)]
pub struct TraceArguments {
    /// Send traces to this OpenTelemetry collector, by OTLP over HTTP [default: OTEL_EXPORTER_OTLP_ENDPOINT; none]
    #[arg(long, env = "FNBUILD_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// The share of calls that are traced, from 0 to 1; a caller's `traceparent` has decided for its own
    #[arg(long, env = "FNBUILD_TRACE_SAMPLE", default_value = "1", value_parser = share, value_name = "SHARE")]
    trace_sample: f64,
}

impl TraceArguments {
    /// `None`: nobody wants any.
    pub(super) fn check(self) -> Result<Option<TraceSettings>, ConfigError> {
        self.check_with(|name| env::var(name).ok().filter(|value| !value.trim().is_empty()))
    }

    fn check_with(self, said: impl Fn(&str) -> Option<String>) -> Result<Option<TraceSettings>, ConfigError> {
        let (flag, text) = match (self.otlp_endpoint, said(TRACES_ENDPOINT), said(ENDPOINT)) {
            (Some(own), ..) => ("--otlp-endpoint", own),
            (None, Some(text), _) => (TRACES_ENDPOINT, text),
            (None, None, Some(text)) => (ENDPOINT, text),
            (None, None, None) => return Ok(None),
        };
        let wrong = |flag, value: &str, what| ConfigError::Traces { flag, value: value.into(), what };
        let parsed = text.parse::<Url>().ok();
        let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let mut endpoint = parsed
            .ok_or_else(|| wrong(flag, &text, "http://HOST[:PORT], or https:// (port 4318 as a rule)"))?;
        if flag != TRACES_ENDPOINT {
            endpoint.set_path(&format!("{}/v1/traces", endpoint.path().trim_end_matches('/')));
        }
        let first = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, said(name)?)));
        if let Some((flag, value)) = first(PROTOCOLS).filter(|(_, value)| value != PROTOCOL) {
            return Err(wrong(flag, &value, "http/protobuf, which is the one that is spoken"));
        }
        let mut headers = HeaderMap::new();
        if let Some((flag, value)) = first(HEADERS) {
            for (name, value) in pairs(&value) {
                // They are credentials as a rule: what is wrong is not repeated.
                let header = name.parse::<HeaderName>().ok().zip(HeaderValue::try_from(value).ok());
                let (name, mut value) = header.ok_or_else(|| wrong(flag, &name, "NAME=VALUE[,…]"))?;
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        let mut resource =
            vec![(NAME.to_string(), said("OTEL_SERVICE_NAME").unwrap_or_else(|| "fnbuild".into()))];
        resource.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        resource.push(("host.name".into(), host));
        let named = said("OTEL_SERVICE_NAME").is_some();
        for (name, value) in said("OTEL_RESOURCE_ATTRIBUTES").iter().flat_map(|text| pairs(text)) {
            if name == NAME && named {
                continue;
            }
            resource.retain(|(known, _)| *known != name);
            resource.push((name, value));
        }
        Ok(Some(TraceSettings { endpoint, headers, share: self.trace_sample, resource }))
    }
}

/// `a=b,c=d`, percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value.trim()).decode_utf8_lossy().into_owned();
        (name.trim().to_string(), value)
    };
    text.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is no share: a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(flag: Option<&str>, said: &[(&str, &str)]) -> Result<Option<TraceSettings>, String> {
        let arguments = TraceArguments { otlp_endpoint: flag.map(Into::into), trace_sample: 0.5 };
        let said = |name: &str| said.iter().find(|(known, _)| *known == name).map(|(_, v)| v.to_string());
        arguments.check_with(said).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_is_told_unless_somebody_is_named() {
        assert!(checked(None, &[("OTEL_SERVICE_NAME", "x")]).unwrap().is_none());
        for (flag, said, endpoint) in [
            (Some("http://a:4318"), vec![(ENDPOINT, "http://b")], "http://a:4318/v1/traces"),
            (Some("https://a/otlp/"), vec![], "https://a/otlp/v1/traces"),
            (None, vec![(ENDPOINT, "http://b:4318/")], "http://b:4318/v1/traces"),
            (None, vec![(ENDPOINT, "http://b"), (TRACES_ENDPOINT, "http://c/in")], "http://c/in"),
        ] {
            assert_eq!(checked(flag, &said).unwrap().unwrap().endpoint.as_str(), endpoint);
        }
    }

    #[test]
    fn the_environment_describes_the_service_and_brings_credentials() {
        let settings = checked(
            Some("http://a"),
            &[
                ("OTEL_SERVICE_NAME", "mine"),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,deployment.environment.name=a%20b"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x, x-scope=1"),
            ],
        );
        let settings = settings.unwrap().unwrap();
        assert_eq!(
            (&settings.headers["authorization"], &settings.headers["x-scope"]),
            (&HeaderValue::from_static("Bearer x"), &HeaderValue::from_static("1"),)
        );
        let has = |name: &str, value: &str| settings.resource.contains(&(name.into(), value.into()));
        assert!(has("service.name", "mine") && has("deployment.environment.name", "a b"));
        assert!(!format!("{settings:?}").contains("Bearer"), "credentials are not shown");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (flag, said) in [
            (Some("collector:4317"), vec![]),
            (Some("ftp://a"), vec![]),
            (Some("http://a"), vec![("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]),
            (Some("http://a"), vec![("OTEL_EXPORTER_OTLP_HEADERS", "a b=c")]),
        ] {
            assert!(checked(flag, &said).is_err(), "{flag:?} {said:?}");
        }
        assert!(share("1.5").is_err() && share("-0.1").is_err() && share("NaN").is_err());
        assert_eq!(share("0.25"), Ok(0.25));
    }
}
