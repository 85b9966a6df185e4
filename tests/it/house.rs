//! The direction of imports among the rooms: the table at the top of `src/lib.rs`, held.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each room may use, read from the table itself, so that the page and the test cannot disagree.
fn table() -> BTreeMap<String, Allowed> {
    let lib = std::fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let mut rooms = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [floor, names, _, uses, ..] = cells[..] else { continue };
        if floor.parse::<u8>().is_err() {
            continue;
        }
        let quoted = |text: &str| -> BTreeSet<String> {
            text.split('`').skip(1).step_by(2).map(str::to_string).collect()
        };
        let allowed = match uses {
            "all" => Allowed::AllBut(BTreeSet::new()),
            uses if uses.starts_with("all but") => Allowed::AllBut(quoted(uses)),
            uses => Allowed::Only(quoted(uses)),
        };
        for name in quoted(names) {
            rooms.insert(name, allowed.clone());
        }
    }
    rooms
}

#[derive(Clone, Debug)]
enum Allowed {
    AllBut(BTreeSet<String>),
    Only(BTreeSet<String>),
}

impl Allowed {
    fn permits(&self, room: &str) -> bool {
        match self {
            Self::AllBut(rooms) => !rooms.contains(room),
            Self::Only(rooms) => rooms.contains(room),
        }
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file belongs to, room first: `src/image/layer.rs` → `["image", "layer"]`.
fn module_of(file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source_root()).unwrap().with_extension("");
    let mut module: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_string()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

/// Every room named by a `crate::room` or a `super::…` path in this file, with the line it stands on.
fn rooms_named(file: &Path, text: &str) -> Vec<(usize, String)> {
    let module = module_of(file);
    let mut named = Vec::new();
    // A brace list spreads over lines (`use crate::{a, b}`): join the text, remember where lines begin.
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or("").to_string() + "\n").collect();
    for (start, _) in code.match_indices("crate::") {
        let line = code[..start].matches('\n').count() + 1;
        let rest = &code[start + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => named.extend(top_level_names(list).into_iter().map(|name| (line, name))),
            None => named.push((line, identifier(rest))),
        }
    }
    for (start, _) in code.match_indices("super::") {
        if code[..start].ends_with("super::") {
            continue;
        }
        let line = code[..start].matches('\n').count() + 1;
        let mut rest = &code[start..];
        let mut up = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            (rest, up) = (after, up + 1);
        }
        // Reaching the crate's root from within takes as many steps as the module is deep. Nested `mod tests` only
        // make this stricter by one step, and they stay inside their room.
        let inline = code[..start].contains("mod tests {");
        let depth = module.len() + usize::from(inline);
        if up >= depth && depth > 0 {
            named.push((line, identifier(rest)));
        }
    }
    named
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `a, b::{c, d}, e}` → a, b, e.
fn top_level_names(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut current) = (Vec::new(), 0, String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut current)),
            _ if depth == 0 => current.push(c),
            _ => {}
        }
    }
    names.push(current);
    names.iter().map(|name| identifier(name.trim())).filter(|name| !name.is_empty()).collect()
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let table = table();
    let mut files = Vec::new();
    rust_files(&source_root(), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let Some(room) = module_of(&file).first().cloned() else { continue };
        if room == "lib" || room == "main" {
            continue;
        }
        let allowed = table.get(&room).unwrap_or_else(|| panic!("{room} is not in the table of src/lib.rs"));
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, used) in rooms_named(&file, &text) {
            if table.contains_key(&used) && used != room && !allowed.permits(&used) {
                wrong.push(format!("{}:{line}: {room} may not use {used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_test_sees_every_way_to_name_a_room() {
    let file = source_root().join("image/layer.rs");
    let text =
        "use crate::{oci, store::{A, B}};\nuse crate::registry::C;\nfn f() { super::super::cli::g() }\n";
    let named: Vec<String> = rooms_named(&file, text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(named, ["oci", "store", "registry", "cli"]);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut files = Vec::new();
    rust_files(&source_root(), &mut files);
    let silent: Vec<_> =
        files.into_iter().filter(|file| !std::fs::read_to_string(file).unwrap().starts_with("//!")).collect();
    assert!(silent.is_empty(), "files that do not open with their purpose: {silent:?}");
}
