//! Where a module does not parse, shown as compilers do: place, reason, the line, a caret.

use std::fmt;

/// The most of a line that is shown on each side of the caret.
const SIDE: usize = 60;

/// Why a module does not parse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError {
    pub reason: String,
    /// `None` where the whole module is the reason.
    pub place: Option<Place>,
}

/// A place in a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// From 1 up.
    pub line: usize,
    /// From 1 up, in characters.
    pub column: usize,
    /// The line, or the part of it around the column; no control characters are in it.
    excerpt: String,
    /// How many characters of the excerpt are before the column.
    caret: usize,
}

impl SyntaxError {
    pub(super) fn somewhere(reason: &str) -> Self {
        Self { reason: reason.into(), place: None }
    }

    /// `offset` is in bytes.
    pub(super) fn at(text: &str, offset: usize, reason: &str) -> Self {
        // What is missing at the end is missing after the last word.
        let offset = offset.min(text.trim_end().len());
        let offset = (0..=offset).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let (before, after) = text.split_at(offset);
        // Python's line ends: \n, \r\n and \r.
        let ends = |text: &str| {
            text.matches('\n').count() + text.matches('\r').count() - text.matches("\r\n").count()
        };
        let start = before.rfind(['\n', '\r']).map_or(0, |end| end + 1);
        let before_it = &text[start..offset];
        let after_it = after.split(['\n', '\r']).next().unwrap_or_default();
        let column = before_it.chars().count();
        let left: String = before_it.chars().skip(column.saturating_sub(SIDE)).map(shown).collect();
        let right = after_it.chars().take(SIDE).map(shown);
        // What every line of a block has in common says nothing.
        let trimmed = left.trim_start();
        let caret = trimmed.chars().count();
        let excerpt = trimmed.chars().chain(right).collect::<String>().trim_end().into();
        let place = Place { line: ends(before) + 1, column: column + 1, excerpt, caret };
        Self { reason: spelled(&lowered(reason)), place: Some(place) }
    }
}

/// One column for each character, whatever it would do to a terminal.
fn shown(c: char) -> char {
    if c == '\t' {
        ' '
    } else if c.is_control()
        || crate::source::escaped(c.encode_utf8(&mut [0; 4]).as_bytes()).len() > c.len_utf8() + 1
    {
        '?'
    } else {
        c
    }
}

/// The parser names a token that nobody expected as it is, which may be anything.
fn spelled(reason: &str) -> String {
    let harmful = |c: char| c != '?' && shown(c) == '?';
    let spelled = reason.chars().map(|c| if harmful(c) { c.escape_default().to_string() } else { c.into() });
    spelled.collect()
}

/// Errors are fragments of a sentence here.
fn lowered(reason: &str) -> String {
    let mut chars = reason.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain([second]).chain(chars).collect()
        }
        _ => reason.into(),
    }
}

/// What follows the file's name: `:3:9: reason`, then the line and the caret on lines of their own.
impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return write!(f, ": {}", self.reason) };
        write!(f, ":{}:{}: {}", place.line, place.column, self.reason)?;
        write!(f, "\n    {}\n    {:caret$}^", place.excerpt, "", caret = place.caret)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    fn refusal(text: &str) -> String {
        read(text, "run", Some((3, 11))).unwrap_err().to_string()
    }

    #[test]
    fn the_caret_is_under_the_column() {
        for (text, said) in [
            (
                "def run(x)\n    return x\n",
                ":1:11: expected `:`, found newline\n    def run(x)\n              ^",
            ),
            (
                "def run():\n    if True:\n        x = (1,\n",
                ":3:16: unexpected EOF while parsing\n    x = (1,\n           ^",
            ),
            (
                "x = 1\r\ny = 'é\u{202e}' +\tclass\r\n",
                ":2:12: expected an identifier, but found a keyword `class` that cannot be used here\n    \
                 y = 'é?' + class\n               ^",
            ),
            ("\u{1b}[31m = 1\n", ":1:1: got unexpected token \\u{1b}\n    ?[31m = 1\n    ^"),
            ("\u{feff}x = = 1\n", ":1:5: expected an expression\n    x = = 1\n        ^"),
        ] {
            assert_eq!(refusal(text), said);
        }
        let long = refusal(&format!("x = [{}{}", "1, ".repeat(100), "2 3 4]\n"));
        let lines: Vec<&str> = long.lines().collect();
        assert_eq!(lines[0], ":1:308: expected `,`, found int");
        assert!(lines[1].len() < 140 && lines[1][lines[2].len() - 1..].starts_with("3 4]"), "{long}");
    }

    #[test]
    fn newer_syntax_is_named_with_its_version() {
        let added = "on Python 3.11 (syntax was added in Python 3.12)";
        for (text, said) in [
            ("type X = int\ndef run(): pass\n", ":1:1: cannot use `type` alias statement"),
            (
                "def run(a):\n    return f\"{a[\"x\"]}\"\n",
                ":2:17: cannot reuse outer quote character in f-strings",
            ),
            ("def run[T](a: T): pass\n", ":1:8: cannot use type parameter lists"),
        ] {
            let refusal = refusal(text);
            assert_eq!(refusal.lines().next(), Some(format!("{said} {added}").as_str()));
        }
        assert!(read("type X = int\ndef run(): pass\n", "run", Some((3, 12))).is_ok());
        assert!(read("def run():\n    match 1:\n        case _: return 1\n", "run", Some((3, 11))).is_ok());
    }

    #[test]
    fn a_place_beyond_the_end_is_the_end() {
        let error = SyntaxError::at("é", 99, "Reason");
        assert_eq!(error.to_string(), ":1:2: reason\n    é\n     ^");
        assert_eq!(SyntaxError::at("", 0, "EOF").to_string(), ":1:1: EOF\n    \n    ^");
    }
}
