//! The tree that a source is: its entries, and that they agree with each other.

use std::ops::Range;

use super::names::{by_parts, is_litter};
use super::{Bounds, SourceError};

/// A file, folder or link below `/function`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Relative, with `/` between its parts and none at either end.
    pub path: Box<str>,
    pub kind: Kind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    Folder,
    /// A symbolic link that stays inside.
    Link {
        target: Box<str>,
    },
    File {
        executable: bool,
        /// Bytes, as declared: the content must turn out to have exactly so many.
        size: u64,
        content: Content,
    },
}

/// Where a file's content is, and what it must turn out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A raw deflate stream at these bytes of the zip.
    Deflated { at: Range<usize>, crc: u32 },
    /// At these bytes of the zip or the `.py`, as it is; a `.py` has no CRC.
    Stored { at: Range<usize>, crc: Option<u32> },
    /// In the folder, by the entry's own path.
    OnDisk,
}

impl Entry {
    /// The permission bits that it gets, whatever it had.
    pub fn mode(&self) -> u32 {
        match self.kind {
            Kind::Folder | Kind::File { executable: true, .. } => 0o755,
            Kind::File { .. } => 0o644,
            Kind::Link { .. } => 0o777,
        }
    }
}

/// The folders that lie on the way to `path` but have no entry: those that are neither `previous` (the entry before it in
/// the order of a [`Source`](super::Source)) nor on the way to that. Outermost first.
pub fn missing_folders<'a>(previous: &'a str, path: &'a str) -> Missing<'a> {
    // What both have in common ends at the last slash of `path` up to which `previous` goes along.
    let same = previous.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
    let whole =
        if same == previous.len() && path.as_bytes().get(same) == Some(&b'/') { same + 1 } else { same };
    let at = path.get(..whole).and_then(|common| common.rfind('/')).map_or(0, |slash| slash + 1);
    Missing { path, at }
}

/// See [`missing_folders`].
#[derive(Clone, Debug)]
pub struct Missing<'a> {
    path: &'a str,
    at: usize,
}

impl<'a> Iterator for Missing<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let slash = self.at + self.path.get(self.at..)?.find('/')?;
        self.at = slash + 1;
        self.path.get(..slash)
    }
}

/// Turns entries in any order into a tree: sorted, unique, without litter, no more of them than allowed.
pub(super) fn settle(mut entries: Vec<Entry>, bounds: &Bounds) -> Result<Vec<Entry>, SourceError> {
    entries.sort_unstable_by(|a, b| by_parts(&a.path, &b.path));
    for pair in entries.windows(2) {
        let [a, b] = pair else { continue };
        if a.path == b.path {
            return Err(SourceError::entry(b.path.as_bytes(), "is there twice"));
        }
        // Everything below a path comes right after it, so that looking at neighbours is enough.
        let below = b.path.strip_prefix(&*a.path).is_some_and(|rest| rest.starts_with('/'));
        match a.kind {
            Kind::File { .. } if below => {
                return Err(SourceError::entry(a.path.as_bytes(), "is a file and a folder at once"));
            }
            Kind::Link { .. } if below => {
                return Err(SourceError::entry(b.path.as_bytes(), "lies below a symbolic link"));
            }
            _ => {}
        }
    }
    entries.retain(|entry| !is_litter(&entry.path));
    entries.shrink_to_fit();
    let mut count = entries.len();
    let mut previous = "";
    for entry in &entries {
        count += missing_folders(previous, &entry.path).count();
        previous = &entry.path;
    }
    if count > bounds.entries {
        return Err(SourceError::TooMany { limit: bounds.entries });
    }
    Ok(entries)
}

