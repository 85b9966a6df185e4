//! What the store in etcd promises beyond what every store does: other nodes, and everything that can go away.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fnbuild::function::{FORMAT, FunctionName, FunctionRecord};
use fnbuild::store::{Change, EtcdStore, EtcdTls, EtcdUser, FunctionStore, StoreError, Stored};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use crate::store::{image, keeps_the_contract, record};
use crate::support::etcd::Etcd;
use crate::support::run;

const LIMIT: Duration = Duration::from_secs(20);

async fn open(etcd: &Etcd, folder: &Path) -> EtcdStore {
    EtcdStore::open(&etcd.options(), folder).await.unwrap()
}

/// Waits until a node knows exactly these functions.
async fn knows(store: &EtcdStore, names: &[&str]) {
    let known = async {
        loop {
            let page = store.list(None, 100).await.unwrap();
            let known: Vec<_> =
                page.records.iter().map(|stored| stored.record.name.as_str().to_owned()).collect();
            if known == names {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, known)
        .await
        .unwrap_or_else(|_| panic!("waited for a node to know {names:?}"));
}

async fn until_ready(store: &EtcdStore) {
    let ready = async {
        while store.check().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, ready).await.expect("a node to be ready again");
}

/// Writes a record, and gives a watch that has told of it: one that begins when it is written may be told of it still.
async fn watched_after(store: &EtcdStore, record: &FunctionRecord) -> BoxStream<'static, Change> {
    let mut changes = store.watch().await.unwrap();
    let revision = store.create(record).await.unwrap();
    let told = tokio::time::timeout(LIMIT, changes.next()).await.expect("watchers are told");
    assert_eq!(told, Some(Change::Written(Stored { revision, record: record.clone() })));
    changes
}

async fn delete(store: &EtcdStore, name: &str) {
    let name: FunctionName = name.parse().unwrap();
    let revision = store.get(&name).await.unwrap().unwrap().revision;
    store.delete(&name, revision).await.unwrap();
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let (etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    keeps_the_contract(&open(&etcd, &folder.path().join("mirror")).await).await;
}

#[tokio::test]
async fn every_node_sees_what_another_wrote() {
    let (etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let one = open(&etcd, &folder.path().join("one")).await;
    let two = open(&etcd, &folder.path().join("two")).await;
    let mut changes = two.watch().await.unwrap();
    let mut add = record("add");
    let first = one.create(&add).await.unwrap();
    let Some(Change::Written(seen)) = changes.next().await else { panic!("it is written") };
    assert_eq!((seen.revision, &seen.record), (first, &add));
    assert_eq!(two.get(&add.name).await.unwrap(), Some(seen));

    add.push(image("two"), "2026-11-23T00:00:01Z".into());
    let second = two.update(&add, first).await.unwrap();
    // The first node may not have heard of it yet; etcd has, and the refusal tells.
    assert!(matches!(one.update(&add, first).await, Err(StoreError::Conflict { .. })));
    assert_eq!(one.get(&add.name).await.unwrap().unwrap().revision, second);
    // What is about to come is told to who watches, and leaves nothing behind that is exported.
    one.renew_lease().await.unwrap();
    one.announce(&add.name, &image("three")).await.unwrap();
    let coming = Change::Coming { name: add.name.clone(), image: Box::new(image("three")) };
    let told = async { while changes.next().await.as_ref() != Some(&coming) {} };
    tokio::time::timeout(LIMIT, told).await.expect("the other node to be told");
    let mut exported = Vec::new();
    assert_eq!(fnbuild::store::export(&two, &mut exported).await.unwrap().values, 0);

    one.delete(&add.name, second).await.unwrap();
    assert!(matches!(two.update(&add, second).await, Err(StoreError::Conflict { .. })));
    assert_eq!(two.get(&add.name).await.unwrap(), None);
}

#[tokio::test]
async fn writes_that_wait_at_the_same_time_go_together() {
    let (etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    let taken = record("taken");
    let mut changes = watched_after(&store, &taken).await;
    let records: Vec<_> = (0..50).map(|i| record(&format!("f-{i:02}"))).collect();
    let (refused, first, created) = tokio::join!(
        store.create(&taken),
        store.create(&records[0]),
        futures_util::future::join_all(records.iter().map(|record| store.create(record))),
    );
    assert!(matches!(refused, Err(StoreError::Conflict { name }) if name == taken.name));
    // Of the two that write one record the first is among them, and the other waits for the next.
    let revision = first.unwrap();
    assert!(matches!(&created[0], Err(StoreError::Conflict { name }) if *name == records[0].name));
    for created in &created[1..] {
        assert_eq!(*created.as_ref().unwrap(), revision, "one transaction, one revision");
    }
    for record in records {
        let told = tokio::time::timeout(LIMIT, changes.next()).await.expect("watchers are told of each");
        assert_eq!(told, Some(Change::Written(Stored { revision, record })));
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_etcd_died_is_there_and_the_rest_is_whole_or_not() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    let write_on = async |number: u64| {
        let mut record = record(&format!("f-{number:02}"));
        let mut revision = store.create(&record).await.unwrap();
        loop {
            let written = record.last;
            record.last += 1;
            match store.update(&record, revision).await {
                Ok(next) => revision = next,
                Err(StoreError::Away { .. }) => return (record.name, written),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let die = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        etcd.crash(0);
    };
    let (written, ()) = tokio::join!(futures_util::future::join_all((0..32).map(write_on)), die);

    etcd.start_member(0);
    until_ready(&store).await;
    for (name, written) in written {
        let goes_on = async {
            loop {
                let Stored { revision, record } = store.get(&name).await.unwrap().unwrap();
                assert!([written, written + 1].contains(&record.last), "{name}: {written}, {}", record.last);
                match store.update(&record, revision).await {
                    Err(StoreError::Conflict { .. }) => {}
                    updated => return updated.unwrap(),
                }
            }
        };
        tokio::time::timeout(LIMIT, goes_on).await.expect("a record to be written again");
    }
}

#[tokio::test]
async fn while_etcd_is_gone_reads_go_on_and_writes_say_why_not() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let folder = folder.path().join("mirror");
    let store = open(&etcd, &folder).await;
    store.create(&record("add")).await.unwrap();
    store.check().await.unwrap();
    etcd.stop();

    knows(&store, &["add"]).await;
    let error = store.create(&record("late")).await.unwrap_err();
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
    assert!(matches!(store.check().await, Err(StoreError::Away { .. })));
    store.close().await;
    let store = open(&etcd, &folder).await;
    knows(&store, &["add"]).await;

    etcd.start_member(0);
    until_ready(&store).await;
    store.create(&record("late")).await.unwrap();
    knows(&store, &["add", "late"]).await;
}

#[tokio::test]
async fn a_node_that_knows_nothing_does_not_start_without_etcd() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    etcd.stop();
    let error = EtcdStore::open(&etcd.options(), &folder.path().join("mirror")).await.err().unwrap();
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
}

#[tokio::test]
async fn a_node_that_was_cut_off_catches_up_over_a_compaction() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let cut_off = open(&etcd, &folder.path().join("cut-off")).await;
    for name in ["changed", "gone", "kept"] {
        cut_off.create(&record(name)).await.unwrap();
    }
    let mut changes = cut_off.watch().await.unwrap();
    etcd.stop();
    let port = etcd.move_away();
    etcd.start_member(0);
    etcd.wait_until_healthy();

    let other = open(&etcd, &folder.path().join("other")).await;
    delete(&other, "gone").await;
    delete(&other, "changed").await;
    let again = other.create(&record("changed")).await.unwrap();
    other.create(&record("new")).await.unwrap();
    run(etcd.etcdctl().args(["compact", &etcd.revision().to_string()]));
    drop(other);
    knows(&cut_off, &["changed", "gone", "kept"]).await;

    etcd.stop();
    etcd.move_back(port);
    etcd.start_member(0);
    knows(&cut_off, &["changed", "kept", "new"]).await;
    assert_eq!(cut_off.get(&record("changed").name).await.unwrap().unwrap().revision, again);
    let missed = async { while changes.next().await != Some(Change::Missed) {} };
    tokio::time::timeout(LIMIT, missed).await.expect("watchers to be told to list again");
    until_ready(&cut_off).await;
}

#[tokio::test]
async fn a_member_that_dies_is_not_noticed() {
    let (mut etcd, folder) = (Etcd::start(3), tempfile::tempdir().unwrap());
    let one = open(&etcd, &folder.path().join("one")).await;
    let two = open(&etcd, &folder.path().join("two")).await;
    for index in 0..3 {
        etcd.kill(index);
        let name = format!("f-{index}");
        one.create(&record(&name)).await.unwrap();
        two.check().await.ok();
        knows(&two, &["f-0", "f-1", "f-2"][..=index]).await;
        etcd.start_member(index);
        etcd.wait_until_healthy();
    }
}

#[tokio::test]
async fn without_a_majority_no_write_is_acknowledged() {
    let (mut etcd, folder) = (Etcd::start(3), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    store.create(&record("add")).await.unwrap();
    etcd.kill(0);
    etcd.kill(1);
    assert!(matches!(store.create(&record("late")).await, Err(StoreError::Away { .. })));
    assert!(store.check().await.is_err());
    knows(&store, &["add"]).await;
    etcd.start_member(0);
    etcd.start_member(1);
    until_ready(&store).await;
    // The member that was left may have it in its log, and then the others take it over: whole, or not at all.
    let late = store.get(&record("late").name).await.unwrap().map(|stored| stored.record);
    assert!(late.is_none_or(|late| late == record("late")));
}

#[tokio::test]
async fn an_emptied_etcd_does_not_empty_the_mirror() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let mirror = folder.path().join("mirror");
    let store = open(&etcd, &mirror).await;
    store.create(&record("add")).await.unwrap();
    etcd.stop();
    std::fs::remove_dir_all(etcd.data(0)).unwrap();
    etcd.start_member(0);
    etcd.wait_until_healthy();

    assert!(matches!(store.create(&record("late")).await, Err(StoreError::OtherStore { .. })));
    assert!(matches!(store.check().await, Err(StoreError::OtherStore { .. })));
    knows(&store, &["add"]).await;
    let _another = open(&etcd, &folder.path().join("another")).await;
    let error = store.check().await.unwrap_err();
    assert!(matches!(&error, StoreError::OtherStore { found, .. } if found != "none"), "{error}");
    store.close().await;
    let error = EtcdStore::open(&etcd.options(), &mirror).await.err().unwrap();
    assert!(matches!(error, StoreError::OtherStore { .. }), "{error}");
}

#[tokio::test]
async fn after_a_restored_snapshot_the_mirror_goes_back_with_it() {
    let (mut etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    store.create(&record("saved")).await.unwrap();
    let snapshot = folder.path().join("snapshot");
    run(etcd.etcdctl().args(["snapshot", "save"]).arg(&snapshot));
    store.create(&record("unsaved")).await.unwrap();
    delete(&store, "saved").await;
    knows(&store, &["unsaved"]).await;

    etcd.stop();
    std::fs::remove_dir_all(etcd.data(0)).unwrap();
    let mut restore = etcd.etcdctl();
    restore.args(["snapshot", "restore"]).arg(&snapshot).arg("--data-dir").arg(etcd.data(0));
    run(&mut restore);
    etcd.start_member(0);
    knows(&store, &["saved"]).await;
    until_ready(&store).await;
    store.create(&record("unsaved")).await.unwrap();
    knows(&store, &["saved", "unsaved"]).await;
}

#[tokio::test]
async fn a_record_that_a_newer_node_wrote_is_refused_and_the_others_are_read() {
    let (etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    let mut changes = watched_after(&store, &record("add")).await;
    let newer = FunctionRecord { format: FORMAT + 1, ..record("newer") };
    let newer = serde_json::to_string(&newer).unwrap();
    run(etcd.etcdctl().args(["put", "/fnbuild/functions/newer", &newer]));
    let told = tokio::time::timeout(LIMIT, changes.next()).await.expect("watchers are told");
    assert_eq!(told, Some(Change::Missed));
    let error = store.get(&record("newer").name).await.unwrap_err();
    assert!(matches!(&error, StoreError::NewerRecord { key, .. } if key == "newer"), "{error}");
    assert_eq!(store.get(&record("add").name).await.unwrap().unwrap().record, record("add"));
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_record_that_etcd_cannot_take_is_refused_by_its_size() {
    let (etcd, folder) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = open(&etcd, &folder.path().join("mirror")).await;
    let mut large = record("large");
    large.versions[0].image.settings.env.insert("A".into(), "x".repeat(2 << 20));
    let error = store.create(&large).await.unwrap_err();
    assert!(matches!(&error, StoreError::TooLarge { key, .. } if key == "large"), "{error}");
}

/// A CA, and by it a server's and a client's certificate.
fn make_certificates(folder: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(folder));
    };
    openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -keyout ca.key -out ca.pem",
    );
    std::fs::write(
        folder.join("names"),
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
    )
    .unwrap();
    for name in ["server", "client"] {
        openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out {name}.pem"
        ));
    }
}

#[tokio::test]
async fn etcd_is_reached_over_tls_and_as_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    make_certificates(folder.path());
    let etcd = Etcd::start_with_tls(folder.path());
    for command in [
        "user add root:secret",
        "user grant-role root root",
        "user add fnbuild:secret",
        "role add fnbuild",
        "role grant-permission fnbuild readwrite --prefix=true /fnbuild/",
        "user grant-role fnbuild fnbuild",
        "auth enable",
    ] {
        run(etcd.etcdctl().args(command.split(' ')));
    }

    let mut options = etcd.options();
    let refused = EtcdStore::open(&options, &file("mirror")).await.err().unwrap();
    assert!(matches!(refused, StoreError::Away { .. }), "an unknown authority: {refused}");
    options.tls =
        EtcdTls { authority: Some(file("ca.pem")), identity: Some((file("client.pem"), file("client.key"))) };
    let refused = EtcdStore::open(&options, &file("mirror")).await.err().unwrap();
    assert!(matches!(refused, StoreError::Refused { .. }), "no user: {refused}");
    options.user = Some(EtcdUser { name: "fnbuild".into(), password: "wrong".into() });
    let refused = EtcdStore::open(&options, &file("mirror")).await.err().unwrap();
    assert!(matches!(refused, StoreError::Refused { .. }), "a wrong password: {refused}");
    options.user = Some(EtcdUser { name: "fnbuild".into(), password: "secret".into() });
    keeps_the_contract(&EtcdStore::open(&options, &file("mirror")).await.unwrap()).await;
}
