//! The calls on disk, in a folder of their own: sled for what is small, a file for each large body.
//!
//! - What [`Disk::keep`] has kept is on the disk. Calls that come at the same time share one flush.
//! - A call that is forgotten may come back after a power cut or `kill -9`: it is made again, never lost.
//! - A body's file goes only when it is on the disk that nobody needs it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sled::{Db, Tree};

use super::call::{Call, Number, Progress};
use super::error::QueueError;

/// The layout of the folder: which trees there are, and what is in them.
pub const FORMAT: u32 = 1;

/// A larger body has a file of its own: sled writes a value again when its neighbours change.
const INLINE: usize = 16 << 10;
/// sled's own default is 1 GiB.
const CACHE_BYTES: u64 = 16 << 20;
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const FORMAT_KEY: &str = "format";

/// The folder of one node's queue, which no other process has open.
pub struct Disk {
    db: Db,
    /// Number → the call, and its body where that is small. Never changed.
    calls: Tree,
    /// Number → how far the call has come.
    progress: Tree,
    /// Schedule → the last tick of it that was made a call here.
    ticks: Tree,
    bodies: PathBuf,
    place: String,
    written: AtomicU64,
    /// Held by the one who flushes; how much of `written` is known to be durable.
    durable: tokio::sync::Mutex<u64>,
    /// Calls whose bodies' files are to go.
    forgotten: Mutex<Vec<Number>>,
}

/// A call that was there when the folder was opened.
type Found = (Number, Call, Progress);

/// A call with everything that is kept of it.
pub struct Kept {
    pub call: Call,
    pub progress: Progress,
    pub body: Bytes,
}

impl Disk {
    /// Opens the folder, or makes it, and gives every call that is in it.
    pub fn open(folder: &Path) -> Result<(Self, Vec<Found>), QueueError> {
        let place = folder.display().to_string();
        let bodies = folder.join("bodies");
        let failed = |step| disk(step, &place);
        // Bodies and headers are nobody else's business.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&bodies).map_err(failed("make"))?;
        std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(failed("make"))?;
        let db = open_database(&folder.join("calls")).map_err(disk("open", &place))?;
        check_format(&db, &place)?;
        let tree = |name: &str| db.open_tree(name).map_err(disk("open", &place));
        let opened = Self {
            calls: tree("calls")?,
            progress: tree("progress")?,
            ticks: tree("ticks")?,
            bodies,
            written: AtomicU64::new(0),
            durable: tokio::sync::Mutex::new(0),
            forgotten: Mutex::default(),
            place,
            db,
        };
        let calls = opened.read_through()?;
        opened.clear(&calls)?;
        Ok((opened, calls))
    }

    /// A number that is higher than all before it.
    pub fn number(&self) -> Result<Number, QueueError> {
        self.db.generate_id().map_err(disk("number a call in", &self.place))
    }

    /// Writes a call down, and returns when it is on the disk.
    pub async fn keep(&self, number: Number, call: &Call, body: Bytes) -> Result<(), QueueError> {
        let inline = if body.len() > INLINE {
            self.write_body(number, body).await?;
            Bytes::new()
        } else {
            body
        };
        let head = serde_json::to_vec(call).map_err(disk("write to", &self.place))?;
        let length = u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes();
        let value = [&length, head.as_slice(), &inline].concat();
        self.calls.insert(number.to_be_bytes(), value).map_err(disk("write to", &self.place))?;
        let flushed = self.flush().await;
        if flushed.is_err() {
            self.forget(number);
        }
        flushed
    }

    /// Notes how far a call has come. On the disk a moment later: what is lost of it is done again.
    pub fn note(&self, number: Number, progress: &Progress) -> Result<(), QueueError> {
        let bytes = serde_json::to_vec(progress).map_err(disk("write to", &self.place))?;
        self.progress.insert(number.to_be_bytes(), bytes).map_err(disk("write to", &self.place))?;
        Ok(())
    }

    /// Takes a call away. What cannot be taken away is made once more after the next start.
    pub fn forget(&self, number: Number) {
        let key = number.to_be_bytes();
        if let Err(error) = self.calls.remove(key).and_then(|_| self.progress.remove(key)) {
            tracing::warn!(%error, place = self.place, "a call that is done is still in the queue");
            return;
        }
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(number);
    }

    /// `None`: it is not there any more.
    pub async fn read(&self, number: Number) -> Result<Option<Kept>, QueueError> {
        let Some((call, inline)) = self.call(number)? else { return Ok(None) };
        let body = if call.length as usize > INLINE {
            let read = tokio::fs::read(self.body(number)).await;
            Bytes::from(read.map_err(disk("read a body from", &self.place))?)
        } else {
            inline
        };
        Ok(Some(Kept { progress: self.progress_of(number, &call)?, call, body }))
    }

