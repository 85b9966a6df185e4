//! Everything that a store holds as JSON lines, and back: between stores, and for backups.
//!
//! The first line says what this is, the last how many lines there were between, so that a file that was cut short is
//! refused before anything of it is written. Values stay as opaque as they are in a store: secrets stay sealed.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{FunctionStore, StoreError, ValueKey, codec};
use crate::function::FunctionRecord;

const FORMAT: u32 = 1;
const PAGE: usize = 256;
/// Writers at once: each waits for a disk or for etcd most of the time.
const WRITERS: usize = 64;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    /// The format.
    FnbuildStore(u32),
    Function(serde_json::Value),
    Value {
        key: String,
        base64: String,
    },
    End {
        lines: u64,
    },
}

/// How much was written, and how much was there already as it was to become.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Transferred {
    pub functions: u64,
    pub values: u64,
    pub unchanged: u64,
}

/// What can go wrong between a store and a file.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("line {line} is not one of an exported store")]
    NotALine {
        line: u64,
        #[source]
        source: serde_json::Error,
    },
    #[error("this is not an exported store: {what}")]
    NotAnExport { what: &'static str },
    #[error("the export has format {found}; this fnbuild reads format {FORMAT}")]
    NewerExport { found: u32 },
    #[error("the export ends early or was changed: it says {said} lines and has {found}")]
    Incomplete { said: u64, found: u64 },
    #[error("{key} is in the store already, and differs")]
    Differs { key: String },
    #[error("cannot {step} the export")]
    File {
        step: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TransferError {
    /// The next step for the person who sees this.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Differs { .. } => Some("give --replace to let the export win".into()),
            Self::NewerExport { .. } => Some("run the newer fnbuild that wrote it".into()),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}

/// Writes all of a store. Nothing else should change it meanwhile: there is no snapshot.
pub async fn export(
    store: &dyn FunctionStore,
    to: &mut (dyn Write + Send),
) -> Result<Transferred, TransferError> {
    let mut done = Transferred::default();
    write_line(to, &Line::FnbuildStore(FORMAT))?;
    let mut after = None;
    loop {
        let page = store.list(after.as_ref(), PAGE).await?;
        for stored in &page.records {
            let record = serde_json::to_value(&stored.record).map_err(|source| StoreError::Unwritable {
                name: stored.record.name.clone(),
                source: source.into(),
            })?;
            write_line(to, &Line::Function(record))?;
            done.functions += 1;
        }
        after = page.records.into_iter().next_back().map(|stored| stored.record.name);
        if !page.more {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = store.values(None, after.as_ref(), PAGE).await?;
        for value in page.values.iter().filter(|value| !value.key.is_of_now()) {
            let base64 = BASE64.encode(&value.bytes);
            write_line(to, &Line::Value { key: value.key.as_str().into(), base64 })?;
            done.values += 1;
        }
        after = page.values.into_iter().next_back().map(|value| value.key);
        if !page.more {
            break;
        }
    }
    write_line(to, &Line::End { lines: done.functions + done.values })?;
    to.flush().map_err(|source| TransferError::File { step: "write", source })?;
    Ok(done)
}

/// Reads an export through once: what is wrong with it is said before anything is written.
pub fn verify(from: &mut dyn BufRead) -> Result<(), TransferError> {
    let mut keys = BTreeSet::new();
    for item in items(from) {
        if !keys.insert(item?.key()) {
            return Err(TransferError::NotAnExport { what: "it has something twice" });
        }
    }
    Ok(())
}

/// Writes a verified export into a store. What is there already stays, if it is the same; if it differs it is replaced
/// or, without `replace`, an error. Run again after an error, it goes on where it was.
pub async fn import(
    store: &dyn FunctionStore,
    from: &mut (dyn BufRead + Send),
    replace: bool,
) -> Result<Transferred, TransferError> {
    let written = stream::iter(items(from))
        .map(|item| async move { item?.write(store, replace).await })
        .buffer_unordered(WRITERS);
    let add = async |sum: Transferred, one: Transferred| {
        Ok(Transferred {
            functions: sum.functions + one.functions,
            values: sum.values + one.values,
            unchanged: sum.unchanged + one.unchanged,
        })
    };
    written.try_fold(Transferred::default(), add).await
}

/// One thing of a store.
enum Item {
    Function(Box<FunctionRecord>),
    Value(ValueKey, Vec<u8>),
}

impl Item {
    fn key(&self) -> String {
        match self {
            Self::Function(record) => record.name.to_string(),
            // A function's name has no slash.
            Self::Value(key, _) => key.to_string(),
        }
    }

    async fn write(self, store: &dyn FunctionStore, replace: bool) -> Result<Transferred, TransferError> {
        let unchanged = Transferred { unchanged: 1, ..Transferred::default() };
        let differs = || TransferError::Differs { key: self.key() };
        match &self {
            Self::Function(record) => {
                match store.get(&record.name).await? {
                    None => store.create(record).await?,
                    Some(found) if found.record == **record => return Ok(unchanged),
                    Some(found) if replace => store.update(record, found.revision).await?,
                    Some(_) => return Err(differs()),
                };
                Ok(Transferred { functions: 1, ..Transferred::default() })
            }
            Self::Value(key, bytes) => {
                let found = store.value(key).await?;
                match &found {
                    Some(found) if found.bytes == *bytes => return Ok(unchanged),
                    Some(_) if !replace => return Err(differs()),
                    _ => {}
                }
                store.swap_value(key, found.map(|found| found.revision), Some(bytes)).await?;
                Ok(Transferred { values: 1, ..Transferred::default() })
            }
        }
    }
}

/// The items between the first line and the last; an error is the end.
fn items<'a, R: BufRead + ?Sized>(
    from: &'a mut R,
) -> impl Iterator<Item = Result<Item, TransferError>> + use<'a, R> {
    let mut reader = Reader { from, line: 0, ended: false };
    std::iter::from_fn(move || if reader.ended { None } else { reader.next().transpose() })
}

struct Reader<'a, R: ?Sized> {
    from: &'a mut R,
    line: u64,
    ended: bool,
}

