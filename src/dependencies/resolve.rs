//! From requirements to one wheel for each package: uv resolves, and which wheel is taken is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::error::{Cause, DependencyError};
use super::lock::Pin;
use super::process::{self, Limits};
use super::requirement::{self, normalised};
use super::requirements::Requirements;
use super::target::{Tag, Target};

const STEP: &str = "resolve the requirements";
/// uv explains a conflict at length; this much of it is shown.
const SHOWN_LINES: usize = 8;
const SHOWN_CHARS: usize = 1200;

/// uv's answer: PEP 751, as far as it matters here. What it says of URLs is never used.
#[derive(Deserialize)]
struct Pylock {
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    wheels: Vec<Wheel>,
}

#[derive(Deserialize)]
struct Wheel {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

impl Wheel {
    fn file_name(&self) -> Option<String> {
        let place = || self.url.as_deref().or(self.path.as_deref());
        let text = self.name.as_deref().or_else(place)?;
        let text = text.split(['?', '#']).next()?.rsplit('/').next()?;
        Some(percent_encoding::percent_decode_str(text).decode_utf8().ok()?.into_owned())
    }
}

/// `uv` is `uv pip compile`, ready for its input; `folder` is empty.
pub(super) fn resolve(
    mut uv: Command,
    requirements: &Requirements,
    target: &Target,
    folder: &Path,
    limits: &Limits,
) -> Result<Vec<Pin>, DependencyError> {
    let list = folder.join("requirements.in");
    std::fs::write(&list, requirements.render()).map_err(DependencyError::io("write", &list))?;
    uv.args(["requirements.in", "--format", "pylock.toml", "--no-header", "--no-annotate"]);
    if requirements.no_deps {
        uv.arg("--no-deps");
    }
    let finished = process::run(STEP, &mut uv, folder, limits)?;
    if !finished.status.success() {
        return Err(failure(STEP, &finished.stderr));
    }
    let unreadable = |error: toml::de::Error| {
        let message = format!("uv's answer cannot be read: {}", error.message());
        DependencyError::Tool { step: STEP, message }
    };
    let answer: Pylock = toml::from_str(&finished.stdout).map_err(unreadable)?;
    let allowed = allowed_hashes(requirements);
    answer.packages.iter().map(|package| pin(package, target, allowed.as_ref())).collect()
}

/// The hashes that were given, by package. As with pip, one that is given demands one for every package.
fn allowed_hashes(requirements: &Requirements) -> Option<BTreeMap<&str, BTreeSet<&str>>> {
    let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for entry in requirements.iter().filter(|entry| !entry.hashes.is_empty()) {
        allowed.entry(&entry.name).or_default().extend(entry.hashes.iter().map(String::as_str));
    }
    (!allowed.is_empty()).then_some(allowed)
}

/// The wheel of this package that fits best.
fn pin(
    package: &Package,
    target: &Target,
    allowed: Option<&BTreeMap<&str, BTreeSet<&str>>>,
) -> Result<Pin, DependencyError> {
    let strange = || DependencyError::Tool {
        step: STEP,
        message: format!("uv named a package that cannot be one: {:?}", package.name),
    };
    let name = normalised(&package.name).ok_or_else(strange)?;
    let version =
        package.version.clone().filter(|version| requirement::is_version(version)).ok_or_else(strange)?;
    let label = || format!("{name} {version}");
    let fitting = package.wheels.iter().filter_map(|wheel| {
        let (tags, build) = Tag::of_wheel(&wheel.file_name()?)?;
        let rank = tags.iter().filter_map(|tag| target.rank(tag)).min()?;
        let hash = requirement::sha256(&format!("sha256:{}", wheel.hashes.get("sha256")?))?;
        Some((rank, std::cmp::Reverse(build), hash))
    });
    let mut fitting: Vec<_> = fitting.collect();
    fitting.sort();
    if fitting.is_empty() {
        return Err(DependencyError::NoWheel { package: label(), target: target.to_string() });
    }
    let permitted = |hash: &str| match allowed {
        None => true,
        Some(allowed) => allowed.get(name.as_str()).is_some_and(|hashes| hashes.contains(hash)),
    };
    match fitting.into_iter().find(|(_, _, hash)| permitted(hash)) {
        Some((_, _, hash)) => Ok(Pin::new(name, version, hash)),
        None => Err(DependencyError::HashMissing { package: label() }),
    }
}

/// uv's message, short, and what it means.
pub(super) fn failure(step: &'static str, stderr: &str) -> DependencyError {
    let message = shortened(stderr);
    let says = |text: &str| stderr.contains(text);
    let cause = if says("network was disabled") || says("not found in the cache") {
        Cause::Offline
    } else if says("no usable wheels")
        || says("no wheels with a matching")
        || says("building from source is disabled")
    {
        Cause::NoWheel
    } else if says("was not found in the package registry") {
        Cause::NotFound
    } else if says("unsatisfiable") || says("No solution found") {
        Cause::Conflict
    } else {
        return DependencyError::Tool { step, message };
    };
    DependencyError::Unresolvable { message, cause }
}

/// Without uv's own hints (ours follow) and without credentials.
fn shortened(stderr: &str) -> String {
    let mut lines = Vec::new();
    for line in stderr.lines().map(str::trim) {
        if line.starts_with("hint:") {
            break;
        }
        let line = line.trim_start_matches("error:").trim().trim_start_matches("cause:").trim();
        let said_already =
            line == "No solution found when resolving dependencies" || line.starts_with("warning:");
        if !line.is_empty() && !said_already {
            lines.push(without_credentials(line));
        }
    }
    let more = lines.len() > SHOWN_LINES;
    lines.truncate(SHOWN_LINES);
    let mut text: String = lines.join(" ").chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
    if more {
        text.push_str(" …");
    }
    text.trim_end_matches('.').to_string()
}

/// `https://user:secret@host/` → `https://host/`.
pub(super) fn without_credentials(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(['/', ' ', '`', '"', ')']).unwrap_or(after.len());
        let authority = &after[..end];
        out.push_str(authority.rsplit('@').next().unwrap_or(authority));
        rest = &after[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Platform;

    fn target() -> Target {
        let platform = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        Target { python: (3, 11, 2), glibc: (2, 36), platform }
    }

    fn package(files: &[(&str, &str)]) -> Package {
        let wheel = |(file, digit): &(&str, &str)| Wheel {
            name: None,
            url: Some(format!("https://host/{file}#sha256=x")),
            path: None,
            hashes: BTreeMap::from([("sha256".into(), digit.repeat(64))]),
        };
        Package { name: "A".into(), version: Some("1.0".into()), wheels: files.iter().map(wheel).collect() }
    }

    #[test]
    fn the_best_wheel_is_pinned() {
        let files = [
            ("a-1.0-py3-none-any.whl", "a"),
            ("a-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "b"),
            ("a-1.0-2-cp311-cp311-manylinux_2_17_x86_64.whl", "c"),
            ("a-1.0-cp311-cp311-manylinux_2_39_x86_64.whl", "d"),
        ];
        assert_eq!(pin(&package(&files), &target(), None).unwrap().sha256, "c".repeat(64));
        let none = package(&[("a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", "a")]);
        assert!(matches!(pin(&none, &target(), None), Err(DependencyError::NoWheel { .. })));
    }

    #[test]
    fn hashes_that_are_given_are_held() {
        let files = [("a-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "b"), ("a-1.0-py3-none-any.whl", "a")];
        let with = |text: &str| Requirements::parse("requirements.txt", text.as_bytes()).unwrap();
        let pure = with(&format!("a --hash=sha256:{}", "a".repeat(64)));
        let allowed = allowed_hashes(&pure);
        assert_eq!(pin(&package(&files), &target(), allowed.as_ref()).unwrap().sha256, "a".repeat(64));
        for text in
            [format!("a --hash=sha256:{}", "0".repeat(64)), format!("b --hash=sha256:{}", "a".repeat(64))]
        {
            let requirements = with(&text);
            let pinned = pin(&package(&files), &target(), allowed_hashes(&requirements).as_ref());
            assert!(matches!(pinned, Err(DependencyError::HashMissing { .. })), "{text}");
        }
    }

    #[test]
    fn uvs_message_is_shortened_and_understood() {
        let text = "error: No solution found when resolving dependencies\n  cause: Because a==1 depends on b>=2 and you \
                    require a==1,\n         that is it.\n\nhint: something long\n  goes on\n";
        assert_eq!(shortened(text), "Because a==1 depends on b>=2 and you require a==1, that is it");
        let text = "error: No solution found when resolving dependencies\n  cause: Because x was not found in the \
                    package registry and you require x, it is unsatisfiable.";
        assert!(matches!(failure(STEP, text), DependencyError::Unresolvable { cause: Cause::NotFound, .. }));
        assert!(matches!(failure(STEP, "error: disk full"), DependencyError::Tool { .. }));
    }

    #[test]
    fn credentials_are_cut_out() {
        let text = "Failed to fetch: `https://me:secret@host/simple/a/` (http://x@y:8080)";
        assert_eq!(without_credentials(text), "Failed to fetch: `https://host/simple/a/` (http://y:8080)");
    }
}
