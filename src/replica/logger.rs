//! The log writer: the program that containerd's shim starts for each replica (`binary://`), and that lives as long as
//! the replica does, whatever happens to the server.
//!
//! It reads the replica's two streams and writes lines of JSON with time, stream, text, and the call that the line was
//! printed in, where fnbuild's runtime says so. It bounds what it writes: at
//! half the limit the file is renamed to `….1`, over the one before. A function that prints without end is slowed to
//! [`RATE`] and never stopped: what the disk does not take in time is dropped, counted, and told in the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::Error;

/// The hidden verb of the command line that runs [`run`].
pub const VERB: &str = "log-writer";

/// Bytes of one line; what is longer becomes several.
const MAX_LINE: usize = 16 << 10;

/// Lines that wait for the disk.
const BACKLOG: usize = 1024;

/// Bytes in a second that are read from one stream: far more than anybody reads, little enough for one CPU.
const RATE: u64 = 16 << 20;

/// The descriptors that the shim hands over.
const STDOUT: &str = "/proc/self/fd/3";
const STDERR: &str = "/proc/self/fd/4";
const READY: i32 = 5;

#[derive(Serialize)]
struct Line<'a> {
    time: Timestamp,
    stream: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
    text: &'a str,
}

struct Message {
    time: Timestamp,
    stream: &'static str,
    call: Option<String>,
    text: Vec<u8>,
}

/// What to give containerd as the task's output. The shim passes a query's key and value as two arguments.
pub(super) fn uri(program: &Path, log: &Path, max_bytes: u64) -> Result<String, Error> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(Error::files("create", folder))?;
    }
    let target = format!("{max_bytes}:{}", log.display());
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let program: String = program.display().to_string();
    let program: Vec<String> = program.split('/').map(encode).collect();
    Ok(format!("binary://{}?{VERB}={}", program.join("/"), encode(&target)))
}

/// Reads `BYTES:PATH`, the log writer's only argument.
pub fn parse_target(text: &str) -> Option<(u64, PathBuf)> {
    let (bytes, path) = text.split_once(':')?;
    Some((bytes.parse().ok()?, path.into()))
}

/// Writes the replica's log until both of its streams have ended.
pub fn run(max_bytes: u64, path: &Path) -> io::Result<()> {
    // The shim sends SIGTERM when the replica has ended; what is still in the pipes must be written all the same.
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTERM);
    signals.thread_block()?;
    let streams = [("stdout", File::open(STDOUT)?), ("stderr", File::open(STDERR)?)];
    let mut file = Rotating::open(path, max_bytes)?;
    let (sender, receiver) = sync_channel(BACKLOG);
    let dropped = Arc::new(AtomicU64::new(0));
    for (name, stream) in streams {
        let (sender, dropped) = (sender.clone(), dropped.clone());
        std::thread::spawn(move || read(name, stream, &sender, &dropped));
    }
    drop(sender);
    // Closing it tells the shim that the replica may start.
    let _ = nix::unistd::close(READY);
    write(&receiver, &mut file, &dropped);
    Ok(())
}

/// Cuts a stream into lines and passes them on, or counts them where the writer is behind.
fn read(name: &'static str, mut stream: impl Read, lines: &SyncSender<Message>, dropped: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    let mut rest: Vec<u8> = Vec::new();
    let mut allowance = Allowance::new(RATE);
    // Of the line whose beginning was passed on and whose end was not.
    let mut open: Option<String> = None;
    let mut pass = |line: &[u8]| {
        let (call, text) = match marked(line) {
            Some((call, text)) => (Some(call.to_string()), text),
            None => (open.take(), line),
        };
        let (text, whole) = text.strip_suffix(b"\n").map_or((text, false), |text| (text, true));
        open = call.clone().filter(|_| !whole);
        let message = Message { time: Timestamp::now(), stream: name, call, text: text.to_vec() };
        match lines.try_send(message) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        rest.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let mut start = 0;
        while let Some(length) = next_line(rest.get(start..).unwrap_or_default()) {
            let line = rest.get(start..start + length).unwrap_or_default();
            pass(line);
            start += length;
        }
        rest.drain(..start);
        allowance.spend(count as u64);
    }
    if !rest.is_empty() {
        pass(&rest);
    }
}

/// The call that a line says it belongs to, and the line itself: the runtime puts the ID between two control characters.
fn marked(line: &[u8]) -> Option<(&str, &[u8])> {
    let rest = line.strip_prefix(b"\x1e")?;
    let end = rest.iter().position(|byte| *byte == b'\x1f')?;
    let (call, text) = rest.split_at_checked(end)?;
    let call = std::str::from_utf8(call).ok().filter(|call| call.len() <= 128 && call.is_ascii())?;
    Some((call, text.get(1..)?))
}

/// How many bytes the next line takes with its end, or the next piece of one that is too long.
fn next_line(bytes: &[u8]) -> Option<usize> {
    let window = bytes.get(..MAX_LINE).unwrap_or(bytes);
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => Some(end + 1),
        None => (bytes.len() >= MAX_LINE).then_some(MAX_LINE),
    }
}