impl<R: BufRead + ?Sized> Reader<'_, R> {
    fn next(&mut self) -> Result<Option<Item>, TransferError> {
        let item = self.item();
        self.ended = !matches!(item, Ok(Some(_)));
        item
    }

    fn item(&mut self) -> Result<Option<Item>, TransferError> {
        if self.line == 0 {
            match self.line()? {
                Line::FnbuildStore(FORMAT) => {}
                Line::FnbuildStore(found) => return Err(TransferError::NewerExport { found }),
                _ => return Err(TransferError::NotAnExport { what: "its first line does not say so" }),
            }
        }
        match self.line()? {
            Line::Function(record) => {
                let key =
                    record.get("name").and_then(serde_json::Value::as_str).unwrap_or("a function").to_owned();
                Ok(Some(Item::Function(Box::new(codec::read_older(record, &key)?))))
            }
            Line::Value { key, base64 } => {
                let bytes = BASE64.decode(base64);
                let bytes =
                    bytes.map_err(|_| TransferError::NotAnExport { what: "a value is not base64" })?;
                Ok(Some(Item::Value(key.parse()?, bytes)))
            }
            // The first line and this one are not counted.
            Line::End { lines } if lines + 2 == self.line => Ok(None),
            Line::End { lines } => {
                Err(TransferError::Incomplete { said: lines, found: self.line.saturating_sub(2) })
            }
            Line::FnbuildStore(_) => Err(TransferError::NotAnExport { what: "it begins twice" }),
        }
    }

    fn line(&mut self) -> Result<Line, TransferError> {
        // A value of the largest size in base64, a record of etcd's largest: with room to spare.
        const LONGEST: u64 = 16 << 20;
        let mut text = Vec::new();
        let mut limited = std::io::Read::take(&mut *self.from, LONGEST);
        let read = limited.read_until(b'\n', &mut text);
        read.map_err(|source| TransferError::File { step: "read", source })?;
        if text.is_empty() {
            return Err(TransferError::NotAnExport { what: "its last line is missing" });
        }
        self.line += 1;
        serde_json::from_slice(&text).map_err(|source| TransferError::NotALine { line: self.line, source })
    }
}

fn write_line(to: &mut (dyn Write + Send), line: &Line) -> Result<(), TransferError> {
    let failed = |source| TransferError::File { step: "write", source };
    let mut text = serde_json::to_vec(line).map_err(|source| failed(source.into()))?;
    text.push(b'\n');
    to.write_all(&text).map_err(failed)
}
