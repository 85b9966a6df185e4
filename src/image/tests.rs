//! Zips, folders and files through layers and back; fixed inputs have fixed digests.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::oci::{Digest, ImageConfig, ImageManifest, media_type};
use crate::source::zip_writer::{Lie, deflated, link, stored, zip};
use crate::source::{self, Source};

const CODE: &[u8] = b"def run(x, y):\n    return x + y\n";

fn open(entries: &[Lie]) -> Arc<Source> {
    let all: Vec<Lie> = [deflated("func.py", CODE)].into_iter().chain(entries.iter().cloned()).collect();
    Arc::new(Source::from_zip(zip(&all).into(), &source::Options::default()).unwrap())
}

/// A layer's tar, after holding its bytes against its digest and diff ID.
fn untar(layer: &Layer) -> Vec<u8> {
    let (mut packed, mut tar) = (Vec::new(), Vec::new());
    layer.open().unwrap().read_to_end(&mut packed).unwrap();
    let descriptor = layer.descriptor().unwrap();
    assert_eq!(descriptor, crate::oci::Descriptor::of(media_type::LAYER_GZIP, &packed));
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut tar).unwrap();
    assert_eq!(layer.diff_id().unwrap(), Digest::of(&tar));
    tar
}

/// Path → mode and content; folders end in a slash, links have their target as content.
fn tree(tar: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in ::tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        let mode = header.mode().unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_string();
        let mut content = Vec::new();
        match entry.link_name().unwrap() {
            Some(target) => content.extend(target.to_str().unwrap().bytes()),
            None => drop(entry.read_to_end(&mut content).unwrap()),
        }
        assert!(found.insert(path.clone(), (mode, content)).is_none(), "{path} twice");
    }
    found
}

fn text(text: &str) -> Vec<u8> {
    text.into()
}

#[test]
fn a_zip_becomes_a_layer_below_function() {
    let source = open(&[
        stored("bin/tool", b"#!/bin/sh\n").mode(0o104_755),
        link("bin/again", "tool"),
        stored("empty/", b""),
        deflated("größe.txt", b"x").streamed(),
    ]);
    let tar = untar(&code_layer(&source));
    let expected = BTreeMap::from([
        (text("function/"), (0o755, vec![])),
        (text("function/bin/"), (0o755, vec![])),
        (text("function/bin/again"), (0o777, text("tool"))),
        (text("function/bin/tool"), (0o755, text("#!/bin/sh\n"))),
        (text("function/empty/"), (0o755, vec![])),
        (text("function/func.py"), (0o644, CODE.into())),
        (text("function/größe.txt"), (0o644, text("x"))),
    ]);
    let expected = expected.into_iter().map(|(k, v)| (String::from_utf8(k).unwrap(), v)).collect();
    assert_eq!(tree(&tar), expected);
}

#[test]
fn the_order_in_the_zip_and_its_tool_do_not_matter_to_the_tar() {
    let (a, b) = (deflated("a", b"1"), deflated("b", b"2"));
    let one = code_layer(&open(&[a.clone(), b.clone()])).diff_id().unwrap();
    let other = code_layer(&open(&[b.streamed(), stored("a", b"1").mode(0)])).diff_id().unwrap();
    assert_eq!(one, other);
}

