//! One requirement: the part of PEP 508 that names a package, its versions, extras, markers and hashes.
//!
//! What is not understood here is refused, never passed on: uv is given our own rendering, not the text that a stranger
//! wrote. Whether versions and markers can be met is uv's to say; which bytes may reach it is decided here.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::error::Refusal;

/// A package that is asked for, in canonical form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Requirement {
    /// PEP 503: lower case, runs of `-`, `_` and `.` as one `-`.
    pub(super) name: String,
    extras: BTreeSet<String>,
    /// `>=1.0`, sorted.
    versions: BTreeSet<String>,
    /// With one space between its tokens.
    marker: Option<String>,
    /// SHA-256 in lower-case hex. Empty: any file of the package will do.
    pub(super) hashes: BTreeSet<String>,
}

impl Requirement {
    /// Reads one logical line that has no comment, no line break and is not empty.
    pub(super) fn parse(line: &str) -> Result<Self, Refusal> {
        refuse_what_is_no_name(line)?;
        let (line, hashes) = split_hashes(line)?;
        let (line, marker) = match line.split_once(';') {
            Some((line, marker)) => (line, Some(marker::canonical(marker)?)),
            None => (line, None),
        };
        let line = line.trim();
        let end = line.find(|c: char| !is_name_char(c)).unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let name = normalised(name).ok_or(Refusal::Unreadable)?;
        if [".whl", ".zip", ".tar.gz", ".tgz", ".egg"].iter().any(|suffix| line[..end].ends_with(suffix)) {
            return Err(Refusal::Path);
        }
        let (rest, extras) = split_extras(rest.trim_start())?;
        Ok(Self { name, extras, versions: versions(rest)?, marker, hashes })
    }

    /// As uv is to read it: everything but the hashes, which are held against its answer.
    pub(super) fn render(&self) -> String {
        let mut text = self.name.clone();
        if !self.extras.is_empty() {
            let _ = write!(text, "[{}]", join(&self.extras));
        }
        text.push_str(&join(&self.versions));
        if let Some(marker) = &self.marker {
            let _ = write!(text, " ; {marker}");
        }
        text
    }
}

fn join(set: &BTreeSet<String>) -> String {
    set.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Things that pip takes and that reach for something else than a package's name; each has its own message.
fn refuse_what_is_no_name(line: &str) -> Result<(), Refusal> {
    let vcs = ["git+", "hg+", "svn+", "bzr+"];
    if line.starts_with('-') {
        return Err(Refusal::Option);
    }
    if line.contains("${") || line.starts_with('$') {
        return Err(Refusal::Variable);
    }
    if vcs.iter().any(|scheme| line.contains(scheme)) {
        return Err(Refusal::Vcs);
    }
    let before_marker = line.split([';', '#']).next().unwrap_or(line);
    if line.contains("://") || before_marker.contains('@') || before_marker.starts_with("file:") {
        return Err(Refusal::Url);
    }
    if line.starts_with(['.', '/', '~']) || before_marker.contains(['/', '\\']) {
        return Err(Refusal::Path);
    }
    Ok(())
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The name in PEP 503's form; `None` if it is none by PEP 508.
pub(super) fn normalised(name: &str) -> Option<String> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let valid = edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(is_name_char);
    if !valid || name.len() > 128 {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    Some(out)
}

/// `… --hash=sha256:HEX --hash=…` → what stands before, and the hashes.
fn split_hashes(line: &str) -> Result<(&str, BTreeSet<String>), Refusal> {
    let Some(start) = line.find(" --").or_else(|| line.find("\t--")) else {
        return Ok((line, BTreeSet::new()));
    };
    let (line, options) = line.split_at(start);
    let mut hashes = BTreeSet::new();
    for option in options.split_whitespace() {
        let hash = option.strip_prefix("--hash=").ok_or(Refusal::Option)?;
        hashes.insert(sha256(hash).ok_or(Refusal::Hash)?);
    }
    Ok((line, hashes))
}

/// `sha256:HEX` → the hex digits, in lower case.
pub(super) fn sha256(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:")?;
    (hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| hex.to_ascii_lowercase())
}

fn split_extras(rest: &str) -> Result<(&str, BTreeSet<String>), Refusal> {
    let Some(list) = rest.strip_prefix('[') else { return Ok((rest, BTreeSet::new())) };
    let (list, rest) = list.split_once(']').ok_or(Refusal::Unreadable)?;
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let extras = names.map(|name| normalised(name).ok_or(Refusal::Unreadable)).collect::<Result<_, _>>()?;
    Ok((rest, extras))
}

fn versions(text: &str) -> Result<BTreeSet<String>, Refusal> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(BTreeSet::new());
    }
    // `name (>=1)` is PEP 508's older way to write it.
    let text = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text);
    text.split(',').map(|clause| version(clause.trim())).collect()
}

