//! From pins to a tree of packages: installed by uv, compiled for the base's Python, checked, made reproducible.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::DependencyError;
use super::lock::Pin;
use super::process::{self, Limits};
use super::resolve;
use super::target::{Tag, Target};

const STEP: &str = "install the packages";
const COMPILE: &str = "compile the packages";
/// Where the tree is in a container; also the file names in tracebacks.
pub(super) const PLACE: &str = "/function/.fnbuild/packages";
/// So much of a file of machine code says which CPU it is for.
pub(super) const ELF_HEADER: usize = 20;
/// What uv leaves that says where and how it ran, or that is of no use in a container.
///
/// `bin` holds programs: most are wrappers that begin with the path of this machine's Python, and nothing in a container
/// has that folder on its `PATH`. A function imports packages; it does not run their commands.
const DROPPED_FOLDER: &str = "bin";
const DROPPED_FILES: [&str; 4] = ["REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"];

/// Installs exactly `pins` into `work/packages`. `uv` is `uv pip install`, ready for its input; `work` is empty.
pub(super) fn install(
    mut uv: Command,
    pins: &[&Pin],
    work: &Path,
    limits: &Limits,
) -> Result<PathBuf, DependencyError> {
    let list = work.join("requirements.txt");
    fs::write(&list, self::list(pins)).map_err(DependencyError::io("write", &list))?;
    uv.args(["--requirements", "requirements.txt", "--target", "packages", "--link-mode", "copy"])
        .args(["--require-hashes", "--no-deps"]);
    let finished = process::run(STEP, &mut uv, work, limits)?;
    if !finished.status.success() {
        return Err(resolve::failure(STEP, &finished.stderr));
    }
    let packages = work.join("packages");
    fs::create_dir_all(&packages).map_err(DependencyError::io("create", &packages))?;
    Ok(packages)
}

/// The pins as a requirements file.
pub(super) fn list(pins: &[&Pin]) -> String {
    let line = |pin: &&Pin| format!("{}=={} --hash=sha256:{}\n", pin.name, pin.version, pin.sha256);
    pins.iter().map(line).collect()
}

/// Byte-compiles the tree. The files are marked as valid whatever the time of their source is: times in a layer are
/// fixed, and nobody edits it. A package's file that is no Python 3 (a template, a test) stays without one.
pub(super) fn compile(
    python: &Path,
    packages: &Path,
    work: &Path,
    limits: &Limits,
) -> Result<(), DependencyError> {
    let mut command = Command::new(python);
    command
        .env_clear()
        // Without it the order within sets, and with it the bytes, would differ from run to run.
        .env("PYTHONHASHSEED", "0")
        .args([
            "-s",
            "-S",
            "-m",
            "compileall",
            "-q",
            "-q",
            "-j",
            "0",
            "--invalidation-mode",
            "unchecked-hash",
        ])
        .args(["-p", PLACE, "-s"])
        .args([packages, packages]);
    let finished = process::run(COMPILE, &mut command, work, limits)?;
    // 1 is its answer when a file does not compile.
    match finished.status.code() {
        Some(0 | 1) => Ok(()),
        _ => {
            let message = finished.stderr.lines().last().unwrap_or("it was ended by a signal").to_string();
            Err(DependencyError::Tool { step: COMPILE, message })
        }
    }
}

/// Takes away what differs from machine to machine.
pub(super) fn normalise(packages: &Path) -> Result<(), DependencyError> {
    let remove = |path: &Path| match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).map_err(DependencyError::io("remove", path)),
        Ok(_) => fs::remove_file(path).map_err(DependencyError::io("remove", path)),
        Err(_) => Ok(()),
    };
    remove(&packages.join(DROPPED_FOLDER))?;
    remove(&packages.join(".lock"))?;
    for info in dist_infos(packages)? {
        for name in DROPPED_FILES {
            remove(&info.join(name))?;
        }
        let record = info.join("RECORD");
        let Ok(text) = fs::read_to_string(&record) else { continue };
        let dropped = |line: &&str| {
            let path = line.split(',').next().unwrap_or(line).trim_matches('"');
            path.starts_with("bin/")
                || DROPPED_FILES.iter().any(|name| path.ends_with(&format!(".dist-info/{name}")))
        };
        let mut lines: Vec<&str> = text.lines().filter(|line| !dropped(line)).collect();
        lines.sort_unstable();
        fs::write(&record, lines.join("\n") + "\n").map_err(DependencyError::io("write", &record))?;
    }
    Ok(())
}

