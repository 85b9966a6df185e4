//! `fnbuild route NAME --to 3=90 --to 4=10`: which versions the calls go to that name none.

use std::collections::BTreeMap;

use http::Method;

use crate::api::{Divided, Split};
use crate::function::{FunctionName, VersionNumber};

use super::server::{AskArguments, block_on};
use super::{Outcome, Printer};

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  fnbuild route add --to 3=90 --to 4=10\n  fnbuild route add --clear")]
pub struct Arguments {
    /// The function
    name: FunctionName,
    /// So many percent of the calls go to this version; all together 100
    #[arg(long, value_name = "VERSION=PERCENT", value_parser = share, required_unless_present = "clear")]
    to: Vec<(VersionNumber, u32)>,
    /// Send all calls to the current version again
    #[arg(long, conflicts_with = "to")]
    clear: bool,
    #[command(flatten)]
    ask: AskArguments,
}

pub fn run(arguments: &Arguments, printer: &Printer) -> anyhow::Result<Outcome> {
    let server = arguments.ask.server()?;
    let path = format!("/v1/functions/{}/route", arguments.name);
    let mut split = BTreeMap::new();
    for (version, percent) in &arguments.to {
        *split.entry(*version).or_insert(0) += percent;
    }
    let divided: Divided = block_on(server.call(Method::POST, &path, Some(&Split { split })))?;
    printer.result(arguments.ask.output, &divided, || text(&divided))?;
    Ok(Outcome::Success)
}

fn text(divided: &Divided) -> String {
    let Divided { name, current, split } = divided;
    if split.is_empty() {
        return format!("all calls of {name} go to version {current}");
    }
    let shares = split.iter().map(|(version, percent)| format!("{percent} % to version {version}"));
    format!("of the calls of {name} go {}", shares.collect::<Vec<_>>().join(", "))
}

fn share(text: &str) -> Result<(VersionNumber, u32), String> {
    let parsed = text.split_once('=').and_then(|(version, percent)| {
        Some((version.parse().ok()?, percent.trim_end_matches('%').parse().ok()?))
    });
    parsed.ok_or_else(|| format!("{text:?} is no share of the calls (for example 3=90)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_a_version_and_a_percent() {
        assert_eq!(share("3=90"), Ok((3, 90)));
        assert_eq!(share("12=5%"), Ok((12, 5)));
        for text in ["", "3", "3=", "=90", "a=1", "3=-1", "3=1.5"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
