//! What wheels must fit: the base's Python, its libc, its CPU. Never this machine's.
//!
//! Wheel names and tags: the binary distribution format, and PEPs 425, 600 and 656.

use std::fmt;

use super::error::DependencyError;
use crate::oci::{ImageConfig, Platform};

/// The label of a base that names its Python: `3.11.2`.
pub const PYTHON_LABEL: &str = "io.fnbuild.python";
/// The label of a base that names its libc: `2.36`, of glibc.
pub const GLIBC_LABEL: &str = "io.fnbuild.glibc";

const DEFAULT_BASE: &str = "python3.11-flask2.3";

/// Where dependencies are to run.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Target {
    /// Major, minor and patch, of CPython.
    pub python: (u32, u32, u32),
    pub glibc: (u32, u32),
    pub platform: Platform,
}

impl Target {
    /// What a base says about itself in its labels. An image that was not made as a base has Python's version in its
    /// environment, as Docker's own Python images do, and is asked for its libc in vain.
    pub fn of(name: &str, config: &ImageConfig) -> Result<Self, DependencyError> {
        let label = |key: &str| config.config.labels.get(key).map(String::as_str);
        let env =
            |key: &str| config.config.env.iter().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        let unknown = |what| DependencyError::UnknownBase { base: name.into(), what };
        if let (None, Some(known)) = (label(PYTHON_LABEL), Self::of_default_base(name)) {
            return Ok(Self { platform: without_variant(&config.platform), ..known });
        }
        let python = label(PYTHON_LABEL).or_else(|| env("PYTHON_VERSION")).and_then(numbers::<3>);
        let [major, minor, patch] = python.ok_or_else(|| unknown("which Python it has"))?;
        let [libc_major, libc_minor] =
            label(GLIBC_LABEL).and_then(numbers::<2>).ok_or_else(|| unknown("which glibc it has"))?;
        let target = Self {
            python: (major, minor, patch),
            glibc: (libc_major, libc_minor),
            platform: without_variant(&config.platform),
        };
        target.machine().ok_or_else(|| unknown("a CPU that wheels are made for"))?;
        Ok(target)
    }

    /// What the default base is, on linux/amd64: it can be locked for before it is there.
    pub fn of_default_base(name: &str) -> Option<Self> {
        let platform = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        (name == DEFAULT_BASE).then_some(Self { python: (3, 11, 2), glibc: (2, 36), platform })
    }

    /// The CPU in the words of wheels and of `platform.machine()`; `None` for one that fnbuild does not serve.
    pub(super) fn machine(&self) -> Option<&'static str> {
        machine(&self.platform)
    }

    /// ELF's `e_machine` (gABI, "ELF Header").
    pub(super) fn elf_machine(&self) -> u16 {
        match self.machine() {
            Some("aarch64") => 183,
            _ => 62,
        }
    }

    /// `--python-platform`'s word.
    pub(super) fn uv_platform(&self) -> String {
        format!("{}-manylinux_{}_{}", self.machine().unwrap_or("x86_64"), self.glibc.0, self.glibc.1)
    }

    /// `--python-version`'s word.
    pub(super) fn python_version(&self) -> String {
        format!("{}.{}.{}", self.python.0, self.python.1, self.python.2)
    }

    /// How well a tag fits, lower is better; `None` if it does not.
    pub(super) fn rank(&self, tag: &Tag) -> Option<(u32, u32)> {
        let platform = self.platform_rank(&tag.platform)?;
        let interpreter = self.interpreter_rank(&tag.python, &tag.abi)?;
        // A wheel for any platform comes after every one that was built for this one.
        Some(if tag.platform == "any" { (u32::MAX, interpreter) } else { (interpreter, platform) })
    }

    fn interpreter_rank(&self, python: &str, abi: &str) -> Option<u32> {
        let (major, minor, _) = self.python;
        let ours = format!("cp{major}{minor}");
        let cpython = python.strip_prefix(&format!("cp{major}")).and_then(|text| text.parse::<u32>().ok());
        let generic = python.strip_prefix(&format!("py{major}"));
        match (abi, cpython, generic) {
            (abi, Some(_), _) if python == ours && abi == ours => Some(0),
            ("abi3", Some(since), _) if since <= minor => Some(1 + minor - since),
            ("none", Some(_), _) if python == ours => Some(100),
            ("none", _, Some("")) => Some(102),
            ("none", _, Some(text)) => {
                let since: u32 = text.parse().ok()?;
                (since <= minor).then(|| if since == minor { 101 } else { 103 + minor - since })
            }
            _ => None,
        }
    }

    fn platform_rank(&self, tag: &str) -> Option<u32> {
        if tag == "any" {
            return Some(0);
        }
        let tag = tag.strip_suffix(self.machine()?)?.strip_suffix('_')?;
        let (major, minor) = match tag {
            "linux" => return Some(1000),
            "manylinux1" => (2, 5),
            "manylinux2010" => (2, 12),
            "manylinux2014" => (2, 17),
            tag => {
                let (major, minor) = tag.strip_prefix("manylinux_")?.split_once('_')?;
                (major.parse().ok()?, minor.parse().ok()?)
            }
        };
        ((major, minor) <= self.glibc && major == self.glibc.0).then(|| self.glibc.1 - minor)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (python, glibc) = (self.python, self.glibc);
        let machine = self.machine().unwrap_or(&self.platform.architecture);
        write!(f, "Python {}.{}, glibc {}.{}, {machine}", python.0, python.1, glibc.0, glibc.1)
    }
}

