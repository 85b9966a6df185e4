//! From unpacked packages to a root file system: what no function needs goes, what packages' scripts would have made comes.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::BaseError;
use super::recipe::Recipe;

/// Turns the tree that mmdebstrap left at `root` into the lowest layer's.
pub(super) fn finish(recipe: &Recipe, root: &Path) -> Result<(), BaseError> {
    let bundle = certificates(&root.join("usr/share/ca-certificates"))?;
    keep_copyrights(&root.join("usr/share/doc"))?;
    recipe.debian.remove.iter().try_for_each(|pattern| remove(root, pattern))?;
    applets(root, &recipe.debian.applets)?;
    make(root, &files(recipe, bundle))
}

/// One thing to be made. The mode is a folder's or a file's.
enum Made {
    Folder(u32),
    File(Vec<u8>),
    Link(String),
}

fn files(recipe: &Recipe, bundle: Vec<u8>) -> Vec<(String, Made)> {
    let (name, id, version) = (&recipe.user.name, recipe.user.id, &recipe.python.version);
    let text = |text: String| Made::File(text.into_bytes());
    let link = |target: &str| Made::Link(target.into());
    let passwd = format!(
        "root:x:0:0:root:/root:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
         {name}:x:{id}:{id}:{name}:/tmp:/bin/bash\n"
    );
    let group = format!("root:x:0:\nnogroup:x:65534:\n{name}:x:{id}:\n");
    let nsswitch = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";
    let made = [
        ("dev", Made::Folder(0o755)),
        ("proc", Made::Folder(0o755)),
        ("sys", Made::Folder(0o755)),
        ("run", Made::Folder(0o755)),
        ("root", Made::Folder(0o700)),
        ("tmp", Made::Folder(0o1777)),
        ("var/tmp", Made::Folder(0o1777)),
        ("var/cache", Made::Folder(0o755)),
        ("var/lib", Made::Folder(0o755)),
        ("var/log", Made::Folder(0o755)),
        ("usr/local/bin", Made::Folder(0o755)),
        ("usr/sbin", Made::Folder(0o755)),
        ("etc/passwd", text(passwd)),
        ("etc/group", text(group)),
        ("etc/nsswitch.conf", text(nsswitch.into())),
        ("etc/timezone", text("Etc/UTC\n".into())),
        ("etc/localtime", link("/usr/share/zoneinfo/Etc/UTC")),
        ("etc/ssl/certs/ca-certificates.crt", Made::File(bundle)),
        // OpenSSL's own default, which Python asks first.
        ("usr/lib/ssl/cert.pem", link("/etc/ssl/certs/ca-certificates.crt")),
        // Runtimes mount over these; in a root that is read-only they have to be there.
        ("etc/hosts", text("127.0.0.1 localhost\n::1 localhost\n".into())),
        ("etc/hostname", text(String::new())),
        ("etc/resolv.conf", text(String::new())),
        ("etc/mtab", link("/proc/self/mounts")),
        ("var/run", link("/run")),
        ("usr/bin/python3", Made::Link(format!("python{version}"))),
        ("usr/bin/python", link("python3")),
    ];
    let mut made: Vec<(String, Made)> =
        made.into_iter().map(|(path, what)| (path.to_string(), what)).collect();
    made.push((recipe.image.working_dir.trim_matches('/').into(), Made::Folder(0o755)));
    made.push((recipe.python.packages.display().to_string(), Made::Folder(0o755)));
    made
}

fn make(root: &Path, list: &[(String, Made)]) -> Result<(), BaseError> {
    for (path, what) in list {
        let place = root.join(path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(BaseError::io("create", parent))?;
        }
        match what {
            Made::Folder(mode) => fs::create_dir_all(&place)
                .and_then(|()| fs::set_permissions(&place, Permissions::from_mode(*mode)))
                .map_err(BaseError::io("create", &place))?,
            Made::File(content) => {
                take_out(&place)?;
                fs::write(&place, content)
                    .and_then(|()| fs::set_permissions(&place, Permissions::from_mode(0o644)))
                    .map_err(BaseError::io("write", &place))?;
            }
            Made::Link(target) => link(Path::new(target), &place)?,
        }
    }
    Ok(())
}

