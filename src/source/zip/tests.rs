//! Every way a zip can lie that we know of, made by hand, and what honest tools write.

use super::super::{Bounds, Kind, Options, Source, SourceError};
use super::writer::{Lie, deflated, end, link, stored, zip};

const CODE: &[u8] = b"def run():\n    pass\n";

fn open(bytes: Vec<u8>) -> Result<Source, SourceError> {
    Source::from_zip(bytes.into(), &Options::default())
}

/// What is said of a zip with `func.py` and these entries.
fn refused(entries: impl IntoIterator<Item = Lie>) -> String {
    let all: Vec<Lie> = [deflated("func.py", CODE)].into_iter().chain(entries).collect();
    open(zip(&all)).unwrap_err().to_string()
}

fn paths(source: &Source) -> Vec<&str> {
    source.entries().iter().map(|entry| &*entry.path).collect()
}

fn accepted(entries: impl IntoIterator<Item = Lie>) -> Source {
    let all: Vec<Lie> = [deflated("func.py", CODE)].into_iter().chain(entries).collect();
    open(zip(&all)).unwrap()
}

/// The zip64 extra record with these numbers.
fn zip64(numbers: &[u64]) -> Vec<u8> {
    let mut record = vec![1, 0];
    record.extend((numbers.len() as u16 * 8).to_le_bytes());
    numbers.iter().for_each(|number| record.extend(number.to_le_bytes()));
    record
}

fn unicode_path(name: &[u8]) -> Vec<u8> {
    let mut record = b"\x75\x70".to_vec();
    record.extend((name.len() as u16 + 5).to_le_bytes());
    record.extend([1, 0, 0, 0, 0]);
    record.extend(name);
    record
}

#[test]
fn stored_deflated_streamed_and_empty_entries_are_taken() {
    let source = accepted([
        stored("a/stored.bin", b"as it is"),
        deflated("a/streamed.txt", b"sizes follow").streamed(),
        stored("empty", b""),
        stored("folder/", b""),
        stored("nested.zip", &zip(&[deflated("x", b"y")])),
    ]);
    assert_eq!(
        paths(&source),
        ["a/stored.bin", "a/streamed.txt", "empty", "folder", "func.py", "nested.zip"]
    );
}

#[test]
fn modes_are_normalised_to_two() {
    let modes = |mode| {
        let source = accepted([deflated("x", b"x").mode(mode)]);
        source.entries().iter().find(|entry| &*entry.path == "x").unwrap().mode()
    };
    assert_eq!(modes(0o104_755), 0o755);
    assert_eq!(modes(0o102_010), 0o755);
    assert_eq!(modes(0o100_666), 0o644);
    assert_eq!(modes(0), 0o644, "Windows knows no modes");
}

#[test]
fn a_data_descriptor_may_lack_its_signature_or_have_wide_sizes() {
    let entry = deflated("x", b"content").streamed();
    let bare = Lie { after: entry.after[4..].to_vec(), ..entry.clone() };
    accepted([bare]);
    let mut wide = entry.after[..8].to_vec();
    wide.extend(u64::from(entry.packed).to_le_bytes());
    wide.extend(u64::from(entry.size).to_le_bytes());
    accepted([Lie { after: wide, ..entry }]);
}

#[test]
fn zip64_sizes_are_read_where_tools_put_them() {
    let entry = deflated("x", b"content");
    let (packed, size) = (u64::from(entry.packed), u64::from(entry.size));
    let wide = |entry: Lie| Lie {
        local_packed: u32::MAX,
        local_size: u32::MAX,
        local_extra: zip64(&[size, packed]),
        ..entry
    };
    accepted([wide(entry.clone())]);
    accepted([Lie { packed: u32::MAX, size: u32::MAX, extra: zip64(&[size, packed]), ..wide(entry) }]);
}

