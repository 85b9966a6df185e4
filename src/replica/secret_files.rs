//! The secrets that a function names, as files in `/run/secrets`, and in `/var/openfaas/secrets` for OpenFaaS's images:
//! in memory, for its replica's user alone.
//!
//! They are never written to a disk, nor put into an environment, a command line or what containerd records. The file
//! system is made outside of every mount namespace and moved into the container's own, so that it ends with that.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use super::Error;
use super::start::Starter;
use crate::function::Settings;
use crate::secrets::{SecretError, SecretName, SecretValue};

/// Where a function finds them. Every container has the folders, so that they say nothing.
pub(super) const FOLDERS: [&str; 2] = ["/run/secrets", "/var/openfaas/secrets"];

/// What a replica is given, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct SecretFiles(Vec<(SecretName, SecretValue)>);

impl Starter {
    /// The values of today: a replica keeps those that it was started with.
    pub async fn secrets(&self, settings: &Settings) -> Result<SecretFiles, Error> {
        let mut files = Vec::new();
        for name in &settings.secrets {
            let name: SecretName = name.parse()?;
            let value = match &self.secrets {
                Some(secrets) => secrets.open(&name).await?,
                None => return Err(SecretError::NotFound { name }.into()),
            };
            files.push((name, value));
        }
        Ok(SecretFiles(files))
    }
}

impl SecretFiles {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A file system in memory that holds them, read-only and mounted nowhere yet.
    pub fn mount(&self, user: u32) -> io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "secrets")?;
        fsconfig_set_string(&context, "mode", "0555")?;
        // Linux 6.4 and later; before, a machine that swaps may swap them.
        let _ = fsconfig_set_flag(&context, "noswap");
        fsconfig_create(&context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let folder = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
        for (name, value) in &self.0 {
            let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = File::from(openat(&folder, name.as_str(), new, Mode::RUSR)?);
            file.write_all(value.bytes())?;
            fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))?;
        }
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_reconfigure(&context)?;
        Ok(folder)
    }
}
