//! Reading what the log writers have written: all replicas of a function in the order of time.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Error;
use super::logger::{ROTATED, rotated};
use crate::function::{FunctionName, VersionNumber};

/// One line that a function printed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    pub time: Timestamp,
    /// `stdout`, `stderr`, or `fnbuild` for what the log writer itself has to tell.
    pub stream: String,
    pub text: String,
    /// The call that it was printed in, where the runtime knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    #[serde(default)]
    pub version: VersionNumber,
    #[serde(default)]
    pub replica: String,
}

/// Which lines.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// At most this many of those that are there.
    pub tail: Option<usize>,
    /// None that are older.
    pub since: Option<Timestamp>,
    /// Go on with what is printed from here on.
    pub follow: bool,
}

/// Files of replicas that are gone, kept for each function.
const KEPT: usize = 5;

/// The most that `tail` is taken at its word for.
const MAX_TAIL: usize = 100_000;

/// Between two looks at the files while following.
const PAUSE: Duration = Duration::from_millis(100);

/// Lines on their way to a reader that is slower than the disk.
const BACKLOG: usize = 256;

const SUFFIX: &str = ".jsonl";

fn folder(data_dir: &Path, name: &FunctionName) -> PathBuf {
    data_dir.join("logs").join(name.as_str())
}

/// Where a replica's log is. Version and replica are told by the name alone.
pub(super) fn file(data_dir: &Path, name: &FunctionName, version: VersionNumber, id: &str) -> PathBuf {
    folder(data_dir, name).join(format!("v{version}.{id}{SUFFIX}"))
}

/// Where the log of a container is that is nobody's yet. No function's name begins with a dot.
pub(super) fn nobodys_file(data_dir: &Path, id: &str) -> PathBuf {
    data_dir.join("logs").join(".pool").join(format!("{id}{SUFFIX}"))
}

/// Makes the log of a container that was nobody's a replica's. Its writer follows.
pub(super) fn claim(data_dir: &Path, id: &str, file: &Path) -> Result<(), Error> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(Error::files("create", folder))?;
    }
    fs::rename(nobodys_file(data_dir, id), file).map_err(Error::files("move the log to", file))
}

/// The last texts in a log, for an error message.
pub(super) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
    let mut lines: Vec<String> = lines.take(count).map(|line| line.text).collect();
    lines.reverse();
    lines
}

/// Removes the logs of all but the latest replicas that `alive` does not know.
pub(super) fn prune(data_dir: &Path, name: &FunctionName, alive: impl Fn(&str) -> bool) {
    let mut dead: Vec<_> =
        sources(&folder(data_dir, name)).into_iter().filter(|s| !alive(&s.replica)).collect();
    dead.sort_by_key(|source| std::cmp::Reverse(fs::metadata(&source.path).and_then(|m| m.modified()).ok()));
    for source in dead.into_iter().skip(KEPT) {
        let _ = fs::remove_file(rotated(&source.path));
        let _ = fs::remove_file(&source.path);
    }
}

/// The functions that have logs here.
pub(super) fn functions(data_dir: &Path) -> HashSet<FunctionName> {
    let folders = fs::read_dir(data_dir.join("logs")).into_iter().flatten().flatten();
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok()).collect()
}

pub(super) fn remove(data_dir: &Path, name: &FunctionName) {
    let _ = fs::remove_dir_all(folder(data_dir, name));
}

/// The lines asked for, as they come. Ends at the end of the logs, or never with `follow`, or when it is dropped.
pub(super) fn read(
    data_dir: &Path,
    name: &FunctionName,
    query: LogQuery,
) -> mpsc::Receiver<Result<LogLine, Error>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut reader = Reader { folder: folder(data_dir, name), query, sources: Vec::new() };
    tokio::task::spawn_blocking(move || reader.run(&sender));
    receiver
}

type Sink = mpsc::Sender<Result<LogLine, Error>>;

struct Reader {
    folder: PathBuf,
    query: LogQuery,
    sources: Vec<Source>,
}

/// One replica's log.
struct Source {
    path: PathBuf,
    version: VersionNumber,
    replica: String,
    /// The file that is being read, and where the last whole line in it ended.
    open: Option<(File, u64)>,
}

impl Reader {
    fn run(&mut self, sink: &Sink) {
        let mut backlog = self.next_lines();
        let tail = self.query.tail.map(|tail| tail.min(MAX_TAIL));
        if let Some(tail) = tail {
            let surplus = backlog.len().saturating_sub(tail);
            backlog.drain(..surplus);
        }
        loop {
            for line in backlog {
                if sink.blocking_send(Ok(line)).is_err() {
                    return;
                }
            }
            if !self.query.follow || sink.is_closed() {
                return;
            }
            std::thread::sleep(PAUSE);
            backlog = self.next_lines();
        }
    }