#[test]
fn names_in_utf8_are_taken_without_the_flag_that_says_so() {
    let source = accepted([deflated("größe.txt", b"x")]);
    assert_eq!(paths(&source), ["func.py", "größe.txt"]);
    accepted([Lie { extra: unicode_path("ü".as_bytes()), ..deflated("ü", b"x") }]);
}

#[test]
fn a_single_top_folder_is_stripped() {
    let source = open(zip(&[stored("top/", b""), deflated("top/func.py", CODE), deflated("top/a/b", b"")]));
    assert_eq!(paths(&source.unwrap()), ["a/b", "func.py"]);
}

#[test]
fn what_is_no_zip_is_said_to_be_none() {
    for bytes in [&b""[..], b"hello", b"\x1f\x8b\x08", &[0; 100]] {
        let error = open(bytes.to_vec()).unwrap_err();
        assert!(error.to_string().starts_with("this is not a zip"), "{error}");
    }
}

#[test]
fn a_zip_without_func_py_is_refused() {
    for entries in
        [vec![], vec![deflated("main.py", CODE)], vec![deflated("a/func.py", CODE), stored("b", b"")]]
    {
        let error = open(zip(&entries)).unwrap_err();
        assert!(error.to_string().starts_with("there is no func.py"), "{error}");
        assert!(error.hint().unwrap().contains("--entry"));
    }
}

