//! How a record is written down: eight bytes of revision, then the record as JSON with its format's number.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::function::{FORMAT, FunctionRecord};

use super::{Revision, StoreError, Stored};

/// The layout of a store around its records: which trees there are and what their keys mean.
pub const STORE_FORMAT: u32 = 1;

/// Brings a record of format `index + 1` to the next format.
type Migration = fn(Value) -> Value;

/// One step for each older format.
const MIGRATIONS: [Migration; FORMAT as usize - 1] = [];

pub fn encode(revision: Revision, record: &FunctionRecord) -> Result<Vec<u8>, StoreError> {
    Ok(join(revision, &encode_bare(record)?))
}

/// The record alone, for a store that keeps the revision itself.
pub fn encode_bare(record: &FunctionRecord) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record)
        .map_err(|source| StoreError::Unwritable { name: record.name.clone(), source: Arc::new(source) })
}

pub fn join(revision: Revision, bytes: &[u8]) -> Vec<u8> {
    [&revision.0.to_be_bytes(), bytes].concat()
}

/// The revision and what follows it.
pub fn split(bytes: &[u8]) -> Option<(Revision, &[u8])> {
    bytes.split_first_chunk().map(|(head, rest)| (Revision(u64::from_be_bytes(*head)), rest))
}

/// The revision alone, without reading the record. `None` for bytes that no store of ours wrote.
pub fn revision(bytes: &[u8]) -> Option<Revision> {
    split(bytes).map(|(revision, _)| revision)
}

/// `key` names the record in errors; it need not be a valid name.
pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Stored, StoreError> {
    let (revision, json) = split(bytes).unwrap_or((Revision(0), &[]));
    let unreadable = |source| StoreError::Unreadable { key: text(key), source: Arc::new(source) };
    let Head { format } = serde_json::from_slice(json).map_err(unreadable)?;
    let record = if format == FORMAT {
        serde_json::from_slice(json).map_err(unreadable)?
    } else {
        read_older(serde_json::from_slice(json).map_err(unreadable)?, &text(key))?
    };
    Ok(Stored { revision, record })
}

/// The record in a JSON value of this format or an older one.
pub fn read_older(record: Value, key: &str) -> Result<FunctionRecord, StoreError> {
    let unreadable = |source| StoreError::Unreadable { key: key.into(), source: Arc::new(source) };
    let Head { format } = Head::deserialize(&record).map_err(unreadable)?;
    if format > FORMAT {
        return Err(StoreError::NewerRecord { key: key.into(), found: format });
    }
    serde_json::from_value(migrate(record, format, &MIGRATIONS)).map_err(unreadable)
}

/// What every format of a record has in common.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

fn migrate(mut record: Value, from: u32, steps: &[Migration]) -> Value {
    for (format, step) in (1..).zip(steps).skip_while(|(format, _)| *format < from) {
        record = step(record);
        if let Some(number) = record.get_mut("format") {
            *number = Value::from(format + 1);
        }
    }
    record
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::function::NewVersion;

    fn record() -> FunctionRecord {
        let image = NewVersion {
            repository: "fn/add".parse().unwrap(),
            digest: format!("sha256:{:064}", 1).parse().unwrap(),
            source: None,
            base: None,
            entry: None,
            parameters: None,
            packages: Vec::new(),
            settings: Default::default(),
            author: None,
            deployment: None,
        };
        FunctionRecord::first("add".parse().unwrap(), image, "2026-11-23T00:00:00Z".into())
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let bytes = encode(Revision(7), &record()).unwrap();
        assert_eq!(decode(b"add", &bytes).unwrap(), Stored { revision: Revision(7), record: record() });
        assert_eq!(revision(&bytes), Some(Revision(7)));
    }

    #[test]
    fn a_newer_record_is_refused_by_name() {
        let newer = FunctionRecord { format: FORMAT + 1, ..record() };
        let error = decode(b"add", &encode(Revision(1), &newer).unwrap()).unwrap_err();
        assert!(matches!(&error, StoreError::NewerRecord { key, found: 2 } if key == "add"), "{error}");
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let whole = encode(Revision(1), &record()).unwrap();
        for cut in [0, 4, 8, 20, whole.len() - 1] {
            assert!(decode(b"add", &whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_older_record_takes_every_step_from_its_format_on() {
        let steps: [Migration; 2] = [
            |mut record| {
                record["one"] = json!(true);
                record
            },
            |mut record| {
                record["two"] = json!(true);
                record
            },
        ];
        let from = |format| migrate(json!({ "format": format }), format, &steps);
        assert_eq!(from(1), json!({ "format": 3, "one": true, "two": true }));
        assert_eq!(from(2), json!({ "format": 3, "two": true }));
        assert_eq!(from(3), json!({ "format": 3 }));
    }
}