#[test]
fn large_contents_are_spliced_in_slices_and_inflated_in_pieces() {
    let mut noise: Vec<u8> =
        (0..3_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    noise.truncate(9_999_999);
    let source = open(&[deflated("deflated", &noise), stored("stored", &noise), deflated("z", b"last")]);
    let tar = untar(&code_layer(&source));
    let tree = tree(&tar);
    assert!(tree["function/deflated"].1 == noise && tree["function/stored"].1 == noise);
}

/// What is said when this entry's content is looked at.
fn damaged(entry: Lie) -> String {
    let layer = code_layer(&open(&[entry]));
    layer.descriptor().unwrap();
    layer.diff_id().unwrap_err().to_string()
}

#[test]
fn a_wrong_crc_is_found_by_the_diff_id() {
    for entry in [deflated("x", b"content"), stored("x", b"content")] {
        let crc = entry.crc ^ 1;
        let text = damaged(Lie { crc, local_crc: crc, ..entry });
        assert_eq!(text, r#"entry "x" is damaged: its CRC-32 is wrong"#);
    }
}

#[test]
fn sizes_that_lie_are_found_by_the_diff_id() {
    let entry = deflated("x", b"content");
    for (size, what) in [(6, "inflates to more than"), (8, "inflates to less than")] {
        let text = damaged(Lie { size, local_size: size, ..entry.clone() });
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn streams_that_end_early_late_or_never_are_found_by_the_diff_id() {
    let with = |data: Vec<u8>| {
        let packed = data.len() as u32;
        damaged(Lie { packed, local_packed: packed, data, ..deflated("x", b"content") })
    };
    let data = deflated("x", b"content").data;
    assert!(with([&data[..], b"hidden"].concat()).contains("bytes behind the end"));
    assert!(with(data[..data.len() - 1].to_vec()).contains("damaged"));
    assert!(with(vec![0xff; 9]).contains("damaged"));
}

#[test]
fn damage_far_behind_is_found_and_named_by_several_workers() {
    let mut entries: Vec<Lie> = (0..3000).map(|i| deflated(&format!("f{i:05}"), &[i as u8; 5000])).collect();
    (entries[2000].crc, entries[2000].local_crc) = (1, 1);
    let layer = code_layer(&open(&entries));
    assert!(layer.diff_id().unwrap_err().to_string().starts_with(r#"entry "f02000""#));
}

#[test]
fn a_bomb_is_stopped_at_its_declared_size() {
    let mut bomb = deflated("x", &vec![0; 20 << 20]);
    (bomb.size, bomb.local_size) = (1000, 1000);
    assert!(damaged(bomb).contains("inflates to more than its declared size"));
}

#[test]
fn a_layer_is_read_as_often_as_asked_by_several_threads() {
    let layer = code_layer(&open(&[deflated("x", &[7; 100_000])]));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| untar(&layer))).collect();
        let tars: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(tars.windows(2).all(|pair| pair[0] == pair[1]));
    });
}

#[test]
fn a_module_and_a_folder_make_the_same_tar_as_a_zip() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), CODE).unwrap();
    let from_folder = Source::open(folder.path(), &source::Options::default()).unwrap();
    let from_file = Source::open(&folder.path().join("func.py"), &source::Options::default()).unwrap();
    let tar = untar(&code_layer(&open(&[])));
    assert_eq!(untar(&code_layer(&Arc::new(from_folder))), tar);
    assert_eq!(untar(&code_layer(&Arc::new(from_file))), tar);
}

#[test]
fn a_folder_follows_its_ignore_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("func.py", std::str::from_utf8(CODE).unwrap());
    write(".fnignore", "*.log\n!keep.log\nbuild/\n");
    for path in ["a.log", "keep.log", "build/x", "a/build/y", "a/z"] {
        write(path, "");
    }
    let source = Source::open(folder.path(), &source::Options::default()).unwrap();
    let paths: Vec<_> = source.entries().iter().map(|entry| &*entry.path).collect();
    assert_eq!(paths, ["a", "a/z", "func.py", "keep.log"]);
    let digest = source.digest().unwrap().clone();
    write("a/z", "changed");
    let changed = Source::open(folder.path(), &source::Options::default()).unwrap();
    assert_ne!(changed.digest().unwrap(), &digest);
}

