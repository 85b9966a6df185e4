//! The flags that say what goes into an image: where a function begins, the base, bounds, labels, environment.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;

use crate::function::{EntryPoint, FunctionName, Memory, parse_number};
use crate::oci::Platform;
use crate::{dependencies, image, source};

// What goes into an image beside the code.
#[derive(clap::Args)]
pub struct ImageArguments {
    /// What answers a call [default: func:run, or the .py file's own name]
    #[arg(long, value_name = "MODULE:FUNCTION")]
    pub entry: Option<EntryPoint>,
    /// The image below the code, by its name in the data folder
    #[arg(long, env = "FNBUILD_BASE", default_value = crate::base::DEFAULT)]
    pub base: String,
    /// Where the image is to run; several make an index of one image for each [default: the base's own]
    #[arg(long, env = "FNBUILD_PLATFORM", value_delimiter = ',', value_parser = platform, value_name = "OS/CPU,…")]
    platform: Vec<Platform>,
    /// A label of the image; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<Pair>,
    /// An annotation of the manifest; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<Pair>,
    /// A variable in the image's environment; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    image_env: Vec<Pair>,
    /// The time that the image says it was made at, in seconds since 1970 [default: 0, so that no digest depends on it]
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", hide = true)]
    epoch: Option<i64>,
    /// Bytes of the zip or file, at most [default: 50 MiB]
    #[arg(long, env = "FNBUILD_MAX_SOURCE", value_name = "SIZE")]
    max_source: Option<Memory>,
    /// Bytes of all its files together, at most [default: 250 MiB]
    #[arg(long, env = "FNBUILD_MAX_UNPACKED", value_name = "SIZE")]
    max_unpacked: Option<Memory>,
    /// Files, folders and links in it, at most [default: 100000]
    #[arg(long, env = "FNBUILD_MAX_ENTRIES", value_name = "N", value_parser = parse_number::<usize>)]
    max_entries: Option<usize>,
}

impl ImageArguments {
    pub fn source_options(&self) -> source::Options {
        let usual = source::Bounds::default();
        let bounds = source::Bounds {
            source: self.max_source.map_or(usual.source, |size| size.0),
            unpacked: self.max_unpacked.map_or(usual.unpacked, |size| size.0),
            entries: self.max_entries.unwrap_or(usual.entries),
            ..usual
        };
        source::Options { entry: self.entry.clone(), bounds, python: None }
    }

    pub fn image_options(&self, name: &FunctionName) -> image::Options {
        let pairs = |pairs: &[Pair]| -> Vec<_> {
            pairs.iter().map(|Pair(key, value)| (key.clone(), value.clone())).collect()
        };
        image::Options {
            name: Some(name.to_string()),
            labels: pairs(&self.label).into_iter().collect(),
            annotations: pairs(&self.annotation).into_iter().collect(),
            env: pairs(&self.image_env),
            epoch: self.epoch,
        }
    }

    /// Sorted, each once.
    pub fn platforms(&self) -> Vec<Platform> {
        self.platform.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether anything is asked for that only the builder of the image could put into it.
    pub fn decorates(&self) -> bool {
        !self.platform.is_empty()
            || ![&self.label, &self.annotation, &self.image_env].into_iter().all(Vec::is_empty)
    }
}

/// A platform that wheels are made for.
pub fn platform(text: &str) -> Result<Platform, String> {
    dependencies::platform(text).ok_or_else(|| "expected linux/amd64 or linux/arm64".into())
}

/// `KEY=VALUE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pair(String, String);

impl FromStr for Pair {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() && !text.contains('\0') => {
                Ok(Self(key.into(), value.into()))
            }
            _ => Err("expected KEY=VALUE"),
        }
    }
}

/// What fnbuild says of an image under its own prefix must be true.
fn label(text: &str) -> Result<Pair, &'static str> {
    let pair: Pair = text.parse()?;
    if pair.0.starts_with("io.fnbuild.") {
        return Err("labels that begin with io.fnbuild. are fnbuild's own");
    }
    Ok(pair)
}

/// The entry point is known by name wherever the image is described; a variable must not contradict that.
fn variable(text: &str) -> Result<Pair, &'static str> {
    let pair: Pair = text.parse()?;
    if pair.0 == "FNBUILD_ENTRY" {
        return Err("the entry point is set by --entry");
    }
    Ok(pair)
}

/// The name that was given, else the one that the source's own suggests.
pub fn function_name(given: Option<&FunctionName>, source: &Path) -> anyhow::Result<FunctionName> {
    if let Some(name) = given {
        return Ok(name.clone());
    }
    let path = std::fs::canonicalize(source).with_context(|| format!("open {}", source.display()))?;
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let stem = stem.unwrap_or_default().to_string_lossy();
    FunctionName::from_stem(&stem).context("the source's name is none for a function: give one with --name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fnbuilds_own_cannot_be_set() {
        assert_eq!(label("team=a=b"), Ok(Pair("team".into(), "a=b".into())));
        assert!(label("io.fnbuild.entry=x").is_err());
        assert_eq!(variable("A="), Ok(Pair("A".into(), String::new())));
        assert!(variable("FNBUILD_ENTRY=x:y").is_err());
        for text in ["", "a", "=b", "a=\0"] {
            assert!(label(text).is_err() && variable(text).is_err(), "{text:?}");
        }
    }
}
