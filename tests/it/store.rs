//! What every store promises, tested once for all of them, and what sled alone promises.

use fnbuild::function::{FORMAT, FunctionRecord, NewVersion};
use fnbuild::oci::Digest;
use fnbuild::store::{
    Change, FunctionStore, LARGEST_VALUE, Revision, SledStore, StoreError, Stored, ValueKey,
};
use futures_util::StreamExt;

pub fn image(seed: &str) -> NewVersion {
    NewVersion {
        repository: "fn/x".parse().unwrap(),
        digest: Digest::of(seed),
        source: Some(Digest::of(b"source")),
        base: None,
        entry: None,
        parameters: None,
        packages: Vec::new(),
        settings: Default::default(),
        author: None,
        deployment: None,
    }
}

pub fn record(name: &str) -> FunctionRecord {
    FunctionRecord::first(name.parse().unwrap(), image(name), "2026-11-23T00:00:00Z".into())
}

/// The whole contract of [`FunctionStore`], on an empty store.
pub async fn keeps_the_contract(store: &dyn FunctionStore) {
    store.check().await.unwrap();
    creates_reads_updates_and_deletes_by_revision(store).await;
    pages_in_the_order_of_names(store).await;
    of_many_writers_each_gets_its_own_version(store).await;
    of_writes_at_once_each_is_answered_for_itself(store).await;
    watchers_see_changes_in_order(store).await;
    keeps_values_beside_the_records(store).await;
}