/// A base of one layer, in a layout of its own.
fn base(folder: &Path) -> Base {
    let root = folder.join("root");
    std::fs::create_dir_all(root.join("usr/bin")).unwrap();
    std::fs::write(root.join("usr/bin/python3"), "not really\n").unwrap();
    // Whatever the umask is.
    for (path, mode) in [("usr", 0o755), ("usr/bin", 0o755), ("usr/bin/python3", 0o4644)] {
        std::fs::set_permissions(root.join(path), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    std::fs::hard_link(root.join("usr/bin/python3"), root.join("usr/bin/python")).unwrap();
    let layout = Layout::create(folder.join("layout")).unwrap();
    let (written, blob) = write_tree(&root, "", Level::Small, 0, layout.blob_writer().unwrap()).unwrap();
    let descriptor = blob.commit(media_type::LAYER_GZIP).unwrap();
    assert_eq!(descriptor, written.descriptor);
    let mut config = ImageConfig::default();
    config.platform.architecture = "amd64".into();
    config.platform.os = "linux".into();
    config.config.env = vec!["PATH=/usr/bin".into()];
    config.config.user = Some("65532:65532".into());
    let image =
        Image::new(config, vec![layout.layer(descriptor, written.diff_id)], Default::default()).unwrap();
    layout.write_image(&image, &["python"]).unwrap();
    Base::open(&layout, "python").unwrap()
}

#[test]
fn fixed_inputs_have_fixed_digests() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    // The deflate bytes are given, as compressors differ.
    let data = b"\x4b\x49\x4d\x53\x28\x2a\xcd\xd3\xa8\xd0\x51\xa8\xd4\xb4\xe2\x52\x00\x82\xa2\xd4\x92\xd2\xa2\x3c\x85\x0a\x05\x6d\x85\x4a\x2e\x00";
    let packed = data.len() as u32;
    let code = Lie { data: data.to_vec(), packed, local_packed: packed, ..deflated("func.py", CODE) };
    let entries = [code, stored("data/table.csv", b"1,2\n"), link("latest.csv", "data/table.csv")];
    let source = Arc::new(Source::from_zip(zip(&entries).into(), &source::Options::default()).unwrap());
    let code = code_layer(&source);
    let image = build(&base, &source, &code, &Options::default()).unwrap();
    insta::assert_snapshot!(format!(
        "base {}\nlayer {}\ndiff {}\nconfig {}\nimage {}",
        base.descriptor.digest,
        code.descriptor().unwrap().digest,
        code.diff_id().unwrap(),
        image.manifest().config.digest,
        image.descriptor().digest
    ), @r"
    base sha256:b86c418c969f7d88687c761b4a6edd14b99ad92d3f3130fdab1e40a7363df455
    layer sha256:eebfdb351876f3eac49ada2f25510056bed362404688e4e27384ec25064540f2
    diff sha256:e7140042cf2299db49e6c7dc651b8df0e30c0637bd3cebb0ba1c50f775775f40
    config sha256:d407fe487acf97754b14e1da4d02fdd2b583232c086c316716498e209825ff34
    image sha256:e843b5fdedc3e84fc58e613f1084e94ab15d68e8f09e371166293f18ffc0d163
    ");
    let written: serde_json::Value = serde_json::from_slice(image.config_bytes()).unwrap();
    assert_eq!(written["config"]["WorkingDir"], "/function");
    assert_eq!(written["rootfs"]["diff_ids"][1], code.diff_id().unwrap().to_string());
}

#[test]
fn what_the_user_adds_is_in_the_image_and_changes_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let source = open(&[]);
    let code = code_layer(&source);
    let plain = build(&base, &source, &code, &Options::default()).unwrap();
    let options = Options {
        name: Some("add".into()),
        labels: [("team".to_string(), "core".to_string())].into(),
        annotations: [("note".to_string(), "hello".to_string())].into(),
        env: vec![("PATH".into(), "/opt/bin".into()), ("LANG".into(), "C.UTF-8".into())],
        epoch: Some(1_700_000_000),
    };
    let image = build(&base, &source, &code, &options).unwrap();
    assert_ne!(plain.descriptor(), image.descriptor());
    let config = image.config();
    assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert_eq!(config.config.env, ["PATH=/opt/bin", "LANG=C.UTF-8", "FNBUILD_ENTRY=func:run"]);
    assert_eq!(config.config.labels["team"], "core");
    assert_eq!(config.config.labels["org.opencontainers.image.title"], "add");
    assert_eq!(image.manifest().annotations["note"], "hello");
    assert_eq!(config.history.len(), config.rootfs.diff_ids.len());
}

#[test]
fn a_layout_gives_back_what_it_was_given_and_notices_damage() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let source = open(&[]);
    let image = build(&base, &source, &code_layer(&source), &Options::default()).unwrap();
    let layout = Layout::create(folder.path().join("out")).unwrap();
    layout.write_image(&image, &["a", "b"]).unwrap();
    layout.untag("b").unwrap();
    assert_eq!(layout.tags().unwrap().len(), 1);
    let found = layout.resolve("a").unwrap();
    assert_eq!(found.digest, image.descriptor().digest);
    let manifest: ImageManifest = layout.read_json("a manifest", &found).unwrap();
    assert_eq!(&manifest, image.manifest());
    let again = Base::open(&layout, "a").unwrap();
    for (layer, original) in again.layers.iter().zip(image.layers()) {
        assert_eq!(untar(layer), untar(original));
    }
    let victim = &manifest.layers[0];
    let path = layout.blob_path(&victim.digest);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(layout.open_blob(victim).unwrap().read_to_end(&mut Vec::new()).is_err());
    assert!(layout.resolve("b").unwrap_err().to_string().contains("nothing is tagged"));
}