/// The CPU of a platform in the words of wheels.
pub(super) fn machine(platform: &Platform) -> Option<&'static str> {
    match (platform.os.as_str(), platform.architecture.as_str()) {
        ("linux", "amd64") => Some("x86_64"),
        ("linux", "arm64") => Some("aarch64"),
        _ => None,
    }
}

/// Wheels know one kind of each CPU.
fn without_variant(platform: &Platform) -> Platform {
    Platform { variant: None, ..platform.clone() }
}

/// `3.11.2` → three numbers; what is missing at the end is 0.
fn numbers<const N: usize>(text: &str) -> Option<[u32; N]> {
    let mut out = [0; N];
    let mut parts = text.split('.');
    for (index, slot) in out.iter_mut().enumerate() {
        match parts.next() {
            Some(part) => *slot = part.parse().ok()?,
            None if index >= 2 => {}
            None => return None,
        }
    }
    Some(out)
}

/// One of the tags of a wheel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    python: String,
    abi: String,
    platform: String,
}

impl Tag {
    /// `cp311-cp311-manylinux_2_17_x86_64`, of which each part may be several, joined by dots.
    pub(super) fn parse_all(text: &str) -> Option<Vec<Self>> {
        let parts: Vec<&str> = text.split('-').collect();
        let [pythons, abis, platforms] = parts[..] else { return None };
        let mut tags = Vec::new();
        for python in pythons.split('.') {
            for abi in abis.split('.') {
                for platform in platforms.split('.') {
                    tags.push(Self { python: python.into(), abi: abi.into(), platform: platform.into() });
                }
            }
        }
        Some(tags)
    }

    /// Of a wheel's file name, with its build number: `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl`.
    pub(super) fn of_wheel(file: &str) -> Option<(Vec<Self>, u64)> {
        let parts: Vec<&str> = file.strip_suffix(".whl")?.split('-').collect();
        let build = match parts.len() {
            5 => 0,
            6 => {
                let digits: String = parts[2].chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok()?
            }
            _ => return None,
        };
        Some((Self::parse_all(&parts[parts.len() - 3..].join("-"))?, build))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(architecture: &str) -> Target {
        let platform = Platform { architecture: architecture.into(), os: "linux".into(), variant: None };
        Target { python: (3, 11, 2), glibc: (2, 36), platform }
    }

    fn best(target: &Target, file: &str) -> Option<(u32, u32)> {
        let (tags, _) = Tag::of_wheel(file).unwrap();
        tags.iter().filter_map(|tag| target.rank(tag)).min()
    }

    #[test]
    fn wheels_for_another_python_libc_or_cpu_do_not_fit() {
        let amd64 = target("amd64");
        for file in [
            "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_36_x86_64.whl",
            "a-1-cp37-abi3-manylinux1_x86_64.whl",
            "a-1-2-py2.py3-none-any.whl",
            "a-1-py311-none-any.whl",
            "a-1-py3-none-linux_x86_64.whl",
        ] {
            assert!(best(&amd64, file).is_some(), "{file}");
        }
        for file in [
            "a-1-cp310-cp310-manylinux_2_17_x86_64.whl",
            "a-1-cp312-abi3-manylinux_2_17_x86_64.whl",
            "a-1-cp311-cp311t-manylinux_2_17_x86_64.whl",
            "a-1-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_37_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_17_aarch64.whl",
            "a-1-cp311-cp311-musllinux_1_2_x86_64.whl",
            "a-1-cp311-cp311-macosx_11_0_x86_64.whl",
            "a-1-cp311-cp311-win_amd64.whl",
            "a-1-py2-none-any.whl",
            "a-1-py312-none-any.whl",
        ] {
            assert_eq!(best(&amd64, file), None, "{file}");
        }
        assert!(best(&target("arm64"), "a-1-cp311-cp311-manylinux_2_17_aarch64.whl").is_some());
    }

    #[test]
    fn the_closest_wheel_ranks_first() {
        let files = [
            "a-1-cp311-cp311-manylinux_2_28_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_17_x86_64.whl",
            "a-1-cp311-cp311-linux_x86_64.whl",
            "a-1-cp310-abi3-manylinux_2_28_x86_64.whl",
            "a-1-cp37-abi3-manylinux_2_28_x86_64.whl",
            "a-1-py3-none-manylinux_2_17_x86_64.whl",
            "a-1-py3-none-any.whl",
        ];
        let ranks: Vec<_> = files.iter().map(|file| best(&target("amd64"), file).unwrap()).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }

    #[test]
    fn a_base_says_what_it_is() {
        let mut config = ImageConfig { platform: target("arm64").platform, ..ImageConfig::default() };
        assert!(matches!(Target::of("b", &config), Err(DependencyError::UnknownBase { .. })));
        config.config.env = vec!["PYTHON_VERSION=3.11.9".into()];
        config.config.labels.insert(GLIBC_LABEL.into(), "2.36".into());
        assert_eq!(Target::of("b", &config).unwrap().python, (3, 11, 9));
        config.config.labels.insert(PYTHON_LABEL.into(), "3.11.2".into());
        let target = Target::of("b", &config).unwrap();
        assert_eq!((target.python, target.uv_platform().as_str()), ((3, 11, 2), "aarch64-manylinux_2_36"));
        config.platform.architecture = "s390x".into();
        assert!(Target::of("b", &config).is_err());
    }
}