/// Holds the tree against the target: tags of every wheel, machine code of every file, kinds of files, and their size, which is given back.
pub(super) fn check(packages: &Path, target: &Target, max_unpacked: u64) -> Result<u64, DependencyError> {
    for info in dist_infos(packages)? {
        check_tags(&info, target)?;
    }
    let mut unpacked = 0;
    let mut folders = vec![packages.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for path in sorted(&folder)? {
            let meta = fs::symlink_metadata(&path).map_err(DependencyError::io("read", &path))?;
            let misfit = |reason: String| misfit(packages, &path, target, reason);
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".wh.")) {
                return Err(misfit("its name would delete a file of the base".into()));
            }
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() {
                unpacked += meta.len();
                if unpacked > max_unpacked {
                    return Err(DependencyError::TooLarge { limit: max_unpacked });
                }
                check_machine(&path, target)?.map_err(misfit)?;
            } else {
                return Err(misfit("it is neither a file nor a folder".into()));
            }
        }
    }
    Ok(unpacked)
}

/// Sets every mode below `folder` to one of two, so that neither a umask nor a wheel's maker decides them.
pub(super) fn set_modes(folder: &Path) -> Result<(), DependencyError> {
    for path in sorted(folder)? {
        let meta = fs::symlink_metadata(&path).map_err(DependencyError::io("read", &path))?;
        let mode = if meta.is_dir() || meta.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        let set = fs::set_permissions(&path, Permissions::from_mode(mode));
        set.map_err(DependencyError::io("set the mode of", &path))?;
        if meta.is_dir() {
            set_modes(&path)?;
        }
    }
    Ok(())
}

/// What is in a folder, sorted.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, DependencyError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(DependencyError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}

fn misfit(packages: &Path, path: &Path, target: &Target, reason: String) -> DependencyError {
    let wheel = path.strip_prefix(packages).unwrap_or(path).display().to_string();
    DependencyError::Misfit { wheel, target: target.to_string(), reason }
}

fn dist_infos(packages: &Path) -> Result<Vec<PathBuf>, DependencyError> {
    let mut found = sorted(packages)?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "dist-info"));
    Ok(found)
}

/// The wheel's own word: at least one `Tag:` in its `WHEEL` fits.
fn check_tags(info: &Path, target: &Target) -> Result<(), DependencyError> {
    let path = info.join("WHEEL");
    let text = fs::read_to_string(&path).map_err(DependencyError::io("read", &path))?;
    let Some(reason) = tags_misfit(&text, target) else { return Ok(()) };
    let name = info.file_stem().unwrap_or(info.as_os_str()).to_string_lossy().into_owned();
    Err(DependencyError::Misfit { wheel: name, target: target.to_string(), reason })
}

/// Why none of the tags in a `WHEEL` file's text fits.
pub(super) fn tags_misfit(text: &str, target: &Target) -> Option<String> {
    let tags: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Tag:")).map(str::trim).collect();
    let fits = |text: &&str| {
        Tag::parse_all(text).is_some_and(|tags| tags.iter().any(|tag| target.rank(tag).is_some()))
    };
    (!tags.iter().any(fits)).then(|| format!("its tags are {}", tags.join(", ")))
}

