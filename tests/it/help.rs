//! Every verb's help as it was agreed on: a verb that is new or changed fails here until its snapshot is written.

use std::process::{Command, Stdio};

use super::support::snapshot::Snapshots;
use super::support::{fnbuild, run};

/// A verb's name, with those of the verbs above it; none for fnbuild itself.
type Path = Vec<String>;

fn command(path: &Path) -> Command {
    let mut command = fnbuild();
    // As wide on every machine.
    command.args(path).env("COLUMNS", "100").env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
    command
}

/// The verbs that a help lists.
fn subverbs(help: &str) -> impl Iterator<Item = &str> {
    let list = help.split_once("\nCommands:\n").map_or("", |(_, list)| list);
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A line that is indented further goes on with the text above it.
    let names = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help")
}

/// Every verb that is not hidden, and its help.
fn helps() -> Vec<(Path, String)> {
    let (mut helps, mut asked) = (Vec::new(), vec![Path::new()]);
    while let Some(path) = asked.pop() {
        let help = run(command(&path).arg("--help"));
        asked.extend(subverbs(&help).map(|verb| [path.as_slice(), &[verb.to_string()]].concat()));
        helps.push((path, help));
    }
    helps
}

#[test]
fn every_help_is_as_agreed() {
    let mut snapshots = Snapshots::new("help");
    for (path, help) in helps() {
        let name = [&["fnbuild".to_string()], path.as_slice()].concat().join("-");
        snapshots.check(&name, &help);
    }
    snapshots.end();
}

#[test]
fn every_help_begins_as_the_list_of_verbs_says() {
    let helps = helps();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for (path, help) in &helps {
        let Some((verb, above)) = path.split_last() else { continue };
        let (_, list) = helps.iter().find(|(path, _)| path == above).unwrap();
        let says = format!("{verb} {}", help.lines().next().unwrap());
        assert!(words(list).contains(&words(&says)), "{path:?}: {says}");
    }
}

#[test]
fn every_help_shows_an_example() {
    let without = |(path, help): &(Path, String)| {
        let shown = format!("\n  fnbuild {}", path.join(" "));
        let example = help.split_once("\nExample").is_some_and(|(_, examples)| examples.contains(&shown));
        (!example).then(|| path.join(" "))
    };
    let without: Vec<String> = helps().iter().filter_map(without).collect();
    assert!(without.is_empty(), "these show no example of themselves: {without:?}");
}

#[test]
fn every_verb_has_a_line_in_the_documentation() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let missing = |(path, help): &(Path, String)| {
        let named = format!("`fnbuild {}", path.join(" "));
        let short = format!("`{}", path.join(" "));
        let documented = docs.contains(&named) || docs.contains(&short);
        (subverbs(help).next().is_none() && !documented).then(|| path.join(" "))
    };
    let missing: Vec<String> = helps().iter().filter_map(missing).collect();
    assert!(missing.is_empty(), "docs/commands.md says nothing of {missing:?}");
}

#[test]
fn every_verb_has_a_page_and_a_completion() {
    let folder = tempfile::tempdir().unwrap();
    run(fnbuild().args(["man", "--dir"]).arg(folder.path()));
    for (path, _) in helps() {
        let page = [&["fnbuild".to_string()], path.as_slice()].concat().join("-") + ".1";
        let text = std::fs::read_to_string(folder.path().join(&page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    let hidden = folder.path().join("fnbuild-log-writer.1");
    assert!(!hidden.exists(), "a verb that nobody calls has no page");
    let top: Vec<String> = helps().into_iter().filter_map(|(path, _)| path.first().cloned()).collect();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(fnbuild().args(["completions", shell]));
        let missing: Vec<_> = top.iter().filter(|verb| !script.contains(verb.as_str())).collect();
        assert!(missing.is_empty(), "{shell} does not complete {missing:?}");
    }
}