fn version(clause: &str) -> Result<String, Refusal> {
    let operators = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];
    let operator =
        operators.iter().find(|operator| clause.starts_with(**operator)).ok_or(Refusal::Unreadable)?;
    let version = clause[operator.len()..].trim();
    if !is_version(version) {
        return Err(Refusal::Unreadable);
    }
    Ok(format!("{operator}{version}"))
}

/// Whether the text has the letters of a version (PEP 440), with a final `.*`.
pub(super) fn is_version(text: &str) -> bool {
    let plain = text.strip_suffix(".*").unwrap_or(text);
    plain.starts_with(|c: char| c.is_ascii_alphanumeric())
        && plain.len() <= 128
        && plain.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '!' | '-' | '_'))
}

/// Environment markers: PEP 508's grammar, read and written again.
mod marker {
    use super::Refusal;

    const VARIABLES: [&str; 12] = [
        "python_version",
        "python_full_version",
        "os_name",
        "sys_platform",
        "platform_release",
        "platform_system",
        "platform_version",
        "platform_machine",
        "platform_python_implementation",
        "implementation_name",
        "implementation_version",
        "extra",
    ];
    const OPERATORS: [&str; 8] = ["===", "==", "~=", "!=", "<=", ">=", "<", ">"];
    /// Deeper nesting than anybody writes by hand would only serve to exhaust a stack.
    const DEEPEST: usize = 16;

    /// The marker with one space between its tokens and double quotes.
    pub(super) fn canonical(text: &str) -> Result<String, Refusal> {
        let tokens = tokens(text)?;
        let mut rest = tokens.as_slice();
        expression(&mut rest, 0)?;
        if !rest.is_empty() {
            return Err(Refusal::Marker);
        }
        Ok(tokens.join(" "))
    }

