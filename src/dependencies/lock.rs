//! `requirements.lock`: what was resolved, as one wheel for each package and platform.
//!
//! A requirements file with hashes that pip and uv read too. Each line names exactly one wheel by its SHA-256, so that
//! files which are uploaded later cannot change what is installed; a wheel that is not for every platform of the lock
//! carries a marker. Comments at the top say what the lock was made for. It may come from strangers, and is read by
//! the same strict reader as a requirements file.

use std::collections::{BTreeMap, BTreeSet};

use super::error::DependencyError;
use super::requirement::Requirement;
use super::requirements::Requirements;
use super::target::{self, Target};
use crate::oci::{Digest, Platform};

const FORMAT: &str = "1";

/// A resolution that can be installed, today and later, to the same bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lock {
    /// How messages call it.
    name: String,
    requirements: Digest,
    python: (u32, u32),
    glibc: (u32, u32),
    platforms: BTreeSet<Platform>,
    pins: BTreeSet<Pin>,
}

/// One wheel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Pin {
    pub name: String,
    pub version: String,
    pub sha256: String,
    /// The CPU that it is for, in `platform_machine`'s words; `None` if it is for every platform of the lock.
    #[serde(skip)]
    machine: Option<String>,
}

impl Pin {
    pub(super) fn new(name: String, version: String, sha256: String) -> Self {
        Self { name, version, sha256, machine: None }
    }
}

impl Lock {
    /// Joins what was resolved for each of several platforms of one base.
    pub(super) fn join(requirements: &Requirements, resolved: &[(Target, Vec<Pin>)]) -> Option<Self> {
        let (first, _) = resolved.first()?;
        let mut machines: BTreeMap<&Pin, BTreeSet<&str>> = BTreeMap::new();
        for (target, pins) in resolved {
            for pin in pins {
                machines.entry(pin).or_default().insert(target.machine()?);
            }
        }
        let mut all = BTreeSet::new();
        for (pin, on) in machines {
            if on.len() == resolved.len() {
                all.insert(pin.clone());
            } else {
                all.extend(on.iter().map(|machine| Pin { machine: Some((*machine).into()), ..pin.clone() }));
            }
        }
        Some(Self {
            name: "the resolution".into(),
            requirements: requirements.digest(),
            python: (first.python.0, first.python.1),
            glibc: resolved.iter().map(|(target, _)| target.glibc).max()?,
            platforms: resolved.iter().map(|(target, _)| target.platform.clone()).collect(),
            pins: all,
        })
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let platforms: Vec<String> =
            self.platforms.iter().map(|p| format!("{}/{}", p.os, p.architecture)).collect();
        let mut text = format!(
            "# Written by `fnbuild lock`. One wheel for each package and platform; change requirements.txt instead.\n\
             # fnbuild-lock: {FORMAT}\n# requirements: {}\n# python: {}.{}\n# glibc: {}.{}\n# platforms: {}\n",
            self.requirements,
            self.python.0,
            self.python.1,
            self.glibc.0,
            self.glibc.1,
            platforms.join(" ")
        );
        for Pin { name, version, sha256, machine } in &self.pins {
            let marker =
                machine.as_ref().map(|m| format!(" ; platform_machine == \"{m}\"")).unwrap_or_default();
            text += &format!("{name}=={version}{marker} \\\n    --hash=sha256:{sha256}\n");
        }
        text
    }

    /// Reads a lock that messages call `name`.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, DependencyError> {
        let bad = |reason: &str| DependencyError::BadLock { file: name.into(), reason: reason.into() };
        let body = Requirements::parse(name, bytes)?;
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        let header = |key: &'static str| {
            let prefix = format!("# {key}: ");
            let mut lines = text.lines().take_while(|line| line.starts_with('#'));
            let value = lines.find_map(|line| line.strip_prefix(prefix.as_str()));
            value.map(str::trim).ok_or_else(|| bad(&format!("it does not say {key}")))
        };
        if header("fnbuild-lock")? != FORMAT {
            return Err(bad("it is of another format"));
        }
        let pair = |key| {
            let (one, two) = header(key)?.split_once('.').ok_or_else(|| bad("a version is unreadable"))?;
            let number = |text: &str| text.parse::<u32>().map_err(|_| bad("a version is unreadable"));
            Ok::<_, DependencyError>((number(one)?, number(two)?))
        };
        let platforms = header("platforms")?.split(' ').map(|text| {
            let platform = platform(text);
            platform.ok_or_else(|| bad("a platform is unknown"))
        });
        let pins =
            body.iter().map(|entry| pin(entry).ok_or_else(|| bad(&format!("{} is no pin", entry.name))));
        Ok(Self {
            name: name.into(),
            requirements: header("requirements")?.parse().map_err(|_| bad("its digest is unreadable"))?,
            python: pair("python")?,
            glibc: pair("glibc")?,
            platforms: platforms.collect::<Result<_, _>>()?,
            pins: pins.collect::<Result<_, _>>()?,
        })
    }

    /// Whether the lock is one of these requirements, for these targets.
    pub fn check(&self, requirements: &Requirements, targets: &[Target]) -> Result<(), DependencyError> {
        if self.requirements != requirements.digest() {
            return Err(DependencyError::Stale { file: self.name.clone() });
        }
        for target in targets {
            let python = (target.python.0, target.python.1);
            if self.python != python || self.glibc > target.glibc {
                let (p, g) = (self.python, self.glibc);
                return Err(DependencyError::OtherBase {
                    file: self.name.clone(),
                    locked: format!("Python {}.{}, glibc {}.{}", p.0, p.1, g.0, g.1),
                    target: target.to_string(),
                });
            }
            if !self.platforms.contains(&target.platform) {
                let platform = target.platform.clone();
                return Err(DependencyError::OtherPlatform { file: self.name.clone(), platform });
            }
        }
        Ok(())
    }

    /// The wheels for one of the lock's platforms, by name.
    pub fn pins(&self, target: &Target) -> Vec<&Pin> {
        let fits =
            |pin: &&Pin| pin.machine.as_deref().is_none_or(|machine| target.machine() == Some(machine));
        self.pins.iter().filter(fits).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }
}

