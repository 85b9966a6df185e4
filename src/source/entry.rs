//! The entry point: its module is there, parses, and defines the function, before anything is built from it.

use std::io::Read;

use super::error::Place;
use super::python::{self, Binding, Version};
use super::tree::{self, Content, Entry, Kind};
use super::{Form, Source, SourceError};
use crate::function::{EntryPoint, Parameter};

/// A module that is larger than this is taken as it is.
const MAX_MODULE: u64 = 1 << 20;

/// The files that the entry point's module may be: `a/b.py` or `a/b/__init__.py`. Python prefers the latter.
pub(super) fn files(entry: &EntryPoint) -> [String; 2] {
    let path = entry.module.replace('.', "/");
    [format!("{path}/__init__.py"), format!("{path}.py")]
}

/// Refuses a source whose entry point is not there. Gives what the function takes, where its module shows that.
pub(super) fn check(
    source: &Source,
    version: Option<Version>,
) -> Result<Option<Vec<Parameter>>, SourceError> {
    let files = files(&source.entry);
    let Some(entry) = files.iter().find_map(|file| tree::find(&source.entries, file)) else {
        let [_, file] = files;
        let place = match source.form {
            Form::File => Place::Itself,
            Form::Zip => Place::Zip,
            Form::Folder => Place::Folder,
        };
        return Err(SourceError::NoModule { file, path: None, place });
    };
    let Kind::File { size, .. } = entry.kind else {
        return Err(SourceError::entry(
            entry.path.as_bytes(),
            "is the entry point's module and not a plain file",
        ));
    };
    if size > MAX_MODULE {
        return Ok(None);
    }
    let broken = |error| SourceError::Syntax { file: entry.path.to_string(), error };
    let bytes = read(source, entry, size)?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return python::not_utf8(&bytes).map(|()| None).map_err(broken);
    };
    match python::read(text, &source.entry.function, version).map_err(broken)? {
        Binding::Function(parameters) => Ok(Some(parameters)),
        Binding::Something => Ok(None),
        Binding::Nothing => Err(SourceError::NoFunction {
            file: entry.path.to_string(),
            function: source.entry.function.clone(),
        }),
    }
}

fn read(source: &Source, entry: &Entry, size: u64) -> Result<Vec<u8>, SourceError> {
    let mut text = Vec::new();
    let result = match &entry.kind {
        Kind::File { content: Content::Deflated { at, .. }, .. } => {
            flate2::read::DeflateDecoder::new(&*source.slice(at)).take(size).read_to_end(&mut text)
        }
        _ => source.read_plain(entry).and_then(|content| content.take(size).read_to_end(&mut text)),
    };
    match result {
        Ok(read) if read as u64 == size => Ok(text),
        _ => Err(SourceError::entry(entry.path.as_bytes(), "is damaged: it cannot be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn check(text: &str) -> Result<Source, SourceError> {
        Source::from_module("func", text.as_bytes().to_vec().into(), &Options::default())
    }

    #[test]
    fn what_the_function_takes_is_known() {
        let source = check("def run(x, y=1): pass").unwrap();
        assert_eq!(crate::function::signature(source.parameters().unwrap()), "x, y=1");
        assert!(check("from handlers import *").unwrap().parameters().is_none());
    }

    #[test]
    fn a_module_that_does_not_parse_is_refused() {
        let error = check("def run(x)\n    return x\n").unwrap_err().to_string();
        assert!(error.starts_with("func.py:1:11: "), "{error}");
        // Nested as deep as a module can be that is read at all.
        let deep = "[".repeat(MAX_MODULE as usize - 10);
        assert!(check(&deep).unwrap_err().to_string().starts_with("func.py: more than 200 brackets"));
    }

    #[test]
    fn a_module_without_run_is_refused() {
        for text in ["", "def main(): pass", "import run_it", "def rerun(): pass"] {
            assert_eq!(check(text).unwrap_err().to_string(), "func.py defines no run", "{text}");
        }
    }

    #[test]
    fn what_says_that_it_is_not_utf8_is_left_to_python() {
        let latin = b"# -*- coding: latin-1 -*-\nx = '\xe9'\n";
        let open = |bytes: &[u8]| Source::from_module("func", bytes.to_vec().into(), &Options::default());
        open(latin).unwrap();
        let error = open(&latin[26..]).unwrap_err().to_string();
        assert!(error.starts_with("func.py:1:6: text that is not UTF-8"), "{error}");
    }

    #[test]
    fn a_file_is_its_own_module() {
        let options = Options { entry: Some("other:run".parse().unwrap()), ..Options::default() };
        let error = Source::from_module("func", "def run(): pass".into(), &options).unwrap_err();
        assert!(error.to_string().starts_with("there is no other.py"), "{error}");
        assert!(Source::from_module("my-func", "def run(): pass".into(), &Options::default()).is_err());
    }
}