/// Strips the single top folder, if that is all there is at the top and one of `wanted` is in it and none above it.
pub(super) fn strip_top(entries: &mut Vec<Entry>, wanted: &[String]) -> Option<Box<str>> {
    if wanted.iter().any(|path| find(entries, path).is_some()) {
        return None;
    }
    let top: Box<str> = entries.first()?.path.split('/').next()?.into();
    let inside =
        |path: &str| path.strip_prefix(&*top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !entries.iter().all(|entry| inside(&entry.path)) {
        return None;
    }
    wanted.iter().find(|path| find(entries, &format!("{top}/{path}")).is_some())?;
    entries.retain_mut(|entry| match entry.path.get(top.len() + 1..) {
        Some(rest) => {
            entry.path = rest.into();
            true
        }
        None => false,
    });
    Some(top)
}

/// The entry at a path.
pub(super) fn find<'a>(entries: &'a [Entry], path: &str) -> Option<&'a Entry> {
    entries.binary_search_by(|entry| by_parts(&entry.path, path)).ok().and_then(|at| entries.get(at))
}

/// What fnbuild keeps for itself at the top of a function's folder.
const RESERVED: &str = ".fnbuild";

/// Checks what only a settled and stripped tree can tell: reserved names, and where links lead.
pub(super) fn check(entries: &[Entry]) -> Result<(), SourceError> {
    for entry in entries {
        if entry.path.split('/').next() == Some(RESERVED) {
            return Err(SourceError::entry(entry.path.as_bytes(), "has a name that is reserved for fnbuild"));
        }
        if let Kind::Link { target } = &entry.kind {
            follow(entries, &entry.path, target)?;
        }
    }
    Ok(())
}

