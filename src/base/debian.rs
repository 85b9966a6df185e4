//! Debian packages, unpacked by mmdebstrap into a folder, and what exactly they were.
//!
//! No script of any package runs: that makes other architectures possible, and leaves to `rootfs` what scripts make.

use std::fmt::Write as _;
use std::path::Path;

use super::lock::Package;
use super::recipe::Recipe;
use super::tool::{Stop, Tool};
use super::{BaseError, sources};
use crate::oci::Hasher;

/// Makes `/bin`, `/lib` and `/sbin` links into `/usr`; part of Debian's own mmdebstrap.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// Unpacks the recipe's packages and all that they depend on into `root`, which must not be there yet.
///
/// The `locked` versions are preferred and their successors taken where they are gone. `work` is a folder for files on
/// the way. Gives what was unpacked, by name.
pub(super) fn unpack(
    recipe: &Recipe,
    architecture: &str,
    locked: &[Package],
    work: &Path,
    stop: &Stop,
) -> Result<Vec<Package>, BaseError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(BaseError::NotRoot);
    }
    let write = |name: &str, text: String| {
        let path = work.join(name);
        std::fs::write(&path, text).map_err(BaseError::io("write", &path)).map(|()| path)
    };
    let sources = write("apt.sources", sources::read(Path::new("/etc/apt"), &recipe.debian.suite)?)?;
    let preferences = write("preferences", preferences(locked))?;
    let root = work.join("root");
    let mut tool = Tool::new("mmdebstrap", "unpack the Debian packages", stop)
        .args(["--variant=extract", "--mode=root", "--format=directory"])
        // The packages' files are read below, and all of apt's folders are removed afterwards anyway.
        .arg("--skip=essential/unlink,cleanup/apt,cleanup/tmp,cleanup/mtab")
        .arg(format!("--architectures={architecture}"))
        .arg(format!("--include={}", recipe.debian.packages.join(",")))
        .arg(format!("--aptopt=Dir::Etc::Preferences \"{}\"", preferences.display()));
    for option in proxies(stop)? {
        tool = tool.arg(format!("--aptopt={option}"));
    }
    if Path::new(MERGED_USR).exists() {
        tool = tool.arg(format!("--hook-dir={MERGED_USR}"));
    }
    tool.env("TMPDIR", work).arg(&recipe.debian.suite).arg(&root).arg(&sources).run()?;
    unpacked(&root.join("var/cache/apt/archives"))
}

/// Above 1000, apt takes a version even where it is older than another; one that is not there has no effect.
fn preferences(locked: &[Package]) -> String {
    locked.iter().fold(String::new(), |mut text, Package { name, version, .. }| {
        let _ = write!(text, "Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n");
        text
    })
}

/// The machine's proxies, as `Acquire::http::Proxy "http://…";`: mmdebstrap passes on the environment's only.
fn proxies(stop: &Stop) -> Result<Vec<String>, BaseError> {
    let dump = Tool::new("apt-config", "read apt's configuration", stop).args(["dump", "Acquire"]).run()?;
    let named = |line: &&str| {
        line.split_once(' ').is_some_and(|(key, value)| key.contains("Proxy") && value != "\"\";")
    };
    Ok(dump.lines().filter(named).map(|line| line.trim_end_matches(';').to_string()).collect())
}

/// The packages in apt's cache: `NAME_VERSION_ARCHITECTURE.deb`, with `%3a` for a colon.
fn unpacked(archives: &Path) -> Result<Vec<Package>, BaseError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(archives).map_err(BaseError::io("list", archives))? {
        let path = entry.map_err(BaseError::io("list", archives))?.path();
        let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".deb")) else {
            continue;
        };
        let Some((name, rest)) = stem.split_once('_') else { continue };
        let version = rest.rsplit_once('_').map_or(rest, |(version, _)| version).replace("%3a", ":");
        let mut hasher = Hasher::sha256();
        let mut file = std::fs::File::open(&path).map_err(BaseError::io("open", &path))?;
        std::io::copy(&mut file, &mut hasher).map_err(BaseError::io("read", &path))?;
        found.push(Package { name: name.into(), version, sha256: hasher.finish().hex().into() });
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_known_by_their_files() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["zlib1g_1%3a1.2.13.dfsg-1_arm64.deb", "base-files_12.4+deb12u12_amd64.deb", "lock"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let found = unpacked(folder.path()).unwrap();
        let named: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(named, [("base-files", "12.4+deb12u12"), ("zlib1g", "1:1.2.13.dfsg-1")]);
    }
}
