//! The flags that say what a function is run with: shared by the verbs that make a version.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::function::{AsyncPatch, Memory, SettingsPatch, parse_cpu};
pub use crate::function::{parse_duration, parse_number};
use crate::secrets::{InvalidSecretName, SecretName};

// Changes to the settings of the version before; what is not given stays.
#[derive(clap::Args)]
pub struct SettingArguments {
    /// Set a variable for the function; KEY- takes it away
    #[arg(short, long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, Option<String>)>,
    /// Give the function this secret; the list replaces the one before
    #[arg(long = "secret", value_name = "NAME", value_parser = secret)]
    secrets: Vec<String>,
    /// Memory for each replica (256Mi, 1Gi)
    #[arg(long)]
    memory: Option<Memory>,
    /// CPUs for each replica (0.5, 2)
    #[arg(long, value_parser = parse_cpu)]
    cpu: Option<u32>,
    /// Time until the first byte of an answer (30s, 5m)
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Calls that one replica works on at once
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    concurrency: Option<u32>,
    /// Replicas that stay up without calls
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    min_scale: Option<u32>,
    /// Replicas at most
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    max_scale: Option<u32>,
    /// Calls in a second that one replica is meant for: more make more replicas; 0: only calls at once do
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    target_rps: Option<u32>,
    /// Answer only calls that bring a token; =false answers all again
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    require_token: Option<bool>,
    /// Asynchronous calls that each node makes at once
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    async_concurrency: Option<u32>,
    /// Asynchronous calls that may wait at each node
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    async_queue: Option<u32>,
    /// How often an asynchronous call is made before it is a dead letter
    #[arg(long, value_name = "N", value_parser = parse_number::<u32>)]
    async_attempts: Option<u32>,
    /// How long an asynchronous call is tried (10m, 1h)
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    async_max_age: Option<Duration>,
}

impl SettingArguments {
    /// What they come to. Refused here is what the server would refuse, whatever the function had before.
    pub fn patch(&self) -> anyhow::Result<SettingsPatch> {
        let timeout_ms = self.timeout.map(|time| u64::try_from(time.as_millis())).transpose()?;
        let max_age_ms = self.async_max_age.map(|time| u64::try_from(time.as_millis())).transpose()?;
        let secrets = (!self.secrets.is_empty()).then(|| BTreeSet::from_iter(self.secrets.iter().cloned()));
        let patch = SettingsPatch {
            env: BTreeMap::from_iter(self.env.iter().cloned()),
            secrets,
            memory: self.memory,
            cpu_millis: self.cpu,
            timeout_ms,
            concurrency: self.concurrency,
            min_scale: self.min_scale,
            max_scale: self.max_scale,
            target_rps: self.target_rps,
            require_token: self.require_token,
            asynchronous: AsyncPatch {
                concurrency: self.async_concurrency,
                queue: self.async_queue,
                attempts: self.async_attempts,
                max_age_ms,
            },
            ..SettingsPatch::default()
        };
        patch.check()?;
        Ok(patch)
    }
}

/// `KEY=VALUE`, or `KEY-` to unset.
pub fn variable(text: &str) -> Result<(String, Option<String>), &'static str> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((key, value)), _) => Ok((key.into(), Some(value.into()))),
        (None, Some(key)) => Ok((key.into(), None)),
        (None, None) => Err("expected KEY=VALUE, or KEY- to take it away"),
    }
}

fn secret(text: &str) -> Result<String, InvalidSecretName> {
    text.parse::<SecretName>().map(String::from)
}
