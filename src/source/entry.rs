//! The entry point: the module is there and defines the function, before anything is built from it.

use super::tree::{self, Kind};
use super::{Form, Source, SourceError};
use crate::function::EntryPoint;

/// The files that the entry point's module may be: `a/b.py` or `a/b/__init__.py`. Python prefers the latter.
pub(super) fn files(entry: &EntryPoint) -> [String; 2] {
    let path = entry.module.replace('.', "/");
    [format!("{path}/__init__.py"), format!("{path}.py")]
}

/// Refuses a source whose entry point is not there.
pub(super) fn check(source: &Source) -> Result<(), SourceError> {
    let place = match source.form {
        Form::File => "in it: a single file can only name itself",
        Form::Zip => "at the top of the zip or in its single top folder",
        Form::Folder => "at the top of the folder or in its single top folder",
    };
    let files = files(&source.entry);
    let Some(entry) = files.iter().find_map(|file| tree::find(&source.entries, file)) else {
        let [_, file] = files;
        return Err(SourceError::NoModule { file, place });
    };
    let Kind::File { .. } = entry.kind else {
        return Err(SourceError::entry(
            entry.path.as_bytes(),
            "is the entry point's module and not a plain file",
        ));
    };
    Ok(())
}