async fn creates_reads_updates_and_deletes_by_revision(store: &dyn FunctionStore) {
    let mut add = record("add");
    assert_eq!(store.get(&add.name).await.unwrap(), None);
    let first = store.create(&add).await.unwrap();
    assert!(matches!(store.create(&add).await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.get(&add.name).await.unwrap(), Some(Stored { revision: first, record: add.clone() }));

    add.push(image("second"), "2026-11-23T00:00:01Z".into());
    let second = store.update(&add, first).await.unwrap();
    assert!(second > first);
    assert!(matches!(store.update(&add, first).await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.get(&add.name).await.unwrap().unwrap().record.versions.len(), 2);

    assert!(matches!(store.delete(&add.name, first).await, Err(StoreError::Conflict { .. })));
    store.delete(&add.name, second).await.unwrap();
    assert_eq!(store.get(&add.name).await.unwrap(), None);
    assert!(matches!(store.update(&add, second).await, Err(StoreError::Conflict { .. })));
    let again = store.create(&add).await.unwrap();
    assert!(again > second, "a revision never comes back");
    store.delete(&add.name, again).await.unwrap();
}

async fn pages_in_the_order_of_names(store: &dyn FunctionStore) {
    let mut names: Vec<String> = (0..25).map(|i| format!("page-{i}")).collect();
    for name in &names {
        store.create(&record(name)).await.unwrap();
    }
    names.sort();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(after.as_ref(), 10).await.unwrap();
        assert!(page.records.len() <= 10);
        seen.extend(page.records.iter().map(|stored| stored.record.name.to_string()));
        after = page.records.last().map(|stored| stored.record.name.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, names);
    for name in &names {
        let name = name.parse().unwrap();
        let revision = store.get(&name).await.unwrap().unwrap().revision;
        store.delete(&name, revision).await.unwrap();
    }
    assert_eq!(store.list(None, 10).await.unwrap().records, []);
}

async fn of_many_writers_each_gets_its_own_version(store: &dyn FunctionStore) {
    let shared = record("shared");
    store.create(&shared).await.unwrap();
    let writer = async |seed: String| {
        loop {
            let Stored { revision, mut record } = store.get(&shared.name).await.unwrap().unwrap();
            let number = record.push(image(&seed), "2026-11-23T00:00:02Z".into());
            match store.update(&record, revision).await {
                Ok(_) => return number,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let numbers = futures_util::future::join_all((0..16).map(|i| writer(format!("writer {i}")))).await;
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (2..=17).collect::<Vec<_>>());
    let Stored { revision, record } = store.get(&shared.name).await.unwrap().unwrap();
    for (writer, number) in numbers.iter().enumerate() {
        let version = record.version(*number).unwrap();
        assert_eq!(version.image.digest, Digest::of(format!("writer {writer}")), "no version is mixed up");
    }
    store.delete(&shared.name, revision).await.unwrap();
}

async fn of_writes_at_once_each_is_answered_for_itself(store: &dyn FunctionStore) {
    let (mut changed, going, twin) = (record("changed"), record("going"), record("twin"));
    let stale = store.create(&changed).await.unwrap();
    changed.push(image("second"), "2026-11-23T00:00:02Z".into());
    store.update(&changed, stale).await.unwrap();
    let last = store.create(&going).await.unwrap();
    let new: Vec<_> = (0..150).map(|i| record(&format!("new-{i:03}"))).collect();

    let (created, late, again, gone, one, other) = tokio::join!(
        futures_util::future::join_all(new.iter().map(|record| store.create(record))),
        store.update(&changed, stale),
        store.create(&changed),
        store.delete(&going.name, last),
        store.create(&twin),
        store.create(&twin),
    );
    for (record, created) in new.iter().zip(created) {
        let stored = Stored { revision: created.unwrap(), record: record.clone() };
        assert_eq!(store.get(&record.name).await.unwrap(), Some(stored));
    }
    for refused in [late, again] {
        assert!(matches!(refused, Err(StoreError::Conflict { name }) if name == changed.name));
    }
    gone.unwrap();
    assert_eq!(store.get(&going.name).await.unwrap(), None);
    let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
    assert_eq!(store.get(&twin.name).await.unwrap().unwrap().revision, won.unwrap());
    assert!(matches!(lost, Err(StoreError::Conflict { name }) if name == twin.name));

    let all = store.list(None, 200).await.unwrap().records;
    assert_eq!(all.len(), new.len() + 2);
    for stored in all {
        store.delete(&stored.record.name, stored.revision).await.unwrap();
    }
}

async fn watchers_see_changes_in_order(store: &dyn FunctionStore) {
    let mut changes = store.watch().await.unwrap();
    let mut watched = record("watched");
    let first = store.create(&watched).await.unwrap();
    watched.push(image("2"), "2026-11-23T00:00:03Z".into());
    let second = store.update(&watched, first).await.unwrap();
    store.delete(&watched.name, second).await.unwrap();

    let mut revisions: Vec<Revision> = Vec::new();
    for _ in 0..3 {
        match changes.next().await.unwrap() {
            Change::Written(stored) => {
                assert_eq!(stored.record.name, watched.name);
                revisions.push(stored.revision);
            }
            Change::Deleted { name, revision } => {
                assert_eq!(name, watched.name);
                revisions.push(revision);
            }
            Change::Coming { .. } => panic!("nobody announced anything"),
            Change::Missed => panic!("three changes are not too many"),
        }
    }
    assert_eq!(revisions[..2], [first, second]);
    assert!(revisions[2] > second);
}

async fn keeps_values_beside_the_records(store: &dyn FunctionStore) {
    let key = |key: &str| ValueKey::new("secret", key).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    let first = store.swap_value(&key("b"), None, Some(&bytes)).await.unwrap();
    let found = store.value(&key("b")).await.unwrap().unwrap();
    assert_eq!((found.revision, found.bytes), (first, bytes));
    for expected in [None, Some(Revision(first.0 + 1))] {
        let conflict = store.swap_value(&key("b"), expected, Some(b"other")).await;
        assert!(matches!(conflict, Err(StoreError::ValueConflict { .. })));
    }
    let second = store.swap_value(&key("b"), Some(first), Some(b"")).await.unwrap();
    assert!(second > first);
    assert_eq!(store.value(&key("b")).await.unwrap().unwrap().bytes, b"");

    store.swap_value(&key("a"), None, Some(b"1")).await.unwrap();
    store.swap_value(&key("c"), None, Some(b"3")).await.unwrap();
    let other = ValueKey::new("secrets", "a").unwrap();
    store.swap_value(&other, None, Some(b"another kind")).await.unwrap();
    let page = store.values(Some("secret"), None, 2).await.unwrap();
    assert_eq!(page.values.iter().map(|value| value.key.key()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(page.more);
    let rest = store.values(Some("secret"), Some(&key("b")), 2).await.unwrap();
    assert_eq!(rest.values.iter().map(|value| value.key.key()).collect::<Vec<_>>(), ["c"]);
    assert!(!rest.more);

    let huge = vec![7; LARGEST_VALUE + 1];
    let refused = store.swap_value(&key("huge"), None, Some(&huge)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    store.swap_value(&key("huge"), None, Some(&huge[1..])).await.unwrap();

    for value in store.values(None, None, 10).await.unwrap().values {
        store.swap_value(&value.key, Some(value.revision), None).await.unwrap();
        assert_eq!(store.value(&value.key).await.unwrap(), None);
    }
    assert_eq!(store.values(None, None, 10).await.unwrap().values, []);
    let gone = store.swap_value(&key("b"), None, None).await;
    assert!(matches!(gone, Err(StoreError::ValueConflict { .. })), "there is nothing to delete");
}

fn new_store(folder: &std::path::Path) -> SledStore {
    SledStore::create(folder).unwrap();
    SledStore::open(folder).unwrap()
}

#[tokio::test]
async fn sled_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    keeps_the_contract(&new_store(&folder.path().join("records"))).await;
}

#[tokio::test]
async fn sled_finds_everything_again_and_no_revision_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("records");
    let store = new_store(&folder);
    let kept = store.create(&record("kept")).await.unwrap();
    let gone = store.create(&record("gone")).await.unwrap();
    store.delete(&record("gone").name, gone).await.unwrap();
    drop(store);

    let store = SledStore::open(&folder).unwrap();
    let found = store.get(&record("kept").name).await.unwrap().unwrap();
    assert_eq!(found, Stored { revision: kept, record: record("kept") });
    let next = store.create(&record("next")).await.unwrap();
    assert!(next.0 > gone.0 + 1, "the deletion's revision is remembered too");
}

#[tokio::test]
async fn sled_tells_a_slow_watcher_what_it_missed() {
    let folder = tempfile::tempdir().unwrap();
    let store = new_store(&folder.path().join("records"));
    let mut changes = store.watch().await.unwrap();
    let creations = (0..1500).map(|i| {
        let store = store.clone();
        async move { store.create(&record(&format!("f-{i}"))).await }
    });
    for created in futures_util::future::join_all(creations).await {
        created.unwrap();
    }
    assert_eq!(changes.next().await, Some(Change::Missed));
    assert!(matches!(changes.next().await, Some(Change::Written(_))));
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_an_error_and_never_an_empty_start() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("records");
    assert!(matches!(SledStore::open(&folder), Err(StoreError::Gone { .. })));

    std::fs::create_dir(&folder).unwrap();
    let error = SledStore::open(&folder).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "an empty folder: {error}");
    std::fs::remove_dir_all(&folder).unwrap();

    let store = new_store(&folder);
    store.create(&record("add")).await.unwrap();
    drop(store);
    let database = sled::open(&folder).unwrap();
    database.insert("format", "99").unwrap();
    database.flush().unwrap();
    drop(database);
    let error = SledStore::open(&folder).err().unwrap();
    assert!(matches!(error, StoreError::NewerStore { found: 99, .. }), "{error}");

    let database = sled::open(&folder).unwrap();
    database.insert("format", "1").unwrap();
    database.open_tree("functions").unwrap().insert("add", b"nonsense").unwrap();
    database.flush().unwrap();
    drop(database);
    let error = SledStore::open(&folder).err().unwrap();
    assert!(matches!(&error, StoreError::Unreadable { key, .. } if key == "add"), "{error}");
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("records");
    let store = new_store(&folder);
    store.create(&record("old")).await.unwrap();
    store.create(&FunctionRecord { format: FORMAT + 1, ..record("newer") }).await.unwrap();
    assert!(store.get(&record("old").name).await.is_ok());
    let error = store.get(&record("newer").name).await.unwrap_err();
    assert!(matches!(&error, StoreError::NewerRecord { key, .. } if key == "newer"), "{error}");
    drop(store);
    // A server does not start over what it cannot read.
    let error = SledStore::open(&folder).err().unwrap();
    assert!(matches!(&error, StoreError::NewerRecord { key, .. } if key == "newer"), "{error}");
    assert!(error.hint().unwrap().contains("newer fnbuild"));
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("records");
    let _first = new_store(&folder);
    let error = SledStore::open(&folder).err().unwrap();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
}