    /// A call without its body.
    pub fn head(&self, number: Number) -> Result<Option<(Call, Progress)>, QueueError> {
        let Some((call, _)) = self.call(number)? else { return Ok(None) };
        let progress = self.progress_of(number, &call)?;
        Ok(Some((call, progress)))
    }

    /// The last tick of a schedule that was made a call at this node.
    pub fn tick(&self, schedule: &str) -> Result<Option<i64>, QueueError> {
        let found = self.ticks.get(schedule).map_err(disk("read", &self.place))?;
        Ok(found.and_then(|bytes| Some(i64::from_be_bytes(bytes.as_ref().try_into().ok()?))))
    }

    /// Notes that a tick was made a call, after the call was kept.
    pub fn note_tick(&self, schedule: &str, tick: i64) -> Result<(), QueueError> {
        self.ticks.insert(schedule, &tick.to_be_bytes()).map_err(disk("write to", &self.place))?;
        Ok(())
    }

    /// Forgets the ticks of schedules that are gone.
    pub fn retain_ticks(&self, is_there: impl Fn(&str) -> bool) -> Result<(), QueueError> {
        for entry in &self.ticks {
            let (key, _) = entry.map_err(disk("read", &self.place))?;
            if !std::str::from_utf8(&key).is_ok_and(&is_there) {
                self.ticks.remove(key).map_err(disk("write to", &self.place))?;
            }
        }
        Ok(())
    }

    /// Deletes the files of bodies that nobody needs.
    pub async fn tidy(&self) -> Result<(), QueueError> {
        let forgotten = std::mem::take(&mut *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner));
        if forgotten.is_empty() {
            return Ok(());
        }
        self.flush().await?;
        for number in forgotten {
            // Most have none. One that stays behind goes at the next start.
            let _ = tokio::fs::remove_file(self.body(number)).await;
        }
        Ok(())
    }

    /// Returns when everything written before is on the disk. Whoever waited while another flushed finds it done.
    pub async fn flush(&self) -> Result<(), QueueError> {
        let mine = self.written.fetch_add(1, Ordering::SeqCst) + 1;
        let mut durable = self.durable.lock().await;
        if *durable >= mine {
            return Ok(());
        }
        let written = self.written.load(Ordering::SeqCst);
        self.db.flush_async().await.map_err(disk("flush", &self.place))?;
        *durable = written;
        Ok(())
    }

    fn call(&self, number: Number) -> Result<Option<(Call, Bytes)>, QueueError> {
        let found = self.calls.get(number.to_be_bytes()).map_err(disk("read", &self.place))?;
        found.map(|value| decode(&value).map_err(disk("read a call from", &self.place))).transpose()
    }

    fn progress_of(&self, number: Number, call: &Call) -> Result<Progress, QueueError> {
        let found = self.progress.get(number.to_be_bytes()).map_err(disk("read", &self.place))?;
        let read = |bytes: sled::IVec| serde_json::from_slice(&bytes).map_err(disk("read", &self.place));
        Ok(found.map(read).transpose()?.unwrap_or_else(|| Progress::begun(call.accepted)))
    }

    fn read_through(&self) -> Result<Vec<Found>, QueueError> {
        let mut found = Vec::new();
        for entry in &self.calls {
            let (key, value) = entry.map_err(disk("read", &self.place))?;
            let number = number_of(&key).ok_or_else(|| damaged(&self.place))?;
            let (call, _) = decode(&value).map_err(disk("read a call from", &self.place))?;
            let progress = self.progress_of(number, &call)?;
            found.push((number, call, progress));
        }
        Ok(found)
    }

    /// Takes away what belongs to no call: of calls that were never acknowledged, or are done.
    fn clear(&self, calls: &[Found]) -> Result<(), QueueError> {
        let is_there = |number: Number| calls.binary_search_by_key(&number, |(number, ..)| *number).is_ok();
        for entry in &self.progress {
            let (key, _) = entry.map_err(disk("read", &self.place))?;
            if !number_of(&key).is_some_and(is_there) {
                self.progress.remove(key).map_err(disk("write to", &self.place))?;
            }
        }
        for file in std::fs::read_dir(&self.bodies).map_err(disk("read", &self.place))? {
            let file = file.map_err(disk("read", &self.place))?;
            let number = file.file_name().to_str().and_then(|name| name.parse::<Number>().ok());
            if !number.is_some_and(is_there) {
                std::fs::remove_file(file.path()).map_err(disk("clear", &self.place))?;
            }
        }
        Ok(())
    }

    async fn write_body(&self, number: Number, body: Bytes) -> Result<(), QueueError> {
        let (path, folder) = (self.body(number), self.bodies.clone());
        let written = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&body)?;
            file.sync_data()?;
            File::open(folder)?.sync_all()
        });
        let written = written.await.map_err(|_| QueueError::Interrupted)?;
        written.map_err(disk("write a body to", &self.place))
    }

    fn body(&self, number: Number) -> PathBuf {
        self.bodies.join(number.to_string())
    }
}

