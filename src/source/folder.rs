//! A folder as a source: walked once, by the rules of its `.fnignore` (gitignore's).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::tree::{self, Content, Entry, Kind};
use super::{Form, Options, Source, SourceError, Store, entry, names};
use crate::oci::{Digest, Hasher};

const RULES: &str = ".fnignore";

pub(super) fn open(root: &Path, options: &Options) -> Result<Source, SourceError> {
    let mut walk = Walk { root, rules: rules(root)?, options, entries: Vec::new(), size: 0 };
    walk.folder("")?;
    let mut entries = tree::settle(walk.entries, &options.bounds)?;
    let entry = options.entry.clone().unwrap_or_default();
    let top = tree::strip_top(&mut entries, &entry::files(&entry));
    tree::check(&entries)?;
    let store = Store::Folder(top.map_or_else(|| root.into(), |top| root.join(&*top)));
    Source::of(Form::Folder, entry, entries, store, options)
}

fn rules(root: &Path) -> Result<Gitignore, SourceError> {
    let path = root.join(RULES);
    let mut rules = GitignoreBuilder::new(root);
    let ignore = |source| SourceError::Ignore { path: path.clone(), source };
    if path.exists() {
        rules.add(&path).map_or(Ok(()), |e| Err(ignore(e)))?;
    }
    rules.build().map_err(ignore)
}

struct Walk<'a> {
    root: &'a Path,
    rules: Gitignore,
    options: &'a Options,
    entries: Vec<Entry>,
    size: u64,
}

impl Walk<'_> {
    /// Adds what is in the folder at `inside`, which is relative to the root.
    fn folder(&mut self, inside: &str) -> Result<(), SourceError> {
        let path = self.root.join(inside);
        for found in std::fs::read_dir(&path).map_err(SourceError::io("list", &path))? {
            let found = found.map_err(SourceError::io("list", &path))?;
            let kind = found.file_type().map_err(SourceError::io("read", found.path()))?;
            let name = found.file_name();
            let slash = if inside.is_empty() { "" } else { "/" };
            let raw = [inside.as_bytes(), slash.as_bytes(), name.as_encoded_bytes()].concat();
            let ignored = self.rules.matched(found.path(), kind.is_dir()).is_ignore();
            if ignored || inside.is_empty() && name == RULES {
                continue;
            }
            let Some(path) = names::clean(&raw)? else { continue };
            if names::is_litter(&path) {
                continue;
            }
            // A tree without a bottom is stopped here, not when all of it is in memory.
            if self.entries.len() >= self.options.bounds.entries {
                return Err(SourceError::TooMany { limit: self.options.bounds.entries });
            }
            if kind.is_dir() {
                self.entries.push(Entry { path: path.clone(), kind: Kind::Folder });
                self.folder(&path)?;
            } else if kind.is_symlink() {
                let target =
                    std::fs::read_link(found.path()).map_err(SourceError::io("read", found.path()))?;
                let unreadable =
                    || SourceError::entry(&raw, "is a symbolic link to a name that is not UTF-8");
                let target = target.to_str().ok_or_else(unreadable)?.into();
                self.entries.push(Entry { path, kind: Kind::Link { target } });
            } else if kind.is_file() {
                let meta = found.metadata().map_err(SourceError::io("read", found.path()))?;
                self.take(meta.len())?;
                let executable = meta.permissions().mode() & 0o111 != 0;
                let kind = Kind::File { executable, size: meta.len(), content: Content::OnDisk };
                self.entries.push(Entry { path, kind });
            } else {
                return Err(SourceError::entry(&raw, "is a device, a FIFO or a socket"));
            }
        }
        Ok(())
    }

    fn take(&mut self, size: u64) -> Result<(), SourceError> {
        let limit = self.options.bounds.unpacked;
        self.size = self.size.saturating_add(size);
        if self.size > limit {
            return Err(SourceError::TooLarge {
                what: "the folder",
                size: self.size,
                limit,
                flag: "--max-unpacked",
            });
        }
        Ok(())
    }
}

/// What tells one folder from another: of each entry its kind, path, and target or mode, size and content, each
/// length before its bytes so that no two trees look alike.
pub(super) fn digest(root: &Path, entries: &[Entry]) -> Result<Digest, SourceError> {
    let mut hasher = Hasher::sha256();
    hasher.update(b"fnbuild folder 1\n");
    for entry in entries {
        let (kind, text) = match &entry.kind {
            Kind::Folder => (b'd', ""),
            Kind::Link { target } => (b'l', &**target),
            Kind::File { executable: false, .. } => (b'f', ""),
            Kind::File { executable: true, .. } => (b'x', ""),
        };
        hasher.update(&[kind]);
        for field in [&*entry.path, text] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        if let Kind::File { size, .. } = entry.kind {
            let path = root.join(&*entry.path);
            hasher.update(&size.to_le_bytes());
            let copied = File::open(&path).and_then(|file| io::copy(&mut file.take(size), &mut hasher));
            if copied.map_err(SourceError::io("read", &path))? != size {
                let source = io::Error::other("the file shrank while it was read");
                return Err(SourceError::Io { step: "read", path, source });
            }
        }
    }
    Ok(hasher.finish())
}
