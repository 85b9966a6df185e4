//! A folder on disk as a layer, with its modes and links: how a base's layers are made.
//!
//! The same tree gives the same bytes: entries sorted, times and owners fixed, hard links written as files of their own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::writer::{LayerWriter, Level, Written};
use super::{ImageError, writer};

/// Writes everything below `root` (not `root` itself) to `out` as a gzipped tar whose paths begin with `prefix`, which
/// is empty or a relative path; its folders are not written.
///
/// Symbolic links are written as they are and never followed. Set-user-ID, set-group-ID and sticky bits are dropped,
/// except for the sticky bit of a folder that everybody may write to (`/tmp`). Sockets, devices, FIFOs and names that are
/// not UTF-8 are refused. `mtime` is in seconds since 1970.
pub fn write_tree<W: Write>(
    root: &Path,
    prefix: &str,
    level: Level,
    mtime: u64,
    out: W,
) -> Result<(Written, W), ImageError> {
    let mut layer = LayerWriter::new(out, level, mtime);
    append(&mut layer, root, prefix)?;
    layer.finish().map_err(writer::failed)
}

fn append<W: Write>(layer: &mut LayerWriter<W>, folder: &Path, prefix: &str) -> Result<(), ImageError> {
    let list =
        || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>();
    let mut names = list().map_err(ImageError::io("list", folder))?;
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let unpackable = |reason| ImageError::Unpackable { path: path.clone(), reason };
        let name = name.to_str().ok_or_else(|| unpackable("its name is not UTF-8"))?;
        let inside = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
        let meta = fs::symlink_metadata(&path).map_err(ImageError::io("read", &path))?;
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            let sticky = if mode & 0o002 != 0 { mode & 0o1000 } else { 0 };
            layer.folder(&inside, mode & 0o777 | sticky).map_err(ImageError::io("pack", &path))?;
            append(layer, &path, &inside)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(ImageError::io("read", &path))?;
            let target = target.to_str().ok_or_else(|| unpackable("its target is not UTF-8"))?;
            layer.link(&inside, target).map_err(ImageError::io("pack", &path))?;
        } else if meta.is_file() {
            let mut file = File::open(&path).map_err(ImageError::io("open", &path))?;
            layer
                .file(&inside, mode & 0o777, meta.len(), &mut file)
                .map_err(ImageError::io("pack", &path))?;
        } else {
            return Err(unpackable("it is neither a file, nor a folder, nor a symbolic link"));
        }
    }
    Ok(())
}
