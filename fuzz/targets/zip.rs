//! Any bytes as a zip: refused with a message that can be shown, or a layer that is what it says and stays inside.

#![no_main]

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use fnbuild::image::code_layer;
use fnbuild::oci::Digest;
use fnbuild::source::{Bounds, Options, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bounds = Bounds { source: 1 << 20, unpacked: 8 << 20, entries: 300, ..Bounds::default() };
    let options = Options { bounds: bounds.clone(), ..Options::default() };
    let source = match Source::from_zip(bytes::Bytes::copy_from_slice(bytes), &options) {
        Ok(source) => Arc::new(source),
        Err(error) => {
            let said = format!("{error} {}", error.hint().unwrap_or_default());
            // A syntax error shows its line on a line of its own.
            assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{said:?}");
            return;
        }
    };
    assert!(source.entries().len() <= bounds.entries);
    let layer = code_layer(&source);
    let mut packed = Vec::new();
    layer.open().expect("a spliced layer opens").read_to_end(&mut packed).expect("it has bytes");
    assert_eq!(layer.descriptor().expect("it has a digest").digest, Digest::of(&packed));
    // Contents that are not what the directory says end here.
    let Ok(diff_id) = layer.diff_id() else { return };
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut tar).expect("it inflates");
    assert!(tar.len() as u64 <= bounds.unpacked + (300 * 70 << 10));
    assert_eq!(Digest::of(&tar), diff_id);
    check(&source, &tar);
});

/// The tar has every entry of the source once, and nothing outside the code's folder.
fn check(source: &Source, tar: &[u8]) {
    let mut paths = BTreeSet::new();
    for entry in tar::Archive::new(tar).entries().expect("it is a tar") {
        let entry = entry.expect("its headers are right");
        let path = entry.path_bytes();
        let path = std::str::from_utf8(&path).expect("its names are UTF-8").trim_end_matches('/').to_string();
        assert!(path == "function" || path.starts_with("function/"), "{path:?}");
        assert!(!path.split('/').any(|part| matches!(part, "" | "." | "..")), "{path:?}");
        assert!(entry.header().mode().expect("it has a mode") & !0o777 == 0);
        assert!(paths.insert(path.clone()), "{path:?} twice");
    }
    for entry in source.entries() {
        assert!(paths.contains(&format!("function/{}", entry.path)), "{:?} is missing", entry.path);
    }
}