/// Walks along a link's target, through other links too, and refuses it if the way leaves the tree or has no end.
fn follow(entries: &[Entry], path: &str, target: &str) -> Result<(), SourceError> {
    const MAX_LINKS: usize = 40;
    let refuse = |reason| Err(SourceError::entry(path.as_bytes(), reason));
    if target.is_empty() || target.contains(['\0', '\\']) || target.contains(char::is_control) {
        return refuse("is a symbolic link with a target that makes no sense");
    }
    let mut at: Vec<&str> = path.split('/').collect();
    at.pop();
    // What is still to be walked, the next part last.
    let mut ahead: Vec<&str> = target.split('/').rev().collect();
    let mut links = 0;
    if target.starts_with('/') {
        return refuse("is a symbolic link to an absolute path");
    }
    while let Some(part) = ahead.pop() {
        match part {
            "" | "." => continue,
            ".." => {
                if at.pop().is_none() {
                    return refuse("is a symbolic link that points outside");
                }
                continue;
            }
            _ => at.push(part),
        }
        if let Some(Entry { kind: Kind::Link { target }, .. }) = find(entries, &at.join("/")) {
            links += 1;
            if links > MAX_LINKS {
                return refuse("is a symbolic link without an end");
            }
            if target.starts_with('/') {
                return refuse("is a symbolic link that points outside");
            }
            at.pop();
            ahead.extend(target.split('/').rev());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Entry {
        let content = Content::OnDisk;
        Entry { path: path.into(), kind: Kind::File { executable: false, size: 0, content } }
    }

    fn link(path: &str, target: &str) -> Entry {
        Entry { path: path.into(), kind: Kind::Link { target: target.into() } }
    }

    fn settled(entries: Vec<Entry>) -> Result<Vec<Entry>, SourceError> {
        let entries = settle(entries, &Bounds::default())?;
        check(&entries)?;
        Ok(entries)
    }

    #[test]
    fn every_folder_on_the_way_is_named_once() {
        for (previous, path, expected) in [
            ("", "a", &[][..]),
            ("", "a/b/c", &["a", "a/b"][..]),
            ("a", "a/b/c", &["a/b"]),
            ("a/b/c", "a/b/d", &[]),
            ("a/b/c", "a/bc/d", &["a/bc"]),
            ("a/b", "a/bc/d", &["a/bc"]),
            ("a/bc", "ab/d", &["ab"]),
            ("é/x", "è/x", &["è"]),
        ] {
            assert_eq!(missing_folders(previous, path).collect::<Vec<_>>(), expected, "{previous} {path}");
        }
    }

    #[test]
    fn duplicates_are_refused() {
        let error = settled(vec![file("a/b"), file("c"), file("a/b")]).unwrap_err();
        assert_eq!(error.to_string(), r#"entry "a/b" is there twice"#);
    }

    #[test]
    fn a_file_that_is_also_a_folder_is_refused() {
        let error = settled(vec![file("a/b/c"), file("a"), file("a-b")]).unwrap_err();
        assert_eq!(error.to_string(), r#"entry "a" is a file and a folder at once"#);
    }

    #[test]
    fn an_entry_below_a_link_is_refused() {
        let error = settled(vec![link("a", "b"), file("a/x"), file("b/y")]).unwrap_err();
        assert_eq!(error.to_string(), r#"entry "a/x" lies below a symbolic link"#);
    }

    #[test]
    fn litter_is_left_out() {
        let kept = settled(vec![
            file("__MACOSX/._func.py"),
            file(".DS_Store"),
            file("a/Thumbs.db"),
            file("a/__pycache__/x.pyc"),
            file("func.py"),
        ]);
        assert_eq!(kept.unwrap(), [file("func.py")]);
    }

    #[test]
    fn the_reserved_name_is_refused_at_the_top_only() {
        assert!(settled(vec![file(".fnbuild/packages/x")]).unwrap_err().to_string().contains("reserved"));
        assert!(settled(vec![file("a/.fnbuild")]).is_ok());
    }

    #[test]
    fn links_that_stay_inside_are_kept() {
        settled(vec![
            link("lib.so", "lib.so.1"),
            link("lib.so.1", "lib.so.1.2"),
            file("lib.so.1.2"),
            link("a/up", "../lib.so"),
            link("a/dangling", "nowhere/at/all"),
        ])
        .unwrap();
    }

    #[test]
    fn links_that_point_outside_are_refused() {
        for target in ["/etc/passwd", "..", "../../x", "a/../../x", "x/../.."] {
            let text = settled(vec![link("l", target)]).unwrap_err().to_string();
            assert!(text.starts_with(r#"entry "l" is a symbolic link"#), "{target}: {text}");
        }
        assert!(settled(vec![link("a/b/l", "../../x")]).is_ok());
        assert!(settled(vec![link("a/b/l", "../../../x")]).is_err());
    }

    #[test]
    fn a_chain_of_links_that_ends_outside_is_refused() {
        // Read as text it stays inside: only by following `up` does it leave.
        let chain = vec![link("a/b/up", "../.."), link("l", "a/b/up/../x"), file("func.py")];
        assert_eq!(
            settled(chain).unwrap_err().to_string(),
            r#"entry "l" is a symbolic link that points outside"#
        );
    }

    #[test]
    fn links_that_lead_in_a_circle_are_refused() {
        let circle = vec![link("a", "b"), link("b", "a")];
        assert!(settled(circle).unwrap_err().to_string().ends_with("is a symbolic link without an end"));
    }

    #[test]
    fn implied_folders_count_as_entries() {
        let bounds = Bounds { entries: 3, ..Bounds::default() };
        assert!(settle(vec![file("a/b/c")], &bounds).is_ok());
        assert!(settle(vec![file("a/b/c/d")], &bounds).is_err());
    }

    #[test]
    fn only_a_top_folder_that_holds_everything_is_stripped() {
        let wanted = ["func.py".to_string(), "func/__init__.py".into()];
        let mut entries = vec![file("f/a.py"), file("f/func.py")];
        assert_eq!(strip_top(&mut entries, &wanted).as_deref(), Some("f"));
        assert_eq!(entries, [file("a.py"), file("func.py")]);
        let mut two = vec![file("f/func.py"), file("g")];
        assert_eq!(strip_top(&mut two, &wanted), None);
        let mut above = vec![file("f/func.py"), file("func.py")];
        assert_eq!(strip_top(&mut above, &wanted), None);
    }
}