#[test]
fn many_writers_share_a_layout() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("layout");
    std::thread::scope(|scope| {
        for i in 0..8 {
            let root = &root;
            scope.spawn(move || {
                let layout = Layout::create(root).unwrap();
                let blob =
                    layout.write_blob(media_type::MANIFEST, format!("{{\"n\":{i}}}").as_bytes()).unwrap();
                layout.tag(&format!("t{i}"), blob).unwrap();
            });
        }
    });
    let layout = Layout::open(&root).unwrap();
    assert_eq!(layout.tags().unwrap().len(), 8);
    assert!(
        std::fs::read_dir(&root).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with('.'))
    );
}

#[test]
fn a_blob_with_other_bytes_than_promised_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path().join("layout")).unwrap();
    let promised = crate::oci::Descriptor::of(media_type::CONFIG, b"right");
    for wrong in [&b"wrong"[..], b"righ", b"right and more"] {
        layout.write_from(&promised, wrong).unwrap_err();
        assert!(!layout.contains(&promised));
    }
    layout.write_from(&promised, &b"right"[..]).unwrap();
    assert!(layout.contains(&promised));
}

#[test]
fn a_folder_with_other_things_in_it_does_not_become_a_layout() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("thesis.txt"), "").unwrap();
    let error = Layout::create(folder.path()).unwrap_err();
    assert!(error.to_string().contains("other things"), "{error}");
    assert!(Layout::open(folder.path().join("nowhere")).is_err());
}

/// Trees of up to 40 files, folders and links, of names and contents of every awkward kind.
fn any_tree() -> impl Strategy<Value = BTreeMap<String, (u8, Vec<u8>)>> {
    let part = proptest::sample::select(vec![
        "a",
        "b",
        "a-b",
        "a.b",
        "é",
        "ab",
        "long name with spaces that goes on and on and on and on",
    ]);
    let path = proptest::collection::vec(part, 1..7).prop_map(|parts| parts.join("/"));
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..2000),
        (any::<u8>(), 0usize..300_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    proptest::collection::btree_map(path, (0u8..5, content), 0..40).prop_map(|all| {
        let mut kept: BTreeMap<String, (u8, Vec<u8>)> = BTreeMap::new();
        for (path, value) in all {
            let clashes = |other: &String| {
                path.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
                    || other.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/'))
            };
            if !kept.keys().any(clashes) {
                kept.insert(path, value);
            }
        }
        kept
    })
}

/// As many cases as `PROPTEST_CASES` says, which the soak does; else `usual`, as each of them builds a layer.
fn cases(usual: u32) -> ProptestConfig {
    let told = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { cases: told.unwrap_or(usual), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_tree_comes_back_out_of_its_layer(tree_in in any_tree(), streamed in any::<bool>()) {
        let mut expected = BTreeMap::from([("function/func.py".to_string(), (0o644, CODE.to_vec()))]);
        let mut entries = Vec::new();
        for (path, (kind, content)) in &tree_in {
            let place = format!("function/{path}");
            let entry = match kind {
                0 => stored(path, content),
                1 => stored(&format!("{path}/"), b""),
                2 => link(path, "func.py"),
                3 => deflated(path, content).mode(0o100_755),
                _ => deflated(path, content),
            };
            match kind {
                1 => expected.insert(format!("{place}/"), (0o755, vec![])),
                2 => expected.insert(place, (0o777, b"func.py".to_vec())),
                3 => expected.insert(place, (0o755, content.clone())),
                _ => expected.insert(place, (0o644, content.clone())),
            };
            entries.push(if streamed && matches!(kind, 3 | 4) { entry.streamed() } else { entry });
        }
        // Folders that are only implied come out too.
        for path in expected.keys().cloned().collect::<Vec<_>>() {
            for (slash, _) in path.trim_end_matches('/').match_indices('/') {
                expected.insert(path[..=slash].to_string(), (0o755, vec![]));
            }
        }
        prop_assert_eq!(tree(&untar(&code_layer(&open(&entries)))), expected);
    }
}
