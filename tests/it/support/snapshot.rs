//! Texts that were agreed on, kept below `tests/it/snapshots/`: `INSTA_UPDATE=always` writes them anew.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// A folder of snapshots, each of which has to be asked for.
pub struct Snapshots {
    folder: &'static str,
    asked: BTreeSet<String>,
    differ: Vec<String>,
}

impl Snapshots {
    pub fn new(folder: &'static str) -> Self {
        Self { folder, asked: BTreeSet::new(), differ: Vec::new() }
    }

    /// Compares a text with the one of this name. Goes on if they differ, so that one run shows all.
    pub fn check(&mut self, name: &str, text: &str) {
        let mut settings = insta::Settings::new();
        settings.set_snapshot_path(self.path());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let compare = || settings.bind(|| insta::assert_snapshot!(name, text));
        if catch_unwind(AssertUnwindSafe(compare)).is_err() {
            self.differ.push(name.into());
        }
        assert!(self.asked.insert(name.into()), "{name} is asked for twice");
    }

    /// Fails for every text that differs, and for every snapshot that nothing asks for any more.
    #[track_caller]
    pub fn end(self) {
        let kept = std::fs::read_dir(self.path()).into_iter().flatten();
        let kept = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = kept
            .filter_map(|file| file.strip_suffix(".snap").map(str::to_string))
            .filter(|name| !self.asked.contains(name))
            .collect();
        assert!(
            self.differ.is_empty() && left.is_empty(),
            "in tests/it/snapshots/{} differ {:?} and are left over {left:?}; see CONTRIBUTING.md",
            self.folder,
            self.differ
        );
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(self.folder)
    }
}
