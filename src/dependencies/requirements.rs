//! `requirements.txt`: from lines to requirements. The file comes from strangers; see [`Requirement`] for what is taken.

use std::collections::BTreeSet;

use super::error::{DependencyError, Refusal};
use super::requirement::Requirement;
use crate::oci::Digest;

/// More than this is no list that a person keeps.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// A line is shown in a message up to here.
const SHOWN: usize = 80;

/// What a function asks for, in canonical form: order, comments and spaces do not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Requirements {
    entries: BTreeSet<Requirement>,
    /// pip's `--no-deps`: what is listed and nothing that it depends on.
    pub no_deps: bool,
}

impl Requirements {
    /// Reads the bytes of a file that messages call `name`.
    ///
    /// A line that ends in a backslash goes on in the next one, as hashes are usually written; the joined line is then
    /// judged as one, and a message names the line on which the piece that is refused begins.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, DependencyError> {
        let refused = |line: usize, text: &str, reason| DependencyError::Refused {
            file: name.into(),
            line,
            text: text.trim().chars().take(SHOWN).collect(),
            reason,
        };
        if bytes.len() > MAX_BYTES {
            return Err(refused(1, "", Refusal::TooLong));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut entries = BTreeSet::new();
        let mut logical = Logical::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            let text = String::from_utf8_lossy(line);
            let text = text.strip_suffix('\r').unwrap_or(&text);
            let Some(text) = without_comment(text) else {
                return Err(refused(number, text, Refusal::Characters));
            };
            let (text, goes_on) = match text.strip_suffix('\\') {
                Some(text) => (text, true),
                None => (text, false),
            };
            logical.add(number, text).map_err(|reason| refused(number, text, reason))?;
            if goes_on {
                continue;
            }
            let done = std::mem::take(&mut logical);
            if !done.text.trim().is_empty() {
                let read = Requirement::parse(done.text.trim());
                entries.insert(read.map_err(|reason| refused(done.first, &done.text, reason))?);
            }
        }
        if logical.first != 0 {
            return Err(refused(logical.first, &logical.text, Refusal::Continuation));
        }
        Ok(Self { entries, no_deps: false })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Requirement> {
        self.entries.iter()
    }

    /// As uv is to read it.
    pub(super) fn render(&self) -> String {
        self.entries.iter().map(|entry| entry.render() + "\n").collect()
    }

    /// Names what is asked for; a lock keeps it to know whether it still fits.
    pub fn digest(&self) -> Digest {
        let mut text = String::from(if self.no_deps { "no-deps\n" } else { "" });
        for entry in &self.entries {
            text.push_str(&entry.render());
            for hash in &entry.hashes {
                text.push(' ');
                text.push_str(hash);
            }
            text.push('\n');
        }
        Digest::of(text)
    }
}

/// Several lines that backslashes join.
#[derive(Default)]
struct Logical {
    /// The number of the first line; 0 while there is none.
    first: usize,
    text: String,
}

impl Logical {
    /// What follows a backslash may only be a hash: nothing else is written so, and an option must not hide there.
    fn add(&mut self, number: usize, text: &str) -> Result<(), Refusal> {
        if self.first == 0 {
            self.first = number;
            self.text = text.to_string();
            return Ok(());
        }
        if !text.trim().is_empty() && !text.trim_start().starts_with("--hash=") {
            return Err(Refusal::Continuation);
        }
        self.text.push(' ');
        self.text.push_str(text.trim());
        Ok(())
    }
}

/// pip's rule: a `#` at the start or after a space begins a comment. `None` if the rest is not plain ASCII.
fn without_comment(line: &str) -> Option<&str> {
    let mut end = line.len();
    for (at, _) in line.match_indices('#') {
        if at == 0 || line[..at].ends_with([' ', '\t']) {
            end = at;
            break;
        }
    }
    let text = line[..end].trim_end();
    text.chars().all(|c| c == '\t' || c == ' ' || c.is_ascii_graphic()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Requirements, (usize, Refusal)> {
        Requirements::parse("requirements.txt", text.as_bytes()).map_err(|error| match error {
            DependencyError::Refused { line, reason, .. } => (line, reason),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn comments_spaces_and_order_do_not_matter() {
        let one = parse("# mine\nnumpy>=2  # fast\r\n\n  six\n").unwrap();
        let other = parse("\u{feff}Six\nnumpy >= 2").unwrap();
        assert_eq!((one.render(), one.digest()), ("numpy>=2\nsix\n".into(), other.digest()));
        assert!(parse("# nothing\n\n").unwrap().is_empty());
        let mut alone = one.clone();
        alone.no_deps = true;
        assert_ne!(alone.digest(), one.digest());
    }

    #[test]
    fn hashes_may_stand_on_lines_of_their_own() {
        let hash = "a".repeat(64);
        let text = format!("six==1.17.0 \\\n    --hash=sha256:{hash} \\\n    --hash=sha256:{hash}\nnumpy\n");
        let read = parse(&text).unwrap();
        assert_eq!(read.render(), "numpy\nsix==1.17.0\n");
        assert_ne!(read.digest(), parse("six==1.17.0\nnumpy").unwrap().digest());
    }

    #[test]
    fn a_refusal_names_its_line() {
        for (text, line, reason) in [
            ("six\n-i https://example.org", 2, Refusal::Option),
            ("six\n\n\n  --find-links x", 4, Refusal::Option),
            ("six \\\n  -r other.txt", 2, Refusal::Continuation),
            ("six \\\n  @ https://example.org/six.whl", 2, Refusal::Continuation),
            ("-\\\nr other.txt", 2, Refusal::Continuation),
            ("six\nnumpy \\", 2, Refusal::Continuation),
            ("six\nnu\u{200b}mpy", 2, Refusal::Characters),
            ("six\u{7}", 1, Refusal::Characters),
            ("six\r-r other.txt", 1, Refusal::Characters),
            ("six#egg", 1, Refusal::Unreadable),
        ] {
            assert_eq!(parse(text), Err((line, reason)), "{text:?}");
        }
        assert_eq!(parse(&"a\n".repeat(MAX_BYTES)), Err((1, Refusal::TooLong)));
    }
}