    /// What all files have gained, in the order of time.
    fn next_lines(&mut self) -> VecDeque<LogLine> {
        let since = self.query.since;
        let mut lines = Vec::new();
        let mut keep = |line: LogLine| {
            if since.is_none_or(|since| line.time >= since) {
                lines.push(line);
            }
        };
        for mut source in sources(&self.folder) {
            if !self.sources.iter().any(|known| known.path == source.path) {
                source.begin(&mut keep);
                self.sources.push(source);
            }
        }
        for source in &mut self.sources {
            source.advance(&mut keep);
        }
        lines.sort_by_key(|line| line.time);
        lines.into()
    }
}

impl Source {
    /// Reads the rotated half. The newer one is opened before it, so that a rotation in between loses nothing: then both are
    /// the same file, or for a moment there is no newer one.
    fn begin(&mut self, keep: &mut impl FnMut(LogLine)) {
        self.open = File::open(&self.path).ok().map(|file| (file, 0));
        let Ok(older) = File::open(rotated(&self.path)) else { return };
        if self.open.as_ref().is_some_and(|(newer, _)| is_same(newer, &older)) {
            return;
        }
        let offset = self.parse_from(&older, 0, keep);
        self.open.get_or_insert((older, offset));
    }

    /// Reads on from where the last look ended, through a rotation that came between.
    fn advance(&mut self, keep: &mut impl FnMut(LogLine)) {
        if self.open.is_none() {
            self.open = File::open(&self.path).ok().map(|file| (file, 0));
        }
        let Some((file, offset)) = self.open.take() else { return };
        let offset = self.parse_from(&file, offset, keep);
        match File::open(&self.path) {
            Ok(next) if !is_same(&file, &next) => {
                // The rest of the old one, written between the read and the rename.
                self.parse_from(&file, offset, keep);
                let offset = self.parse_from(&next, 0, keep);
                self.open = Some((next, offset));
            }
            _ => self.open = Some((file, offset)),
        }
    }

    /// Gives the whole lines from `offset` on; returns where they end.
    fn parse_from(&self, mut file: &File, mut offset: u64, keep: &mut impl FnMut(LogLine)) -> u64 {
        if file.seek(SeekFrom::Start(offset)).is_err() {
            return offset;
        }
        let mut reader = BufReader::new(file);
        let mut text = Vec::new();
        while matches!(read_line(&mut reader, &mut text), Ok(true)) {
            offset += text.len() as u64;
            if let Ok(line) = serde_json::from_slice::<LogLine>(&text) {
                keep(LogLine { version: self.version, replica: self.replica.clone(), ..line });
            }
        }
        offset
    }
}

/// A whole line into `text`; false at the end, or at a line that is still being written.
fn read_line(reader: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<bool> {
    text.clear();
    reader.read_until(b'\n', text)?;
    Ok(text.ends_with(b"\n"))
}

fn is_same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
    matches!((inode(one), inode(other)), (Ok(one), Ok(other)) if one == other)
}

/// The logs in a function's folder. Amid a rotation there is but the rotated half.
fn sources(folder: &Path) -> Vec<Source> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names: BTreeSet<String> = names.map(|name| name.trim_end_matches(ROTATED).into()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let (version, replica) = name.strip_suffix(SUFFIX)?.strip_prefix('v')?.split_once('.')?;
            let (version, replica) = (version.parse().ok()?, replica.to_string());
            Some(Source { path: folder.join(&name), version, replica, open: None })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(second: i64, text: &str) -> String {
        let time = Timestamp::from_second(second).unwrap();
        format!("{}\n", serde_json::json!({ "time": time, "stream": "stdout", "text": text }))
    }

    fn drain(mut lines: mpsc::Receiver<Result<LogLine, Error>>) -> Vec<String> {
        std::iter::from_fn(|| lines.blocking_recv()).map(|line| line.unwrap().text).collect()
    }

    #[test]
    fn replicas_are_merged_by_time_and_rotated_halves_come_first() {
        let data = tempfile::tempdir().unwrap();
        let name: FunctionName = "add".parse().unwrap();
        let [a, b] = [file(data.path(), &name, 1, "add-a"), file(data.path(), &name, 2, "add-b")];
        fs::create_dir_all(a.parent().unwrap()).unwrap();
        fs::write(rotated(&a), line(1, "one")).unwrap();
        fs::write(&a, line(3, "three") + &line(5, "five")).unwrap();
        fs::write(&b, line(2, "two") + &line(4, "four") + "{\"time\":").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let all = read(data.path(), &name, LogQuery::default());
        assert_eq!(drain(all), ["one", "two", "three", "four", "five"]);
        let since = Some(Timestamp::from_second(3).unwrap());
        let some = read(data.path(), &name, LogQuery { since, tail: Some(2), follow: false });
        assert_eq!(drain(some), ["four", "five"]);
        // Amid a rotation: the file has its other name already, and the next one is still to be made.
        fs::rename(&a, rotated(&a)).unwrap();
        assert_eq!(drain(read(data.path(), &name, LogQuery::default())), ["two", "three", "four", "five"]);
    }
}