fn link(target: &Path, place: &Path) -> Result<(), BaseError> {
    take_out(place)?;
    symlink(target, place).map_err(BaseError::io("link", place))
}

/// Removes whatever stands at `place`; nothing there is fine.
fn take_out(place: &Path) -> Result<(), BaseError> {
    let meta = match fs::symlink_metadata(place) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(BaseError::io("read", place)(e)),
    };
    let removed = if meta.is_dir() { fs::remove_dir_all(place) } else { fs::remove_file(place) };
    removed.map_err(BaseError::io("remove", place))
}

/// Removes everything below `root` that a pattern names. Links on the way are not followed.
pub(super) fn remove(root: &Path, pattern: &str) -> Result<(), BaseError> {
    let mut places = vec![root.to_path_buf()];
    for part in pattern.split('/') {
        let mut below = Vec::new();
        for place in places.iter().filter(|place| fs::symlink_metadata(place).is_ok_and(|meta| meta.is_dir()))
        {
            let names = list(place)?.into_iter().filter(|name| matches(part, name));
            below.extend(names.map(|name| place.join(name)));
        }
        places = below;
    }
    places.iter().try_for_each(|place| take_out(place))
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(after, &rest[at..]))
        }),
    }
}

fn list(folder: &Path) -> Result<BTreeSet<String>, BaseError> {
    let names =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
    let names = names().map_err(BaseError::io("list", folder))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Mozilla's certificates in one file, as `update-ca-certificates` would.
fn certificates(folder: &Path) -> Result<Vec<u8>, BaseError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for vendor in list(folder)? {
        let vendor = folder.join(vendor);
        if vendor.is_dir() {
            files.extend(list(&vendor)?.into_iter().map(|name| vendor.join(name)));
        }
    }
    let mut bundle = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "crt")) {
        bundle.extend(fs::read(file).map_err(BaseError::io("read", file))?);
        if bundle.last() != Some(&b'\n') {
            bundle.push(b'\n');
        }
    }
    Ok(bundle)
}

/// Of the documentation, licences stay: whoever passes the image on has to pass them on.
fn keep_copyrights(folder: &Path) -> Result<(), BaseError> {
    for package in list(folder)? {
        let package = folder.join(package);
        if fs::symlink_metadata(&package).is_ok_and(|meta| meta.is_dir()) {
            for name in list(&package)?.iter().filter(|name| *name != "copyright") {
                take_out(&package.join(name))?;
            }
        }
    }
    Ok(())
}

/// Links busybox's commands to it, where there is no program of that name.
fn applets(root: &Path, names: &[String]) -> Result<(), BaseError> {
    let folder = root.join("usr/bin");
    for name in names {
        let place = folder.join(name);
        if fs::symlink_metadata(&place).is_err() {
            symlink("busybox", &place).map_err(BaseError::io("link", &place))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_is_removed_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["usr/lib/x-linux-gnu/gconv/a", "usr/lib/x-linux-gnu/libc.so", "usr/lib/keep", "etc/a/b"]
        {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), b"").unwrap();
        }
        symlink("usr/lib", root.join("lib")).unwrap();
        for pattern in ["usr/lib/*-linux-gnu/gconv", "etc/*", "lib/keep", "not/there"] {
            remove(root, pattern).unwrap();
        }
        assert!(!root.join("usr/lib/x-linux-gnu/gconv").exists());
        assert!(root.join("usr/lib/x-linux-gnu/libc.so").exists());
        assert!(root.join("usr/lib/keep").exists(), "a link to a folder is not followed");
        assert!(root.join("etc").exists() && !root.join("etc/a").exists());
    }

    #[test]
    fn stars_stand_for_anything_in_one_name() {
        assert!(matches("lib*.so.*", "libdb.so.5"));
        assert!(matches("*", "") && matches("a*", "a") && matches("größe*", "größe1"));
        assert!(!matches("lib*.so", "libdb.so.5") && !matches("a", "ab"));
    }
}
