//! Packages that the source itself brings, held against the base: a wheel that was unpacked for another Python or
//! another CPU would fail at its first import, long after the push.
//!
//! Looked at are `WHEEL` files, and the first bytes of the modules that the base's Python would load. A module for
//! another Python is left alone: many packages can do without theirs.

use super::error::DependencyError;
use super::install::{ELF_HEADER, elf_misfit, tags_misfit};
use super::target::Target;
use super::wanted::beginning;
use crate::source::{Entry, Kind, Source};

/// A `WHEEL` is a few lines.
const LONGEST_WHEEL: usize = 64 << 10;

/// Refuses a source with a package in it that does not fit.
pub fn check_vendored(source: &Source, target: &Target) -> Result<(), DependencyError> {
    for entry in source.entries().iter().filter(|entry| matches!(entry.kind, Kind::File { .. })) {
        if let Some(reason) = misfit(source, entry, target)? {
            let (wheel, target) = (entry.path.to_string(), target.to_string());
            return Err(DependencyError::Misfit { wheel, target, reason });
        }
    }
    Ok(())
}

fn misfit(source: &Source, entry: &Entry, target: &Target) -> Result<Option<String>, DependencyError> {
    let read = |most| beginning(source, entry, most).map_err(DependencyError::io("read", &*entry.path));
    if entry.path.ends_with(".dist-info/WHEEL") {
        return Ok(tags_misfit(&String::from_utf8_lossy(&read(LONGEST_WHEEL)?), target));
    }
    let (major, minor, _) = target.python;
    let ours = format!("cpython-{major}{minor}-{}-linux-gnu", target.machine().unwrap_or("x86_64"));
    match extension(&entry.path) {
        Some(tag) if tag == "abi3" || tag == ours => Ok(elf_misfit(&read(ELF_HEADER)?, target)),
        _ => Ok(None),
    }
}

/// The tag of an extension module (PEP 3149): of `a/_b.cpython-311-x86_64-linux-gnu.so` the middle part.
fn extension(path: &str) -> Option<&str> {
    let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
    name.strip_suffix(".so")?.rsplit_once('.').map(|(_, tag)| tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dependencies::platform;

    fn checked(files: &[(&str, &[u8])]) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files.iter().chain(&[("func.py", &b"def run(): pass"[..])]) {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let source = Source::open(folder.path(), &Default::default()).unwrap();
        let target =
            Target { python: (3, 11, 2), glibc: (2, 36), platform: platform("linux/amd64").unwrap() };
        check_vendored(&source, &target).map_err(|error| error.to_string())
    }

    fn elf(machine: u8) -> Vec<u8> {
        [&b"\x7fELF\x02\x01\x01"[..], &[0; 11], &[machine, 0]].concat()
    }

    #[test]
    fn wheels_for_another_python_or_cpu_are_refused() {
        let tag = |tag: &str| format!("Wheel-Version: 1.0\nTag: {tag}\n").into_bytes();
        checked(&[("a-1.dist-info/WHEEL", &tag("cp311-cp311-manylinux_2_17_x86_64"))]).unwrap();
        checked(&[("a-1.dist-info/WHEEL", &tag("py3-none-any"))]).unwrap();
        for other in ["cp312-cp312-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_17_aarch64"] {
            let said = checked(&[("vendor/a-1.dist-info/WHEEL", &tag(other))]).unwrap_err();
            assert!(said.starts_with("vendor/a-1.dist-info/WHEEL does not fit Python 3.11"), "{said}");
            assert!(said.contains(other), "{said}");
        }
    }

    #[test]
    fn modules_that_would_be_loaded_and_are_for_another_cpu_are_refused() {
        let (ours, theirs) = (elf(62), elf(183));
        checked(&[("a/_b.cpython-311-x86_64-linux-gnu.so", &ours), ("a/_c.abi3.so", &ours)]).unwrap();
        for path in ["a/_b.cpython-311-x86_64-linux-gnu.so", "a/_c.abi3.so"] {
            let said = checked(&[(path, &theirs)]).unwrap_err();
            assert!(said.starts_with(&format!("{path} does not fit")), "{said}");
        }
        for path in ["a/_b.cpython-312-x86_64-linux-gnu.so", "a/arm64/libx.so", "a/libx.so.1.2", "a/x.y/z.so"]
        {
            checked(&[(path, &theirs)]).unwrap();
        }
    }
}