/// Writes what comes, everything that waits with one call. A disk that is full loses lines, not the function.
fn write(lines: &Receiver<Message>, file: &mut Rotating, dropped: &AtomicU64) {
    let mut batch = Vec::new();
    while let Ok(first) = lines.recv() {
        for message in std::iter::once(first).chain(lines.try_iter().take(BACKLOG)) {
            let text = String::from_utf8_lossy(&message.text);
            let (time, stream, call) = (message.time, message.stream, message.call.as_deref());
            encode(&mut batch, &Line { time, stream, call, text: &text });
        }
        note_dropped(&mut batch, dropped);
        let _ = file.write(&batch);
        batch.clear();
    }
    note_dropped(&mut batch, dropped);
    let _ = file.write(&batch);
}

fn note_dropped(batch: &mut Vec<u8>, dropped: &AtomicU64) {
    match dropped.swap(0, Ordering::Relaxed) {
        0 => {}
        count => {
            let text = format!("{count} lines dropped: printed too fast");
            encode(batch, &Line { time: Timestamp::now(), stream: "fnbuild", call: None, text: &text });
        }
    }
}

fn encode(batch: &mut Vec<u8>, line: &Line) {
    // Into memory, of plain text: it cannot fail.
    let _ = serde_json::to_writer(&mut *batch, line);
    batch.push(b'\n');
}

/// A file of at most half the limit, and the one before it.
struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    half: u64,
}

impl Rotating {
    fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.into(), file, size, half: max_bytes / 2 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.half {
            // It may have been moved since: see `logs::claim`.
            self.path = fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
            fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(&self.path, self.half * 2)?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// What the older half of a log is called, behind the newer one's name.
pub(super) const ROTATED: &str = ".1";

/// Where the older half of a log is.
pub(super) fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ROTATED);
    name.into()
}

/// A budget of bytes for each tick. Who has spent it sleeps until the next.
struct Allowance {
    per_tick: u64,
    spent: u64,
    tick: Instant,
}

impl Allowance {
    const TICK: Duration = Duration::from_millis(5);

    fn new(per_second: u64) -> Self {
        Self { per_tick: per_second / 200, spent: 0, tick: Instant::now() }
    }

    fn spend(&mut self, bytes: u64) {
        let elapsed = self.tick.elapsed();
        if elapsed >= Self::TICK {
            (self.spent, self.tick) = (0, Instant::now());
        }
        self.spent += bytes;
        if self.spent > self.per_tick {
            std::thread::sleep(Self::TICK.saturating_sub(elapsed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(input: &[u8]) -> Vec<String> {
        let (sender, receiver) = sync_channel(BACKLOG);
        read("stdout", input, &sender, &AtomicU64::new(0));
        drop(sender);
        receiver.into_iter().map(|line| String::from_utf8(line.text).unwrap()).collect()
    }

    #[test]
    fn a_marked_line_belongs_to_its_call_to_its_end() {
        let (sender, receiver) = sync_channel(BACKLOG);
        let long = "x".repeat(MAX_LINE);
        let input = format!("plain\n\x1ea\x1fone\n\x1eb\x1f{long}\nafter\n\x1eno end\n");
        read("stdout", input.as_bytes(), &sender, &AtomicU64::new(0));
        drop(sender);
        let lines: Vec<(Option<String>, usize)> =
            receiver.into_iter().map(|line| (line.call, line.text.len())).collect();
        let call = |name: &str| Some(name.to_string());
        let expected =
            [(None, 5), (call("a"), 3), (call("b"), MAX_LINE - 3), (call("b"), 3), (None, 5), (None, 7)];
        assert_eq!(lines, expected);
    }

    #[test]
    fn streams_become_lines_and_long_lines_become_several() {
        assert_eq!(texts(b"a\n\nb"), ["a", "", "b"]);
        let long = "x".repeat(MAX_LINE + 10);
        assert_eq!(texts(long.as_bytes()).iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 10]);
    }

    #[test]
    fn a_log_never_grows_beyond_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        let mut file = Rotating::open(&path, 10_000).unwrap();
        for number in 0..1000 {
            file.write(format!("{number:0>99}\n").as_bytes()).unwrap();
        }
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&path) + size(&rotated(&path)) <= 10_000);
        assert!(fs::read_to_string(&path).unwrap().ends_with("999\n"));
    }

    #[test]
    fn a_log_that_was_moved_is_rotated_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let [before, after] = ["before", "after"].map(|name| folder.path().join(name));
        let mut file = Rotating::open(&before, 100).unwrap();
        fs::rename(&before, &after).unwrap();
        for _ in 0..3 {
            file.write(&[b'x'; 40]).unwrap();
        }
        assert!(!before.exists() && after.exists() && rotated(&after).exists());
    }

    #[test]
    fn what_the_writer_cannot_take_is_dropped_and_told() {
        let (sender, receiver) = sync_channel(1);
        let dropped = AtomicU64::new(0);
        read("stdout", &b"a\nb\nc\n"[..], &sender, &dropped);
        drop(sender);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        write(&receiver, &mut Rotating::open(&path, 1 << 20).unwrap(), &dropped);
        let log = fs::read_to_string(&path).unwrap();
        assert!(log.contains(r#""text":"a""#) && log.contains("2 lines dropped"), "{log}");
    }

    #[test]
    fn the_uri_survives_odd_paths() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a b&c.jsonl");
        let uri = uri(Path::new("/usr/bin/fn build"), &log, 7).unwrap();
        assert!(uri.starts_with("binary:///usr/bin/fn%20build?log-writer=7%3A"), "{uri}");
        assert!(!uri.contains(' ') && uri.matches('&').count() == 0);
        assert_eq!(parse_target("7:/a:b"), Some((7, "/a:b".into())));
    }
}