#[test]
fn names_that_climb_out_are_refused_by_name() {
    assert_eq!(refused([deflated("../x", b"")]), r#"entry "../x" climbs out of its folder"#);
    assert_eq!(refused([deflated("/x", b"")]), r#"entry "/x" is an absolute path"#);
    assert_eq!(refused([deflated("a\\x", b"")]), r#"entry "a\\x" has a backslash in its name"#);
    assert_eq!(refused([deflated("C:x", b"")]), r#"entry "C:x" begins with a drive letter"#);
    assert_eq!(refused([deflated("", b"")]), r#"entry "" has an empty name"#);
    assert_eq!(refused([deflated("x", b"").named(b"a\0b")]), r#"entry "a\u{0}b" has a NUL in its name"#);
}

#[test]
fn litter_with_a_hostile_name_is_refused_all_the_same() {
    assert!(refused([deflated("__MACOSX/../../x", b"")]).ends_with("climbs out of its folder"));
}

#[test]
fn duplicates_are_refused_also_after_cleaning() {
    assert!(refused([deflated("func.py", b"")]).ends_with("is there twice"));
    assert!(refused([deflated(".//func.py", b"")]).ends_with("is there twice"));
    assert!(refused([stored("func.py/", b"")]).ends_with("is there twice"));
    assert!(refused([stored("a/", b""), stored("a/", b"")]).ends_with("is there twice"));
}

#[test]
fn a_file_that_is_also_a_folder_is_refused() {
    assert!(refused([deflated("func.py/x", b"")]).ends_with("is a file and a folder at once"));
}

#[test]
fn a_folder_with_content_is_refused() {
    assert!(refused([stored("a/", b"x")]).ends_with("is a folder with content"));
    assert!(refused([stored("a", b"x").mode(0o040_755)]).ends_with("is a folder with content"));
}

#[test]
fn links_inside_are_kept_and_links_outside_refused() {
    let source = accepted([link("l", "func.py")]);
    assert_eq!(source.entries()[1].kind, Kind::Link { target: "func.py".into() });
    assert!(refused([link("l", "../x")]).ends_with("is a symbolic link that points outside"));
    assert!(refused([link("l", "/etc")]).ends_with("is a symbolic link to an absolute path"));
    assert!(refused([link("l", "a"), deflated("l/x", b"")]).ends_with("lies below a symbolic link"));
}

#[test]
fn a_links_content_is_checked_at_once() {
    let wrong = Lie { crc: 1, local_crc: 1, ..link("l", "func.py") };
    assert!(refused([wrong]).ends_with("is damaged: its size or CRC-32 is wrong"));
    let long = "a".repeat(4000);
    assert!(refused([link("l", &long)]).ends_with("a target of more than 3,072 bytes"));
}

#[test]
fn devices_fifos_and_sockets_are_refused() {
    for (mode, what) in [
        (0o020_666, "is a device"),
        (0o060_666, "is a device"),
        (0o010_644, "is a FIFO"),
        (0o140_755, "is a socket"),
        (0o150_644, "is of an unknown kind"),
    ] {
        assert!(refused([stored("x", b"").mode(mode)]).ends_with(what), "{mode:o}");
    }
}

#[test]
fn a_name_that_differs_between_the_headers_is_refused() {
    let lie = Lie { local_name: b"y".to_vec(), ..deflated("x", b"1") };
    assert_eq!(refused([lie]), r#"entry "x" has another name in its own header"#);
    let lie = Lie { extra: unicode_path(b"y"), ..deflated("x", b"1") };
    assert!(refused([lie]).ends_with("has another name in its Unicode path record"));
    let lie = Lie { local_extra: unicode_path(b"y"), ..deflated("x", b"1") };
    assert!(refused([lie]).ends_with("has another name in its Unicode path record"));
}

#[test]
fn a_method_that_differs_between_the_headers_is_refused() {
    let lie = Lie { local_method: 0, ..deflated("x", b"1") };
    assert!(refused([lie]).ends_with("has another method or other flags in its own header"));
    let lie = Lie { local_flags: 8, ..deflated("x", b"1") };
    assert!(refused([lie]).ends_with("has another method or other flags in its own header"));
}

#[test]
fn sizes_and_crcs_that_differ_between_the_headers_are_refused() {
    let honest = deflated("x", b"content");
    for lie in [
        Lie { local_size: 1, ..honest.clone() },
        Lie { local_packed: 1, ..honest.clone() },
        Lie { local_size: 0, local_packed: 0, ..honest.clone() },
        Lie { local_size: u32::MAX, local_extra: zip64(&[9]), ..honest.clone() },
    ] {
        assert!(refused([lie]).ends_with("has other sizes in its own header"));
    }
    let lie = Lie { local_crc: 1, ..honest };
    assert!(refused([lie]).ends_with("has another CRC-32 in its own header"));
}

#[test]
fn a_data_descriptor_that_differs_is_refused() {
    let honest = deflated("x", b"content").streamed();
    for at in [0, 4, 8, 12] {
        let mut lie = honest.clone();
        lie.after[at] ^= 1;
        assert!(refused([lie]).ends_with("has a data descriptor that contradicts the directory"), "{at}");
    }
    let none = Lie { after: Vec::new(), ..honest };
    assert!(refused([none]).ends_with("has a data descriptor that contradicts the directory"));
}

#[test]
fn entries_and_records_without_each_other_are_refused() {
    let unlisted = Lie { listed: false, ..deflated("hidden", b"x") };
    assert!(refused([unlisted.clone()]).ends_with("is followed by bytes that belong to no entry"));
    let first = open(zip(&[unlisted, deflated("func.py", CODE)])).unwrap_err().to_string();
    assert!(first.ends_with("there is something before its first entry"), "{first}");
    let unwritten = Lie { written: false, ..deflated("ghost", b"x") };
    assert!(refused([unwritten]).starts_with(r#"entry "ghost" is"#));
    let elsewhere = Lie { offset: Some(u32::MAX - 1), ..deflated("far", b"x") };
    assert!(open(zip(&[deflated("func.py", CODE), elsewhere])).is_err());
}

#[test]
fn overlapping_entries_are_refused() {
    let again = Lie { offset: Some(0), written: false, ..deflated("x", CODE) };
    assert!(refused([again]).contains("overlap"));
    // The first entry's content reaches over the second one, header and all.
    let mut wide = stored("wide", b"x");
    let inner = zip(&[deflated("func.py", CODE)]);
    let reach = inner.len() as u32 - 22 - 46 - 7 + 1;
    (wide.packed, wide.local_packed, wide.size, wide.local_size) = (reach, reach, reach, reach);
    let text = open(zip(&[wide, deflated("func.py", CODE)])).unwrap_err().to_string();
    assert!(text.contains("overlaps what follows it"), "{text}");
}

#[test]
fn a_second_directory_in_the_comment_is_refused() {
    let mut bytes = zip(&[deflated("func.py", CODE)]);
    let inner = zip(&[deflated("func.py", b"def run(): evil()")]);
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&(inner.len() as u16).to_le_bytes());
    bytes.extend(&inner);
    open(bytes).unwrap_err();
    // Not even when only one reading of it fits.
    let mut bytes = zip(&[deflated("func.py", CODE)]);
    let comment = end(0, 0, 0, b"xx");
    let comment = &comment[..comment.len() - 1];
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&(comment.len() as u16).to_le_bytes());
    bytes.extend(comment);
    assert!(open(bytes).unwrap_err().to_string().contains("hides a second directory"));
}

#[test]
fn an_honest_comment_is_taken() {
    let mut bytes = zip(&[deflated("func.py", CODE)]);
    let at = bytes.len() - 2;
    bytes[at..].copy_from_slice(&5u16.to_le_bytes());
    bytes.extend(b"hello");
    open(bytes).unwrap();
}

#[test]
fn trailing_and_prepended_bytes_are_refused() {
    let honest = zip(&[deflated("func.py", CODE)]);
    let trailing = open([&honest[..], b"x"].concat()).unwrap_err().to_string();
    assert!(trailing.contains("its end is missing"), "{trailing}");
    let prepended = open([b"#!/bin/sh\n", &honest[..]].concat()).unwrap_err().to_string();
    assert!(prepended.contains("something before its first entry"), "{prepended}");
    // Disguised as an entry's header, and with offsets that allow for it.
    let mut disguised = honest.clone();
    let at = disguised.len() - 6;
    let start = u32::from_le_bytes(disguised[at..at + 4].try_into().unwrap());
    disguised[at..at + 4].copy_from_slice(&(start + 4).to_le_bytes());
    open([b"PK\x03\x04", &disguised[..]].concat()).unwrap_err();
}

#[test]
fn a_zip_that_was_cut_off_is_refused_wherever_it_was_cut() {
    let honest = zip(&[deflated("func.py", CODE), stored("a", b"text"), deflated("b", b"more").streamed()]);
    for length in 0..honest.len() {
        assert!(open(honest[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn no_single_changed_byte_makes_it_panic() {
    let honest = zip(&[deflated("func.py", CODE), link("l", "func.py"), deflated("b", b"more").streamed()]);
    for at in 0..honest.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = honest.clone();
            bytes[at] ^= change;
            let _ = open(bytes);
        }
    }
}

#[test]
fn encrypted_entries_and_unknown_methods_are_refused() {
    let encrypted = Lie { flags: 1, local_flags: 1, ..deflated("x", b"1") };
    assert!(refused([encrypted]).ends_with("is encrypted"));
    for method in [1, 9, 12, 14, 93, 95, 99] {
        let lie = Lie { method, local_method: method, ..deflated("x", b"1") };
        assert!(refused([lie]).ends_with("by a method other than stored and deflate"), "{method}");
    }
}

#[test]
fn a_bomb_is_refused_by_what_it_declares() {
    let flat = Lie { size: 1 << 30, local_size: 1 << 30, ..deflated("x", &[0; 1000]) };
    assert!(refused([flat]).ends_with("claims to hold more than its bytes can"));
    let zeros = vec![0; 48 << 20];
    let ratio = refused([deflated("x", &zeros)]);
    assert!(ratio.ends_with("more than 250 times its own size"), "{ratio}");
}

#[test]
fn more_than_the_bounds_is_refused_with_the_flag_that_raises_them() {
    let bytes = zip(&[deflated("func.py", CODE), stored("x", &[1; 1000])]);
    let bounded = |bounds| {
        let options = Options { bounds, ..Options::default() };
        Source::from_zip(bytes.clone().into(), &options).unwrap_err().hint().unwrap()
    };
    assert!(bounded(Bounds { source: 900, ..Bounds::default() }).starts_with("--max-source"));
    assert!(bounded(Bounds { unpacked: 900, ..Bounds::default() }).starts_with("--max-unpacked"));
    assert!(bounded(Bounds { entries: 1, ..Bounds::default() }).starts_with("--max-entries"));
}

#[test]
fn a_count_that_lies_is_refused() {
    let mut bytes = zip(&[deflated("func.py", CODE)]);
    let at = bytes.len() - 22;
    bytes[at + 8..at + 12].copy_from_slice(&[0xfe, 0xff, 0xfe, 0xff]);
    assert!(open(bytes).unwrap_err().to_string().contains("another number of entries"));
}

#[test]
fn zip64_that_lies_is_refused() {
    let missing = Lie { size: u32::MAX, local_size: u32::MAX, ..deflated("x", b"1") };
    assert!(refused([missing]).ends_with("has a zip64 record that lacks a number"));
    let entry = deflated("x", b"1");
    let size = u64::from(entry.size);
    let twice = Lie { extra: [zip64(&[size]), zip64(&[size])].concat(), ..entry.clone() };
    assert!(refused([twice]).ends_with("has two zip64 records"));
    let huge = Lie {
        size: u32::MAX,
        extra: zip64(&[u64::MAX]),
        local_size: u32::MAX,
        local_extra: zip64(&[u64::MAX]),
        ..entry
    };
    assert!(refused([huge]).ends_with("claims to hold more than its bytes can"));
}

#[test]
fn a_zip64_end_is_read_and_held_against_the_plain_one() {
    let honest = zip(&[deflated("func.py", CODE)]);
    let plain = honest.len() - 22;
    let start = u32::from_le_bytes(honest[plain + 16..plain + 20].try_into().unwrap());
    let size = u32::from_le_bytes(honest[plain + 12..plain + 16].try_into().unwrap());
    let with = |count: u64, size: u64, start: u64, at: u64, count16: u16| {
        let mut bytes = honest[..plain].to_vec();
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        [count, count, size, start].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend(at.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(end(count16, u32::MAX, u32::MAX, b""));
        open(bytes)
    };
    let (size, start, at) = (u64::from(size), u64::from(start), plain as u64);
    with(1, size, start, at, 0xffff).unwrap();
    with(1, size, start, at, 1).unwrap();
    for lie in [
        with(2, size, start, at, 0xffff),
        with(1, size + 1, start, at, 0xffff),
        with(1, size, start - 1, at, 0xffff),
        with(1, size, start, at + 1, 0xffff),
        with(1, u64::MAX, start, at, 0xffff),
        with(1, size, u64::MAX, at, 0xffff),
        with(u64::MAX, size, start, at, 0xffff),
        with(1, size, start, u64::MAX, 0xffff),
        with(1, size, start, at, 2),
    ] {
        lie.unwrap_err();
    }
}

#[test]
fn whiteouts_are_refused() {
    assert!(refused([deflated("a/.wh.x", b"")]).ends_with("would be taken for a deletion in a layer"));
}

#[test]
fn the_reserved_folder_is_refused() {
    assert!(refused([deflated(".fnbuild/x", b"")]).ends_with("is reserved for fnbuild"));
}

#[test]
fn one_part_of_several_is_refused() {
    let mut bytes = zip(&[deflated("func.py", CODE)]);
    let at = bytes.len() - 22;
    bytes[at + 4] = 1;
    assert!(open(bytes).unwrap_err().to_string().contains("one part of several"));
}