    fn tokens(text: &str) -> Result<Vec<String>, Refusal> {
        let mut tokens = Vec::new();
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, after) = match first {
                '(' | ')' => (first.to_string(), &rest[1..]),
                '"' | '\'' => {
                    let (value, after) = rest[1..].split_once(first).ok_or(Refusal::Marker)?;
                    let plain = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
                    if !value.chars().all(plain) {
                        return Err(Refusal::Marker);
                    }
                    (format!("\"{value}\""), after)
                }
                c if c.is_ascii_lowercase() => {
                    let end =
                        rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap_or(rest.len());
                    (rest[..end].to_string(), &rest[end..])
                }
                _ => {
                    let operator = OPERATORS.iter().find(|o| rest.starts_with(**o)).ok_or(Refusal::Marker)?;
                    (operator.to_string(), &rest[operator.len()..])
                }
            };
            tokens.push(token);
            rest = after.trim_start();
        }
        Ok(tokens)
    }

    /// `term ((and | or) term)*`: precedence does not matter to one who only copies.
    fn expression(rest: &mut &[String], depth: usize) -> Result<(), Refusal> {
        loop {
            if take(rest, |token| token == "(") {
                if depth == DEEPEST {
                    return Err(Refusal::Marker);
                }
                expression(rest, depth + 1)?;
                expect(rest, |token| token == ")")?;
            } else {
                let value = |token: &str| token.starts_with('"') || VARIABLES.contains(&token);
                expect(rest, value)?;
                if take(rest, |token| token == "not") {
                    expect(rest, |token| token == "in")?;
                } else {
                    expect(rest, |token| token == "in" || OPERATORS.contains(&token))?;
                }
                expect(rest, value)?;
            }
            if !take(rest, |token| token == "and" || token == "or") {
                return Ok(());
            }
        }
    }

    fn take(rest: &mut &[String], wanted: impl Fn(&str) -> bool) -> bool {
        match rest.split_first() {
            Some((first, after)) if wanted(first) => {
                *rest = after;
                true
            }
            _ => false,
        }
    }

    fn expect(rest: &mut &[String], wanted: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        if take(rest, wanted) { Ok(()) } else { Err(Refusal::Marker) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read_and_written_canonically() {
        for (line, rendered) in [
            ("numpy", "numpy"),
            ("Flask_Login == 0.6.3", "flask-login==0.6.3"),
            ("zope.interface>=5,<7", "zope-interface<7,>=5"),
            ("requests [socks, security] ~=2.31", "requests[security,socks]~=2.31"),
            ("a===1.0+local", "a===1.0+local"),
            ("a (>=1.0, !=1.3.*)", "a!=1.3.*,>=1.0"),
            ("a ; python_version<'3.12'", "a ; python_version < \"3.12\""),
            (
                "a; (os_name == 'posix' or extra=='x') and platform_machine not in 'i686 ppc'",
                "a ; ( os_name == \"posix\" or extra == \"x\" ) and platform_machine not in \"i686 ppc\"",
            ),
        ] {
            assert_eq!(Requirement::parse(line).unwrap().render(), rendered, "{line}");
        }
    }

    #[test]
    fn hashes_are_kept_apart() {
        let hex = "AB".repeat(32);
        let read = Requirement::parse(&format!("a==1 --hash=sha256:{hex}  --hash=sha256:{}", "0".repeat(64)))
            .unwrap();
        assert_eq!(read.render(), "a==1");
        assert_eq!(read.hashes, BTreeSet::from(["0".repeat(64), "ab".repeat(32)]));
    }

    #[test]
    fn everything_else_is_refused_for_its_own_reason() {
        for (line, reason) in [
            ("-i https://example.org/simple", Refusal::Option),
            ("--index-url=https://example.org", Refusal::Option),
            ("-r other.txt", Refusal::Option),
            ("-c constraints.txt", Refusal::Option),
            ("-e .", Refusal::Option),
            ("--find-links wheels", Refusal::Option),
            ("--pre", Refusal::Option),
            ("a --config-settings=x=y", Refusal::Option),
            ("a==1 --global-option=x", Refusal::Option),
            ("https://example.org/a.whl", Refusal::Url),
            ("a @ https://example.org/a.whl", Refusal::Url),
            ("a@file:///etc/passwd", Refusal::Url),
            ("file:a", Refusal::Url),
            ("git+https://example.org/a.git", Refusal::Vcs),
            ("a @ git+ssh://example.org/a.git", Refusal::Vcs),
            ("./a", Refusal::Path),
            ("../a.whl", Refusal::Path),
            ("/opt/a", Refusal::Path),
            ("~/a", Refusal::Path),
            ("wheels/a", Refusal::Path),
            ("wheels\\a", Refusal::Path),
            ("a-1.0-py3-none-any.whl", Refusal::Path),
            ("a-1.0.tar.gz", Refusal::Path),
            ("${INDEX}", Refusal::Variable),
            ("a==${VERSION}", Refusal::Variable),
            ("$A", Refusal::Variable),
            ("a --hash=md5:00", Refusal::Hash),
            ("a --hash=sha256:00", Refusal::Hash),
            ("a ; unknown == '1'", Refusal::Marker),
            ("a ; os_name", Refusal::Marker),
            ("a ; os_name == \"x", Refusal::Marker),
            ("a ; os_name == 'a\"b'", Refusal::Marker),
            ("a ; ", Refusal::Marker),
            ("a = 1", Refusal::Unreadable),
            ("a 1.0", Refusal::Unreadable),
            ("a==", Refusal::Unreadable),
            ("a>=1,", Refusal::Unreadable),
            ("a[b", Refusal::Unreadable),
            ("a b", Refusal::Unreadable),
            ("_a", Refusal::Unreadable),
            ("a==1|2", Refusal::Unreadable),
        ] {
            assert_eq!(Requirement::parse(line), Err(reason), "{line}");
        }
        let deep = format!("a ; {}os_name == 'x'{}", "(".repeat(99), ")".repeat(99));
        assert_eq!(Requirement::parse(&deep), Err(Refusal::Marker));
    }
}
