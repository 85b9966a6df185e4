//! `fnbuild store`: everything moves between sled, etcd and a file, and nothing half.

use std::path::Path;
use std::process::Command;

use fnbuild::secrets::{SecretKey, Secrets};
use fnbuild::store::{FunctionStore, SledStore};

use crate::store::record;
use crate::support::etcd::Etcd;
use crate::support::{fnbuild, run, run_failing};

/// A data folder with three functions and a secret.
async fn fill(data: &Path) {
    std::fs::create_dir(data).unwrap();
    SledStore::create(&data.join("records")).unwrap();
    let store = std::sync::Arc::new(SledStore::open(&data.join("records")).unwrap());
    for name in ["a", "b", "c"] {
        store.create(&record(name)).await.unwrap();
    }
    let key = SecretKey::load_or_create(&data.join("secret.key")).unwrap();
    Secrets::new(store, key).create(&"api-key".parse().unwrap(), b"value").await.unwrap();
}

fn store(verb: &str, data: &Path, file: &Path) -> Command {
    let mut command = fnbuild();
    command.args(["store", verb]).arg(file).arg("--data-dir").arg(data);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_goes_from_sled_through_etcd_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let etcd = Etcd::start(1);
    fill(&at("one")).await;
    run(&mut store("export", &at("one"), &at("1.jsonl")));
    run(store("import", &at("unused"), &at("1.jsonl")).args(["--etcd", &etcd.endpoints().join(",")]));
    run(store("export", &at("unused"), &at("2.jsonl")).args(["--etcd", &etcd.endpoints().join(",")]));
    run(&mut store("import", &at("two"), &at("2.jsonl")));
    run(&mut store("export", &at("two"), &at("3.jsonl")));
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    assert_eq!(read("1.jsonl"), read("2.jsonl"));
    assert_eq!(read("1.jsonl"), read("3.jsonl"));
    assert!(!at("unused").exists());

    std::fs::copy(at("one/secret.key"), at("two/secret.key")).unwrap();
    let key = SecretKey::load_or_create(&at("two/secret.key")).unwrap();
    let moved = Secrets::new(std::sync::Arc::new(SledStore::open(&at("two/records")).unwrap()), key);
    moved.check().await.unwrap();
    assert_eq!(moved.open(&"api-key".parse().unwrap()).await.unwrap().bytes(), b"value");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_not_whole_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fill(&at("data")).await;
    run(&mut store("export", &at("data"), &at("whole")));
    let whole = std::fs::read_to_string(at("whole")).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let damaged = [
        String::new(),
        "not JSON\n".into(),
        lines[1..].join("\n"),
        lines[..lines.len() - 1].join("\n"),
        [&lines[..2], &lines[3..]].concat().join("\n"),
        [&lines[..2], &lines[1..]].concat().join("\n"),
        whole.replacen(r#"{"fnbuildStore":1}"#, r#"{"fnbuildStore":2}"#, 1),
        whole.replacen(r#""format":1"#, r#""format":99"#, 1),
    ];
    for text in damaged {
        std::fs::write(at("damaged"), &text).unwrap();
        run_failing(&mut store("import", &at("other"), &at("damaged")), 1);
        assert!(!at("other").exists(), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_stays_unless_the_file_is_to_win() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fill(&at("data")).await;
    run(&mut store("export", &at("data"), &at("before")));
    let again = run(store("import", &at("data"), &at("before")).args(["-o", "json"]));
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["functions"], &again["unchanged"]), (&0.into(), &5.into()));

    let changed = SledStore::open(&at("data/records")).unwrap();
    let mut a = changed.get(&record("a").name).await.unwrap().unwrap();
    a.record.push(crate::store::image("later"), "2026-11-23T00:00:09Z".into());
    changed.update(&a.record, a.revision).await.unwrap();
    drop(changed);
    let told = run_failing(&mut store("import", &at("data"), &at("before")), 1);
    assert!(told.contains("a is in the store already") && told.contains("--replace"), "{told}");
    run(store("import", &at("data"), &at("before")).arg("--replace"));
    run(&mut store("export", &at("data"), &at("after")));
    assert_eq!(std::fs::read(at("before")).unwrap(), std::fs::read(at("after")).unwrap());
}
