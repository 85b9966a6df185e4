//! Named network namespaces, as `ip netns` keeps them: a file in `/run/netns` with the namespace mounted on it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::Error;

pub(super) const FOLDER: &str = "/run/netns";

const NO_PATH: Option<&Path> = None;

/// Makes the folder a shared mount, so that a containerd in a mount namespace of its own sees what is mounted here.
/// To be called with the subnets' lock held: twice at once would mount it twice.
pub(super) fn prepare() -> Result<(), Error> {
    let folder = Path::new(FOLDER);
    let failed = |what| move |source| Error::Namespace { what, path: folder.into(), source };
    fs::create_dir_all(folder).map_err(Error::files("create", folder))?;
    let share = || mount(NO_PATH, folder, NO_PATH, MsFlags::MS_SHARED | MsFlags::MS_REC, NO_PATH);
    match share() {
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(folder), folder, NO_PATH, flags, NO_PATH).map_err(failed("bind the folder"))?;
            share().map_err(failed("share the folder"))
        }
        other => other.map_err(failed("share the folder")),
    }
}

/// Makes an empty namespace at `path`.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    File::create(path).map_err(Error::files("create", path))?;
    let target = path.to_path_buf();
    // A thread of its own: it ends in the new namespace and must not be used for anything else.
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &target, NO_PATH, MsFlags::MS_BIND, NO_PATH)
    });
    let made = made.join().unwrap_or(Err(Errno::UnknownErrno));
    made.map_err(|source| {
        let _ = fs::remove_file(path);
        Error::Namespace { what: "make a namespace", path: path.into(), source }
    })
}

/// Whether a namespace is mounted at `path`, and not only the file there that a crash between the two steps leaves.
pub(super) fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Removes the name; the namespace goes when nothing runs in it. One that is gone is success.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there but nothing is mounted, after a crash between the two steps.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(source) => return Err(Error::Namespace { what: "unmount", path: path.into(), source }),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::files("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The names of all of them, whosesoever they are.
pub(super) fn names() -> Result<Vec<String>, Error> {
    let folder = Path::new(FOLDER);
    let entries = fs::read_dir(folder).map_err(Error::files("list", folder))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