fn open_database(path: &Path) -> sled::Result<Db> {
    let started = Instant::now();
    loop {
        match sled::Config::default().path(path).cache_capacity(CACHE_BYTES).open() {
            // One that was dropped keeps its lock until sled's own threads have let go of it.
            Err(sled::Error::Io(error))
                if error.to_string().contains("lock") && started.elapsed() < LOCK_PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn decode(value: &[u8]) -> Result<(Call, Bytes), io::Error> {
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short");
    let (length, rest) = value.split_first_chunk().ok_or_else(cut)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (head, inline) = rest.split_at_checked(length).ok_or_else(cut)?;
    Ok((serde_json::from_slice(head)?, Bytes::copy_from_slice(inline)))
}

fn number_of(key: &[u8]) -> Option<Number> {
    Some(Number::from_be_bytes(key.try_into().ok()?))
}

fn check_format(db: &Db, place: &str) -> Result<(), QueueError> {
    let Some(found) = db.get(FORMAT_KEY).map_err(disk("read", place))? else {
        db.insert(FORMAT_KEY, FORMAT.to_string().as_bytes())
            .and_then(|_| db.flush())
            .map_err(disk("make", place))?;
        return Ok(());
    };
    let number = std::str::from_utf8(&found).ok().and_then(|text| text.parse::<u32>().ok());
    match number {
        Some(found) if found > FORMAT => Err(QueueError::Newer { place: place.into(), found }),
        Some(_) => Ok(()),
        None => Err(damaged(place)),
    }
}

fn damaged(place: &str) -> QueueError {
    disk("read", place)(io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
}

fn disk<E>(step: &'static str, place: &str) -> impl FnOnce(E) -> QueueError + Clone
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let place = place.to_string();
    move |source| QueueError::Disk { step, place, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, body: &[u8]) -> Call {
        Call {
            id: id.into(),
            target: "add".parse().unwrap(),
            method: http::Method::POST,
            path: http::uri::PathAndQuery::from_static("/"),
            headers: Default::default(),
            callback: None,
            accepted: 7,
            length: body.len() as u64,
            schedule: None,
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_there_after_another_start_and_what_is_forgotten_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("queue");
        let bodies = [b"{}".to_vec(), vec![7; INLINE + 1], vec![8; INLINE + 1]];
        {
            let (disk, found) = Disk::open(&place).unwrap();
            assert!(found.is_empty());
            for body in &bodies {
                let number = disk.number().unwrap();
                disk.keep(number, &call(&number.to_string(), body), body.clone().into()).await.unwrap();
            }
            disk.note(1, &Progress { attempts: 3, ..Progress::begun(9) }).unwrap();
            disk.note_tick("add.1", 5).unwrap();
            disk.forget(2);
            disk.tidy().await.unwrap();
            assert!(disk.body(1).exists() && !disk.body(2).exists());
            std::fs::write(disk.body(77), "never acknowledged").unwrap();
        }
        let (disk, found) = Disk::open(&place).unwrap();
        assert_eq!(found.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [0, 1]);
        let kept = disk.read(1).await.unwrap().unwrap();
        assert_eq!((kept.body, kept.progress.attempts), (Bytes::from(bodies[1].clone()), 3));
        let first = disk.read(0).await.unwrap().unwrap();
        assert_eq!((first.body, first.progress), (Bytes::from_static(b"{}"), Progress::begun(7)));
        assert_eq!(disk.tick("add.1").unwrap(), Some(5));
        disk.retain_ticks(|_| false).unwrap();
        assert_eq!(disk.tick("add.1").unwrap(), None);
        assert!(disk.read(2).await.unwrap().is_none() && !disk.body(77).exists());
        assert!(disk.number().unwrap() > 2, "no number comes back");
    }

    #[tokio::test]
    async fn a_newer_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Disk::open(folder.path()).unwrap());
        let db = sled::open(folder.path().join("calls")).unwrap();
        db.insert(FORMAT_KEY, "2").unwrap();
        drop(db);
        assert!(matches!(Disk::open(folder.path()), Err(QueueError::Newer { found: 2, .. })));
    }
}