/// `linux/amd64`, if it is one that wheels are made for.
pub fn platform(text: &str) -> Option<Platform> {
    let (os, architecture) = text.split_once('/')?;
    let platform = Platform { architecture: architecture.into(), os: os.into(), variant: None };
    target::machine(&platform).map(|_| platform)
}

/// `name==version [; platform_machine == "…"] --hash=sha256:…`, and nothing more.
fn pin(entry: &Requirement) -> Option<Pin> {
    let mut hashes = entry.hashes.iter();
    let (Some(sha256), None) = (hashes.next(), hashes.next()) else { return None };
    let text = entry.render();
    let (text, machine) = match text.split_once(" ; ") {
        Some((text, marker)) => {
            let machine = marker.strip_prefix("platform_machine == \"")?.strip_suffix('"')?;
            (text, Some(machine.to_string()))
        }
        None => (text.as_str(), None),
    };
    let version = text.strip_prefix(entry.name.as_str())?.strip_prefix("==")?;
    let exact = !version.starts_with('=') && !version.contains([',', '*']);
    exact.then(|| Pin { name: entry.name.clone(), version: version.into(), sha256: sha256.clone(), machine })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(architecture: &str) -> Target {
        let platform = platform(&format!("linux/{architecture}")).unwrap();
        Target { python: (3, 11, 2), glibc: (2, 36), platform }
    }

    fn hash(digit: &str) -> String {
        digit.repeat(64)
    }

    fn example() -> (Requirements, Lock) {
        let requirements = Requirements::parse("requirements.txt", b"numpy\nsix").unwrap();
        let six = Pin::new("six".into(), "1.17.0".into(), hash("a"));
        let numpy = |digit| Pin::new("numpy".into(), "2.4.6".into(), hash(digit));
        let resolved = [(on("amd64"), vec![numpy("b"), six.clone()]), (on("arm64"), vec![numpy("c"), six])];
        let lock = Lock::join(&requirements, &resolved).unwrap();
        (requirements, lock)
    }

    #[test]
    fn a_lock_reads_back_as_written() {
        let (requirements, lock) = example();
        let text = lock.render();
        assert!(
            text.contains("numpy==2.4.6 ; platform_machine == \"aarch64\" \\\n    --hash=sha256:cccc"),
            "{text}"
        );
        assert!(text.contains("six==1.17.0 \\\n    --hash=sha256:aaaa"), "{text}");
        let read = Lock::parse("the resolution", text.as_bytes()).unwrap();
        assert_eq!(read, lock);
        read.check(&requirements, &[on("amd64"), on("arm64")]).unwrap();
        let pins: Vec<_> = read.pins(&on("arm64")).iter().map(|pin| pin.sha256.clone()).collect();
        assert_eq!(pins, [hash("c"), hash("a")]);
    }

    #[test]
    fn a_lock_that_does_not_fit_says_why() {
        let (requirements, lock) = example();
        let other = Requirements::parse("requirements.txt", b"numpy>=2\nsix").unwrap();
        assert!(matches!(lock.check(&other, &[]), Err(DependencyError::Stale { .. })));
        let newer = Target { python: (3, 12, 0), ..on("amd64") };
        assert!(matches!(lock.check(&requirements, &[newer]), Err(DependencyError::OtherBase { .. })));
        let older = Target { glibc: (2, 31), ..on("amd64") };
        assert!(matches!(lock.check(&requirements, &[older]), Err(DependencyError::OtherBase { .. })));
        let one = Lock::join(&requirements, &[(on("amd64"), Vec::new())]).unwrap();
        assert!(matches!(
            one.check(&requirements, &[on("arm64")]),
            Err(DependencyError::OtherPlatform { .. })
        ));
        assert!(one.check(&requirements, &[on("amd64")]).is_ok());
    }

    #[test]
    fn a_lock_holds_pins_and_nothing_else() {
        let (_, lock) = example();
        let text = lock.render();
        for (line, wrong) in [
            ("a>=1 --hash=sha256:", "not a pin"),
            ("a==1.* --hash=sha256:", "not one version"),
            ("a===1 --hash=sha256:", "not one version"),
            ("a[b]==1 --hash=sha256:", "extras"),
            ("a==1 ; os_name == 'posix' --hash=sha256:", "another marker"),
            ("-i https://example.org --hash=sha256:", "an option"),
        ] {
            let text = format!("{text}{line}{}\n", hash("d"));
            assert!(Lock::parse("requirements.lock", text.as_bytes()).is_err(), "{wrong}");
        }
        let unhashed = format!("{text}a==1\n");
        assert!(Lock::parse("requirements.lock", unhashed.as_bytes()).is_err());
        let pips =
            b"six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274";
        assert!(matches!(Lock::parse("requirements.lock", pips), Err(DependencyError::BadLock { .. })));
    }
}