/// A file of machine code must be for the target's CPU.
fn check_machine(path: &Path, target: &Target) -> Result<Result<(), String>, DependencyError> {
    let mut header = Vec::with_capacity(ELF_HEADER);
    let file = File::open(path).map_err(DependencyError::io("open", path))?;
    file.take(ELF_HEADER as u64).read_to_end(&mut header).map_err(DependencyError::io("read", path))?;
    Ok(elf_misfit(&header, target).map_or(Ok(()), Err))
}

/// Why machine code that begins so does not fit (gABI, "ELF Header": class, data, machine). What is none always fits.
pub(super) fn elf_misfit(header: &[u8], target: &Target) -> Option<String> {
    let [0x7f, b'E', b'L', b'F', class, data, ..] = header else { return None };
    let [low, high] = header.get(18..ELF_HEADER)? else { return None };
    let machine = u16::from_le_bytes([*low, *high]);
    ((*class, *data, machine) != (2, 1, target.elf_machine()))
        .then(|| format!("it is machine code for another CPU (ELF machine {machine})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dependencies::platform;

    fn target(text: &str) -> Target {
        Target { python: (3, 11, 2), glibc: (2, 36), platform: platform(text).unwrap() }
    }

    fn elf(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes
    }

    fn tree(tag: &str, code: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let info = folder.path().join("a-1.dist-info");
        fs::create_dir(&info).unwrap();
        fs::write(info.join("WHEEL"), format!("Wheel-Version: 1.0\nTag: {tag}\n")).unwrap();
        fs::write(
            info.join("RECORD"),
            "b.so,sha256=x,1\nbin/a,sha256=y,2\na-1.dist-info/REQUESTED,,0\na,,1\n",
        )
        .unwrap();
        fs::write(info.join("REQUESTED"), "").unwrap();
        fs::write(folder.path().join("b.so"), code).unwrap();
        folder
    }

    #[test]
    fn machine_code_for_another_cpu_is_found() {
        let (amd64, arm64) = (target("linux/amd64"), target("linux/arm64"));
        let folder = tree("py3-none-any", &elf(183));
        assert!(check(folder.path(), &arm64, 1000).is_ok());
        let error = check(folder.path(), &amd64, 1000).unwrap_err();
        assert!(error.to_string().starts_with("b.so does not fit"), "{error}");
        let wide = tree("py3-none-any", &[b"\x7fELF\x01\x01", &elf(62)[6..]].concat());
        assert!(check(wide.path(), &amd64, 1000).is_err());
        let data = tree("py3-none-any", b"\x7fELF");
        assert!(check(data.path(), &amd64, 1000).is_ok());
    }

    #[test]
    fn tags_sizes_and_kinds_are_held() {
        let amd64 = target("linux/amd64");
        let other = tree("cp312-cp312-manylinux_2_17_x86_64", b"");
        assert!(
            matches!(check(other.path(), &amd64, 1000), Err(DependencyError::Misfit { wheel, .. }) if wheel == "a-1")
        );
        let large = tree("py3-none-any", &[0; 2000]);
        assert!(matches!(check(large.path(), &amd64, 1000), Err(DependencyError::TooLarge { limit: 1000 })));
        let linked = tree("py3-none-any", b"");
        std::os::unix::fs::symlink("/etc/passwd", linked.path().join("c")).unwrap();
        assert!(matches!(check(linked.path(), &amd64, 1000), Err(DependencyError::Misfit { .. })));
        let whiteout = tree("py3-none-any", b"");
        fs::write(whiteout.path().join(".wh.b"), "").unwrap();
        assert!(matches!(check(whiteout.path(), &amd64, 1000), Err(DependencyError::Misfit { .. })));
    }

    #[test]
    fn traces_of_this_machine_are_taken_away() {
        let folder = tree("py3-none-any", b"");
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/a"), "#!/usr/bin/python3").unwrap();
        fs::write(folder.path().join(".lock"), "").unwrap();
        normalise(folder.path()).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a-1.dist-info", "b.so"]);
        let record = fs::read_to_string(folder.path().join("a-1.dist-info/RECORD")).unwrap();
        assert_eq!(record, "a,,1\nb.so,sha256=x,1\n");
    }
}
