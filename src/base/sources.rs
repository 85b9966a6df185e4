//! The machine's own apt sources, cut down to one release. Mirrors and keys stay the administrator's choice.

use std::fmt::Write as _;
use std::path::Path;

use super::BaseError;

/// One place to fetch packages from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Source {
    uris: String,
    suites: Vec<String>,
    /// As it stands in the file; a key in the file itself spreads over lines.
    signed_by: Option<String>,
}

/// The sources below `etc` (`/etc/apt`) that carry `suite`, `-updates` and `-security`, in deb822 form.
pub(super) fn read(etc: &Path, suite: &str) -> Result<String, BaseError> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("sources.list.d")) {
        let mut more: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.sort();
        files.extend(more);
    }
    let mut sources = Vec::new();
    for file in files {
        // What apt cannot read, it does not use either.
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(|line| from_line(line, suite))),
            Some("sources") => {
                sources.extend(stanzas(&text).filter_map(|stanza| from_stanza(&stanza, suite)))
            }
            _ => {}
        }
    }
    if !sources.iter().any(|source| source.suites.iter().any(|name| name == suite)) {
        return Err(BaseError::NoSources { suite: suite.into() });
    }
    Ok(sources.iter().map(written).collect())
}

fn belongs(name: &str, suite: &str) -> bool {
    name.strip_prefix(suite).is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

fn written(source: &Source) -> String {
    let mut text =
        format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n", source.uris, source.suites.join(" "));
    if let Some(key) = &source.signed_by {
        let _ = writeln!(text, "Signed-By: {key}");
    }
    text + "\n"
}

/// `deb [option=value …] URI SUITE COMPONENT…`
fn from_line(line: &str, suite: &str) -> Option<Source> {
    let mut rest = line.split('#').next()?.trim().strip_prefix("deb")?;
    if !rest.starts_with([' ', '\t']) {
        return None;
    }
    rest = rest.trim_start();
    let mut signed_by = None;
    if let Some(inside) = rest.strip_prefix('[') {
        let (options, after) = inside.split_once(']')?;
        signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        rest = after.trim_start();
    }
    let mut words = rest.split_whitespace();
    let (uri, name) = (words.next()?, words.next()?);
    let wanted = belongs(name, suite) && !uri.starts_with("cdrom:") && words.any(|word| word == "main");
    wanted.then(|| Source {
        uris: uri.into(),
        suites: vec![name.into()],
        signed_by: signed_by.map(|keys| keys.replace(',', " ")),
    })
}

/// The stanzas of a deb822 file as fields, continuation lines and all.
fn stanzas(text: &str) -> impl Iterator<Item = Vec<(String, String)>> {
    let mut all = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let last = all.len() - 1;
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = all[last].last_mut() {
                let _ = write!(value, "\n{line}");
            }
        } else if let Some((name, value)) = line.split_once(':') {
            all[last].push((name.to_ascii_lowercase(), value.trim().into()));
        }
    }
    all.into_iter().filter(|stanza| !stanza.is_empty())
}

fn from_stanza(stanza: &[(String, String)], suite: &str) -> Option<Source> {
    let field = |name: &str| stanza.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let has =
        |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word));
    let off = field("enabled")
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "no" | "false" | "0"));
    let suites: Vec<String> =
        field("suites")?.split_whitespace().filter(|name| belongs(name, suite)).map(str::to_string).collect();
    let wanted = !off && !suites.is_empty() && has("types", "deb") && has("components", "main");
    wanted.then(|| Source {
        uris: field("uris").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
        suites,
        signed_by: field("signed-by").map(str::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn both_forms_are_read_and_other_releases_and_vendors_left_out() {
        let list = "# deb http://old bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main contrib # here\n\
            deb-src http://a/debian bookworm main\n\
            deb cdrom:[x]/ bookworm main\n\
            deb http://a/debian trixie main\n";
        let sources = "Types: deb deb-src\nURIs: http://b/debian\nSuites: bookworm-updates bookworm-backports\n\
            # why\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n\n\
            Types: deb\nURIs: http://vendor\nSuites: bookworm\nComponents: stable\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off\nSuites: bookworm\nComponents: main\n";
        let folder = folder(&[
            ("sources.list", list),
            ("sources.list.d/d.sources", sources),
            ("sources.list.d/x.off", list),
        ]);
        assert_eq!(
            read(folder.path(), "bookworm").unwrap(),
            "Types: deb\nURIs: http://a/debian\nSuites: bookworm\nComponents: main\nSigned-By: /k.gpg\n\n\
             Types: deb\nURIs: http://b/debian\nSuites: bookworm-updates\nComponents: main\n\
             Signed-By: \n -----BEGIN\n .\n x\n\n"
        );
    }

    #[test]
    fn a_machine_without_the_release_is_told_so() {
        let folder = folder(&[("sources.list", "deb http://a/debian trixie main\n")]);
        assert!(matches!(read(folder.path(), "bookworm"), Err(BaseError::NoSources { .. })));
    }
}
