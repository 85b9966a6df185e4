//! Putting into a container that exists already what makes it a function's: files over `/function`, secrets, its name.
//!
//! The code's layers are merged by an overlay that is read-only, nosuid and nodev from its making, and never attached
//! anywhere on the host: it is moved straight into the container's mount namespace and goes with that. Nothing is left
//! behind whoever dies in between. Takes Linux 5.2.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, move_mount,
};

use super::image::CODE;
use super::secret_files::{self, SecretFiles};

/// What is put on.
#[derive(Debug, Default)]
pub(super) struct Garment {
    /// Folders to be merged into `/function`, the uppermost first, in place of the mount that is there.
    pub code: Vec<PathBuf>,
    pub hostname: Option<String>,
    pub secrets: SecretFiles,
    /// Whose the secrets are.
    pub user: u32,
}

/// Puts it on the container of process `pid`. No code of a user's may run in it yet: its paths are followed.
pub(super) async fn dress(pid: u32, garment: Garment) -> io::Result<()> {
    let (sender, done) = tokio::sync::oneshot::channel();
    // A thread of its own: it ends in the container's namespaces and must not be used for anything else.
    std::thread::spawn(move || sender.send(put_on(pid, &garment)));
    done.await.unwrap_or_else(|_| Err(io::Error::other("the thread that mounts panicked")))
}

fn put_on(pid: u32, garment: &Garment) -> io::Result<()> {
    let namespace = |name: &str| File::open(format!("/proc/{pid}/ns/{name}"));
    let (mounts, names) = (namespace("mnt")?, namespace("uts")?);
    // A working folder of this thread's own: for the short paths below, and because entering takes it.
    unshare(CloneFlags::CLONE_FS)?;
    let code = (!garment.code.is_empty()).then(|| overlay(&garment.code)).transpose()?;
    let secrets = match garment.secrets.is_empty() {
        true => [None, None],
        false => [Some(garment.secrets.mount(garment.user)?), Some(garment.secrets.mount(garment.user)?)],
    };
    if let Some(hostname) = &garment.hostname {
        setns(names, CloneFlags::CLONE_NEWUTS)?;
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    let secrets = secrets.into_iter().zip(secret_files::FOLDERS);
    for (mount, place) in std::iter::once((code, CODE)).chain(secrets) {
        if let Some(mount) = mount {
            umount2(place, MntFlags::MNT_DETACH)?;
            move_mount(&mount, "", rustix::fs::CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
    }
    Ok(())
}

/// A read-only overlay that is nowhere yet.
fn overlay(folders: &[PathBuf]) -> io::Result<OwnedFd> {
    // The kernel takes at most 255 bytes here, which a few whole paths exceed.
    let parent = common_parent(folders);
    std::env::set_current_dir(&parent)?;
    let short: Option<Vec<&str>> =
        folders.iter().map(|folder| folder.strip_prefix(&parent).ok()?.to_str()).collect();
    let short = short.filter(|paths| !paths.iter().any(|path| path.contains([':', '\\', ','])));
    let lower = short.ok_or_else(|| io::Error::other("a layer's path cannot be part of an overlay's"))?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "function")?;
    fsconfig_set_string(&context, "lowerdir", lower.join(":"))?;
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

fn common_parent(folders: &[PathBuf]) -> PathBuf {
    let first = folders.first().and_then(|folder| folder.parent()).unwrap_or(Path::new("/"));
    let holds_all = |parent: &&Path| folders.iter().all(|folder| folder.starts_with(parent));
    first.ancestors().find(holds_all).unwrap_or(Path::new("/")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shortened_by_what_they_share() {
        let folders = ["/c/snapshots/12/fs/function", "/c/snapshots/3/fs/function"].map(PathBuf::from);
        assert_eq!(common_parent(&folders), Path::new("/c/snapshots"));
        assert_eq!(common_parent(&["/a/b".into(), "/c".into()]), Path::new("/"));
    }
}
