//! How much memory a push of a large zip takes: a bound that does not grow with the zip.
//!
//! Counted is `RssAnon` of `/proc/PID/status`, the largest that is seen while the program runs: what it has made for
//! itself. Pages of the mapped zip are not in it; the kernel drops those whenever it needs the room.

use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::push::Home;
use super::support::registry::DockerRegistry;

/// A zip of this many deflated files with `packed` bytes or a little more each, all of them with the same content: what
/// is compressed once is copied from then on.
fn write_zip(path: &Path, files: usize, packed: usize) {
    let noise: Vec<u8> = (0..packed as u32 / 4)
        .flat_map(|i| (i ^ 0x9e37).wrapping_mul(2_654_435_761).rotate_left(i % 32).to_le_bytes())
        .collect();
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let mut one = ZipWriter::new(Cursor::new(Vec::new()));
    one.start_file("one", options).unwrap();
    one.write_all(&noise).unwrap();
    one.write_all(&vec![b'#'; packed / 3]).unwrap();
    let mut one = ZipArchive::new(one.finish().unwrap()).unwrap();

    let file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path).unwrap());
    let mut zip = ZipWriter::new(file);
    zip.start_file("func.py", options).unwrap();
    zip.write_all(b"def run():\n    pass\n").unwrap();
    for number in 0..files {
        let name = format!("package_{:03}/subpackage/a_module_with_a_name_{number:06}.py", number % 331);
        zip.raw_copy_file_rename(one.by_index_raw(0).unwrap(), name).unwrap();
    }
    zip.finish().unwrap().flush().unwrap();
}

/// The largest `RssAnon` of a command, in KiB. It must succeed.
fn peak(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let (mut peak, mut seen) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        if let Some(kib) = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()) {
            (peak, seen) = (peak.max(kib), seen + 1);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(seen > 20, "the program was looked at {seen} times only");
    peak
}

fn push(home: &Home, server: &DockerRegistry, more: &[&str]) -> u64 {
    peak(home.fnbuild(&server.host()).args(["push", "large.zip", "--image-only"]).args(more))
}

#[test]
fn a_zip_of_50_mb_takes_at_most_20_mib() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    write_zip(&home.path("large.zip"), 2_450, 20 << 10);
    let size = std::fs::metadata(home.path("large.zip")).unwrap().len();
    assert!((50_000_000..50 << 20).contains(&size), "{size}");
    let peak = push(&home, &server, &[]);
    println!("{size} bytes: {peak} KiB");
    assert!(peak <= 20 << 10, "{peak} KiB");
}

/// The entries count, whatever is in them. scripts/soak has them large, so that the zip comes to 2 GB.
#[test]
fn a_zip_of_100_000_entries_takes_at_most_32_mib() {
    let large = std::env::var_os("FNBUILD_TEST_LARGE").is_some();
    let (home, server) = (Home::new(), DockerRegistry::start());
    write_zip(&home.path("large.zip"), 99_668, if large { 22 << 10 } else { 256 });
    let size = std::fs::metadata(home.path("large.zip")).unwrap().len();
    assert!(!large || size > 2 << 30, "{size}");
    let bounds = ["--max-source", "3Gi", "--max-unpacked", "4Gi", "--max-entries", "101000"];
    let peak = push(&home, &server, &bounds);
    println!("{size} bytes: {peak} KiB");
    assert!(peak <= 32 << 10, "{peak} KiB");
}
