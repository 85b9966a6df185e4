//! Figures of the stores, for `scripts/bench records`: start and memory with many records, lookups, pages, writes.
//!
//! One measurement is one process, so that memory is of that alone: the first argument says which, the answer is one
//! line of JSON on stdout.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fnbuild::function::{FunctionName, FunctionRecord, NewVersion};
use fnbuild::oci::Digest;
use fnbuild::store::{EtcdOptions, EtcdStore, FunctionStore, SledStore};
use serde_json::{Value, json};

const WRITING: Duration = Duration::from_secs(3);

fn name(number: u64) -> FunctionName {
    format!("f-{number:06}").parse().expect("a name")
}

fn record(number: u64) -> FunctionRecord {
    let image = NewVersion {
        repository: name(number).repository(),
        digest: Digest::of(number.to_be_bytes()),
        source: Some(Digest::of(b"source")),
        base: Some(Digest::of(b"base")),
        entry: None,
        parameters: None,
        packages: Vec::new(),
        settings: Default::default(),
        author: None,
        deployment: None,
    };
    FunctionRecord::first(name(number), image, "2026-11-23T00:00:00Z".into())
}

/// The most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn open(place: &str, mirror: &Path) -> Arc<dyn FunctionStore> {
    if place.starts_with("http") {
        let options = EtcdOptions::new(place.split(',').map(str::to_owned));
        return Arc::new(EtcdStore::open(&options, mirror).await.expect("etcd"));
    }
    let folder = PathBuf::from(place);
    if !folder.exists() {
        SledStore::create(&folder).expect("a new store");
    }
    Arc::new(SledStore::open(&folder).expect("the store"))
}

/// Writes so many records, as many at once as the store takes.
async fn fill(store: Arc<dyn FunctionStore>, count: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let writers = (0..64).map(|_| {
        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                store.create(&record(number)).await.expect("a record is written");
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// Opens, looks up, and reads all pages.
async fn read(place: &str, mirror: &Path) -> Value {
    let begun = Instant::now();
    let store = open(place, mirror).await;
    let started = begun.elapsed();
    let begun = Instant::now();
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.list(after.as_ref(), 100).await.expect("a page");
        count += page.records.len() as u64;
        after = page.records.last().map(|stored| stored.record.name.clone());
        if !page.more {
            break;
        }
    }
    let listed = begun.elapsed();
    let begun = Instant::now();
    for lookup in 0..10_000_u64 {
        store.get(&name(lookup * 7919 % count.max(1))).await.expect("a lookup");
    }
    let lookup = begun.elapsed() / 10_000;
    json!({
        "records": count, "start_ms": started.as_millis() as u64, "list_ms": listed.as_millis() as u64,
        "lookup_us": lookup.as_nanos() as f64 / 1000.0, "peak_mib": peak(),
    })
}

/// Compare-and-swap updates per second, each writer on keys of its own.
async fn write(store: Arc<dyn FunctionStore>, writers: u64) -> f64 {
    let begun = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (mut record, mut done) = (record(writer), 0_u64);
            let mut revision =
                store.get(&record.name).await.expect("a lookup").expect("it is there").revision;
            while begun.elapsed() < WRITING {
                record.last += 1;
                revision = store.update(&record, revision).await.expect("a write");
                done += 1;
            }
            done
        })
    });
    let done: u64 =
        futures_util::future::join_all(tasks).await.into_iter().map(|done| done.expect("a writer")).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}

/// etcd's own puts per second, of as many bytes, over one connection.
async fn raw(endpoint: &str, writers: u64) -> f64 {
    let client = etcd_client::Client::connect([endpoint], None).await.expect("etcd");
    let begun = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let mut client = client.kv_client();
        tokio::spawn(async move {
            let (key, mut done) = (format!("/raw/{writer}"), 0_u64);
            let value = serde_json::to_vec(&record(writer)).expect("JSON");
            while begun.elapsed() < WRITING {
                client.put(key.as_str(), value.as_slice(), None).await.expect("a put");
                done += 1;
            }
            done
        })
    });
    let done: u64 =
        futures_util::future::join_all(tasks).await.into_iter().map(|done| done.expect("a writer")).sum();
    done as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let answer = match arguments[..] {
        ["fill", place, mirror, count] => {
            let store = open(place, Path::new(mirror)).await;
            fill(store, count.parse().expect("a number")).await;
            json!({ "filled": count })
        }
        ["read", place, mirror] => read(place, Path::new(mirror)).await,
        ["write", place, mirror, writers] => {
            let store = open(place, Path::new(mirror)).await;
            json!({ "per_second": write(store, writers.parse().expect("a number")).await })
        }
        ["raw", endpoint, writers] => {
            json!({ "per_second": raw(endpoint, writers.parse().expect("a number")).await })
        }
        _ => panic!("fill PLACE MIRROR COUNT | read PLACE MIRROR | write PLACE MIRROR N | raw URL N"),
    };
    println!("{answer}");
}
