//! Names: what a path inside a source may look like, and how one is shown that may not.

use super::SourceError;

/// One part of a path, as Linux has it.
const MAX_PART: usize = 255;
/// A whole path. Clients put a prefix of their own before it when they unpack, and Linux ends at 4,096.
const MAX_PATH: usize = 3_072;
const MAX_DEPTH: usize = 64;

/// A name from an archive as a clean relative path: `/` between parts, none at either end, no `.` and no empty parts.
///
/// `None` stands for the source's own root (`./`). Everything that could land elsewhere, or that another reader could take
/// for another name, is refused and never repaired: a leading slash, `..`, backslashes, drive letters, control
/// characters, text that is not UTF-8, and `.wh.` names, which a layer would take for deletions.
pub(super) fn clean(raw: &[u8]) -> Result<Option<Box<str>>, SourceError> {
    let refuse = |reason| Err(SourceError::entry(raw, reason));
    let Ok(name) = std::str::from_utf8(raw) else {
        let hint = "zip it again with a tool that writes UTF-8 names (zip 3.0 or later, 7z -mcu=on, python -m zipfile)";
        return refuse("has a name that is not UTF-8").map_err(|error: SourceError| error.or_else(hint));
    };
    if name.is_empty() {
        return refuse("has an empty name");
    }
    if name.contains('\0') {
        return refuse("has a NUL in its name");
    }
    if name.contains(char::is_control) {
        return refuse("has a control character in its name");
    }
    if name.contains('\\') {
        return refuse("has a backslash in its name").map_err(|error: SourceError| {
            error.or_else(
                "zip it again with a tool that writes / between folders (tar -a, 7z, python -m zipfile)",
            )
        });
    }
    if name.starts_with('/') {
        return refuse("is an absolute path");
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => continue,
            ".." => return refuse("climbs out of its folder"),
            _ if part.len() > MAX_PART => return refuse("has a part of more than 255 bytes"),
            _ if part.starts_with(".wh.") => return refuse("would be taken for a deletion in a layer"),
            _ => parts.push(part),
        }
        if parts.len() > MAX_DEPTH {
            return refuse("is more than 64 folders deep");
        }
    }
    let Some(first) = parts.first() else { return Ok(None) };
    if let [letter, b':', ..] = first.as_bytes()
        && letter.is_ascii_alphabetic()
    {
        return refuse("begins with a drive letter");
    }
    let path = parts.join("/");
    if path.len() > MAX_PATH {
        return refuse("has a path of more than 3,072 bytes");
    }
    Ok(Some(path.into()))
}

/// What tools leave behind and nobody means to ship.
pub(super) fn is_litter(path: &str) -> bool {
    path.split('/').next() == Some("__MACOSX")
        || path.split('/').any(|part| matches!(part, "__pycache__" | ".DS_Store" | "Thumbs.db"))
}

/// The order of paths by their parts, so that everything below a folder comes right after it: `a`, `a/b`, `a-b`.
pub(super) fn by_parts(left: &str, right: &str) -> std::cmp::Ordering {
    let key = |b: u8| if b == b'/' { 0 } else { b };
    left.bytes().map(key).cmp(right.bytes().map(key))
}

/// A name as it can be shown on one line of a terminal, whatever is in it.
pub fn escaped(name: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => shown.extend(['\\', c]),
                // Beside the control characters, those that reorder or hide text.
                _ if c.is_control()
                    || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') =>
                {
                    shown.extend(c.escape_default());
                }
                _ => shown.push(c),
            }
        }
        shown.extend(chunk.invalid().iter().flat_map(|b| format!("\\x{b:02x}").chars().collect::<Vec<_>>()));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(name: impl AsRef<[u8]>) -> String {
        clean(name.as_ref()).unwrap_err().to_string()
    }

    #[test]
    fn honest_names_are_cleaned() {
        for (name, path) in [
            ("func.py", Some("func.py")),
            ("./a//b/./c.py", Some("a/b/c.py")),
            ("größe/ü.txt", Some("größe/ü.txt")),
            ("a..b/...", Some("a..b/...")),
            ("folder/", Some("folder")),
            ("./", None),
        ] {
            assert_eq!(clean(name.as_bytes()).unwrap().as_deref(), path, "{name}");
        }
    }

    #[test]
    fn names_that_climb_out_are_refused() {
        for name in ["..", "../x", "a/../../x", "a/..", "a/../b"] {
            assert!(reason(name).ends_with("climbs out of its folder"), "{name}");
        }
    }

    #[test]
    fn absolute_backslashed_and_drive_lettered_names_are_refused() {
        assert!(reason("/etc/passwd").ends_with("is an absolute path"));
        assert!(reason("//host/x").ends_with("is an absolute path"));
        assert!(reason("..\\x").ends_with("has a backslash in its name"));
        assert!(reason("C:/x").ends_with("begins with a drive letter"));
        assert!(reason("./c:x").ends_with("begins with a drive letter"));
    }

    #[test]
    fn empty_names_and_control_characters_are_refused_and_shown_escaped() {
        assert_eq!(reason(""), r#"entry "" has an empty name"#);
        assert_eq!(reason("a\0b"), r#"entry "a\u{0}b" has a NUL in its name"#);
        assert_eq!(reason("a\x1b[2Jb"), r#"entry "a\u{1b}[2Jb" has a control character in its name"#);
        assert_eq!(reason("a\u{85}"), r#"entry "a\u{85}" has a control character in its name"#);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused_with_the_way_out() {
        let error = clean(b"gr\xf6\xdfe.py").unwrap_err();
        assert_eq!(error.to_string(), r#"entry "gr\xf6\xdfe.py" has a name that is not UTF-8"#);
        assert!(error.hint().unwrap().contains("zip it again"));
    }

    #[test]
    fn long_and_deep_names_are_refused() {
        assert!(clean("a".repeat(255).as_bytes()).is_ok());
        assert!(reason("a".repeat(256)).ends_with("has a part of more than 255 bytes"));
        assert!(clean("a/".repeat(64).as_bytes()).is_ok());
        assert!(reason("a/".repeat(65)).ends_with("is more than 64 folders deep"));
        let part = "a".repeat(200) + "/";
        assert!(reason(part.repeat(16)).ends_with("has a path of more than 3,072 bytes"));
        assert!(clean(part.repeat(15).as_bytes()).is_ok());
    }

    #[test]
    fn whiteouts_are_refused() {
        for name in [".wh.func.py", "a/.wh..wh..opq", ".wh.x/y"] {
            assert!(reason(name).ends_with("would be taken for a deletion in a layer"), "{name}");
        }
    }

    #[test]
    fn a_folder_comes_right_before_what_is_in_it() {
        let mut paths = ["a-b", "a/c", "b", "a", "a/b/c", "a.b", "a/b"];
        paths.sort_by(|l, r| by_parts(l, r));
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/c", "a-b", "a.b", "b"]);
    }

    #[test]
    fn text_that_reorders_itself_is_shown_escaped() {
        assert_eq!(escaped("a\u{202e}b\"".as_bytes()), "a\\u{202e}b\\\"");
    }
}
