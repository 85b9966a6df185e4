//! The entry point's module, read as Python: that it parses, what it defines, and what the function takes.
//!
//! The text comes from strangers. Its nesting is bounded before it is parsed ([`nesting`]), so that neither the parser
//! nor the tree that it makes can be deeper than a thread's stack holds.

mod bindings;
mod nesting;
mod report;

use ruff_python_ast::PythonVersion;
use ruff_python_parser::{Mode, ParseOptions, parse_unchecked};
use ruff_text_size::{Ranged, TextRange};

pub(super) use bindings::Binding;
pub use report::SyntaxError;

/// A version of Python, major and minor: what it does not know yet is an error.
pub type Version = (u8, u8);

/// Reads a module and finds what it binds `function` to.
///
/// `version` is the Python that will run it; without one everything is taken that some Python knows.
pub(super) fn read(
    text: &str,
    function: &str,
    version: Option<Version>,
) -> Result<Binding, Box<SyntaxError>> {
    // A byte order mark is no part of the first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    nesting::check(text)?;
    let version = version.map_or_else(PythonVersion::latest, |(major, minor)| PythonVersion { major, minor });
    let options = ParseOptions::from(Mode::Module).with_target_version(version);
    let parsed = parse_unchecked(text, options);
    let first = |a: &TextRange, b: &TextRange| a.start().cmp(&b.start());
    let broken = parsed.errors().iter().map(|error| (error.location, error.error.to_string()));
    let unknown = parsed.unsupported_syntax_errors().iter().map(|error| (error.range(), error.to_string()));
    // What is broken may make what follows look like the syntax of another version.
    if let Some((at, reason)) =
        broken.min_by(|a, b| first(&a.0, &b.0)).or_else(|| unknown.min_by(|a, b| first(&a.0, &b.0)))
    {
        return Err(Box::new(SyntaxError::at(text, at.start().to_usize(), &reason)));
    }
    let tokens = parsed.tokens();
    let Some(module) = parsed.syntax().as_module() else { return Ok(Binding::Nothing) };
    Ok(bindings::of(module, tokens, text, function))
}

/// Text that is not UTF-8 must say what it is: PEP 263. One that does is Python's own to read.
pub(super) fn not_utf8(bytes: &[u8]) -> Result<(), Box<SyntaxError>> {
    let declares = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let comment = line.trim_start_matches([' ', '\t', '\x0c']).starts_with('#');
        comment && ["coding:", "coding="].iter().any(|word| line.contains(word))
    };
    if bytes.split(|byte| *byte == b'\n').take(2).any(declares) {
        return Ok(());
    }
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let reason = "text that is not UTF-8, and no encoding is declared";
    Err(Box::new(SyntaxError::at(&String::from_utf8_lossy(bytes), valid.len(), reason)))
}
