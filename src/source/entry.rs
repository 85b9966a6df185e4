//! The entry point: the module is there and names the function, before anything is built from it.

use std::io::Read;

use super::tree::{self, Content, Entry, Kind};
use super::{Form, Source, SourceError};
use crate::function::EntryPoint;

/// A module that is larger than this is taken as it is.
const MAX_MODULE: u64 = 1 << 20;

/// The files that the entry point's module may be: `a/b.py` or `a/b/__init__.py`. Python prefers the latter.
pub(super) fn files(entry: &EntryPoint) -> [String; 2] {
    let path = entry.module.replace('.', "/");
    [format!("{path}/__init__.py"), format!("{path}.py")]
}

/// Refuses a source whose entry point is not there.
pub(super) fn check(source: &Source) -> Result<(), SourceError> {
    let files = files(&source.entry);
    let Some(entry) = files.iter().find_map(|file| tree::find(&source.entries, file)) else {
        let [_, file] = files;
        let place = match source.form {
            Form::File => "in it: a single file has no other module than itself",
            Form::Zip => "at the top of the zip or in its single top folder",
            Form::Folder => "at the top of the folder or in its single top folder",
        };
        return Err(SourceError::NoModule { file, place });
    };
    let Kind::File { size, .. } = entry.kind else {
        return Err(SourceError::entry(
            entry.path.as_bytes(),
            "is the entry point's module and not a plain file",
        ));
    };
    if size > MAX_MODULE {
        return Ok(());
    }
    // Text in another encoding is Python's to read: its first line may name one.
    let Ok(text) = String::from_utf8(read(source, entry, size)?) else { return Ok(()) };
    if may_define(&text, &source.entry.function) {
        Ok(())
    } else {
        Err(SourceError::NoFunction { file: entry.path.to_string(), function: source.entry.function.clone() })
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

/// Whether the module may bind the name: it has the word somewhere, or imports what it does not name. A module that
/// binds it in a roundabout way must not be refused, so this errs on the side of the module.
fn may_define(text: &str, name: &str) -> bool {
    let mut words = text.split(|c: char| c != '_' && !c.is_alphanumeric());
    words.any(|word| word == name) || text.lines().any(|line| line.trim_end().ends_with("import *"))
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn check(text: &str) -> Result<Source, SourceError> {
        Source::from_module("func", text.as_bytes().to_vec().into(), &Options::default())
    }

    #[test]
    fn every_way_to_bind_run_is_taken() {
        for text in [
            "def run(): pass",
            "async def run(x, *args, y=1, **kwargs): return await x",
            "@wraps\n@twice(3)\ndef run(x): ...",
            "from handlers import main as run",
            "from handlers import *",
            "run = lambda: 1",
            "a, run = 1, print",
            "run: object = print",
            "class run: pass",
            "try:\n  from a import run\nexcept ImportError:\n  pass",
            "if True:\n  pass\nelse:\n  def run(): pass",
            "globals()['run'] = print",
        ] {
            check(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }

    #[test]
    fn a_module_without_run_is_refused() {
        for text in ["", "def main(): pass", "import run_it", "def rerun(): pass"] {
            assert_eq!(check(text).unwrap_err().to_string(), "func.py defines no run", "{text}");
        }
    }

    #[test]
    fn what_is_not_utf8_is_left_to_python() {
        let latin = b"# -*- coding: latin-1 -*-\nx = '\xe9'\n".to_vec();
        Source::from_module("func", latin.into(), &Options::default()).unwrap();
    }

    #[test]
    fn a_file_is_its_own_module() {
        let options = Options { entry: Some("other:run".parse().unwrap()), ..Options::default() };
        let error = Source::from_module("func", "def run(): pass".into(), &options).unwrap_err();
        assert!(error.to_string().starts_with("there is no other.py"), "{error}");
        assert!(Source::from_module("my-func", "def run(): pass".into(), &Options::default()).is_err());
    }
}
