//! How replicas begin, go on and end.

use std::time::Duration;

use fnbuild::function::{FunctionRecord, Memory, Settings};
use fnbuild::replica::{Error, ExecRequest, LogQuery};
use fnbuild::store::FunctionStore;
use tokio::io::AsyncReadExt;

use super::{HTTPD, Site, acquire, ctr, function, inside, soon};

#[tokio::test]
async fn a_replica_starts_for_the_first_call_and_serves_the_next() {
    let site = Site::new().with("add", HTTPD, Settings::default());
    let replicas = site.start().await;
    assert!(replicas.list(&function("add")).is_empty());
    let first = acquire(&replicas, "add").await;
    assert!(first.cold().is_some());
    let id = first.replica().id.clone();
    assert_eq!(inside(&first, "echo $PORT").await, "8081");
    drop(first);
    let second = acquire(&replicas, "add").await;
    assert_eq!((second.replica().id.as_str(), second.cold()), (id.as_str(), None));
    let listed = replicas.list(&function("add"));
    assert_eq!((listed.len(), listed[0].in_flight, listed[0].port), (1, 1, 8081));
    drop(second);
    assert!(matches!(
        replicas.acquire(&function("nobody"), None, soon()).await,
        Err(Error::UnknownFunction { .. })
    ));
    site.close(replicas).await;
}

#[tokio::test]
async fn the_next_server_adopts_what_runs_and_removes_what_is_outdated() {
    let mut site =
        Site::new().with("same", HTTPD, Settings::default()).with("changed", HTTPD, Settings::default());
    let replicas = site.start().await;
    let before = acquire(&replicas, "same").await.replica().clone();
    let outdated = acquire(&replicas, "changed").await.replica().clone();
    replicas.stop().await;
    drop(replicas);

    let settings = Settings { cpu_millis: 500, ..Settings::default() };
    let image = site.images.add("changed", HTTPD, settings);
    site.records[1].push(image, "2026-01-02T00:00:00Z".into());
    let replicas = site.start().await;
    let after = acquire(&replicas, "same").await;
    let after = (after.replica().id.clone(), after.replica().pid, after.replica().address);
    assert_eq!(after, (before.id.clone(), before.pid, before.address));
    let containers = ctr(&site.namespace, &["containers", "ls", "-q"]);
    assert!(containers.contains(&before.id) && !containers.contains(&outdated.id), "{containers}");
    site.close(replicas).await;
}

#[tokio::test]
async fn a_dead_replica_is_replaced_at_the_next_call_and_its_last_lines_stay() {
    let script =
        "echo born; httpd -p 8081 -h /www; while ! [ -e /tmp/die ]; do sleep 0.02; done; echo dying; exit 3";
    let site = Site::new().with("mortal", script, Settings::default());
    let replicas = site.start().await;
    let lease = acquire(&replicas, "mortal").await;
    let first = lease.replica().clone();
    inside(&lease, "echo > /tmp/die").await;
    drop(lease);
    assert_eq!(first.fate(Duration::from_secs(20)).await.unwrap().status, 3);
    let next = acquire(&replicas, "mortal").await;
    assert_ne!(next.replica().id, first.id);
    let mut lines = replicas.logs(&function("mortal"), LogQuery::default());
    let mut printed = Vec::new();
    while let Some(line) = lines.recv().await {
        let line = line.unwrap();
        assert_eq!((line.version, line.stream.as_str()), (1, "stdout"));
        printed.push((line.replica == first.id, line.text));
    }
    assert_eq!(printed.get(..2), Some(&[(true, "born".to_string()), (true, "dying".into())][..]));
    drop(next);
    site.close(replicas).await;
}

#[tokio::test]
async fn a_start_that_fails_says_what_the_process_printed() {
    let site = Site::new().with("broken", "echo no such luck >&2; exit 7", Settings::default());
    let replicas = site.start().await;
    let error = replicas.acquire(&function("broken"), None, soon()).await.err().unwrap();
    let Error::CannotStart { source, .. } = &error else { panic!("{error:?}") };
    let Error::Died { status, last_lines, .. } = &**source else { panic!("{source:?}") };
    assert_eq!((*status, last_lines.as_slice()), (7, &["no such luck".to_string()][..]));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_start_that_fails_for_want_of_memory_says_so() {
    let settings = Settings { memory: Memory(16 << 20), ..Settings::default() };
    let site = Site::new().with("starved", "all=$(yes | head -c 100000000); exit 1", settings);
    let replicas = site.start().await;
    let error = replicas.acquire(&function("starved"), None, soon()).await.err().unwrap();
    let Error::CannotStart { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, Error::OutOfMemory { limit: Memory(16_777_216), .. }), "{source:?}");
    assert!(error.hint().unwrap().contains("fnbuild config starved --memory"));
    site.close(replicas).await;
}

#[tokio::test]
async fn calls_beyond_the_target_get_another_replica_and_beyond_the_last_they_wait() {
    let settings = Settings { concurrency: 1, max_scale: 2, ..Settings::default() };
    let site = Site::new().with("busy", HTTPD, settings);
    let replicas = site.start().await;
    let (one, two) = tokio::join!(acquire(&replicas, "busy"), acquire(&replicas, "busy"));
    assert_ne!(one.replica().id, two.replica().id);
    let waiting = tokio::spawn({
        let replicas = replicas.clone();
        async move { acquire(&replicas, "busy").await.replica().id.clone() }
    });
    let freed = one.replica().id.clone();
    tokio::task::yield_now().await;
    drop(one);
    assert_eq!(waiting.await.unwrap(), freed);
    drop(two);
    site.close(replicas).await;
}

#[tokio::test]
async fn a_new_version_takes_over_while_calls_of_the_one_before_finish() {
    let site = Site::new().with("v", HTTPD, Settings::default());
    let replicas = site.start().await;
    let old = acquire(&replicas, "v").await;
    let mut settings = Settings::default();
    settings.env.insert("WHICH".into(), "second".into());
    let mut record: FunctionRecord = site.records[0].clone();
    let version = site.images.add("v", HTTPD, settings);
    replicas.prepare(&version).await.unwrap();
    record.push(version, "2026-01-02T00:00:00Z".into());
    site.put(&record).await;
    replicas.updated(&record.name).await.unwrap();
    let new = acquire(&replicas, "v").await;
    assert_eq!((old.version().number, new.version().number), (1, 2));
    assert_eq!(inside(&new, "echo $WHICH").await, "second");
    assert_eq!(inside(&old, "echo still $WHICH").await, "still");
    let gone = old.replica().clone();
    drop(old);
    assert!(gone.fate(Duration::from_secs(20)).await.is_some());
    drop(new);
    site.close(replicas).await;
}

#[tokio::test]
async fn two_data_folders_live_in_one_namespace_and_clean_up_their_own() {
    let one = Site::new().with("twin", HTTPD, Settings::default());
    let two = Site::beside(&one).with("twin", HTTPD, Settings::default());
    let (first, second) = tokio::join!(one.start(), two.start());
    let (a, b) = tokio::join!(acquire(&first, "twin"), acquire(&second, "twin"));
    assert_ne!(a.replica().address, b.replica().address);
    drop(a);
    one.close_folder(first).await;
    assert_eq!(inside(&b, "echo here").await, "here");
    drop(b);
    // The image is still whole: another replica starts from it without the registry's help.
    second.scale(&function("twin"), 0).await.unwrap();
    assert_eq!(inside(&acquire(&second, "twin").await, "echo again").await, "again");
    two.close(second).await;
}

#[tokio::test]
async fn a_function_is_deleted_even_when_process_1_ignores_sigterm() {
    let script = "trap '' TERM; httpd -p 8081 -h /www; while true; do sleep 0.1; done";
    let site = Site::new().with("stubborn", script, Settings::default());
    let replicas = site.start().await;
    let replica = acquire(&replicas, "stubborn").await.replica().clone();
    let name = function("stubborn");
    let stored = site.store.get(&name).await.unwrap().unwrap();
    site.store.delete(&name, stored.revision).await.unwrap();
    replicas.updated(&name).await.unwrap();
    assert_eq!(replica.fate(Duration::ZERO).await.unwrap().status, 137);
    assert!(!ctr(&site.namespace, &["containers", "ls", "-q"]).contains(&replica.id));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_command_runs_inside_with_its_own_streams_and_exit_status() {
    let site = Site::new().with("exec", HTTPD, Settings::default());
    let replicas = site.start().await;
    drop(acquire(&replicas, "exec").await);
    let args = ["sh", "-c", "cat; echo wrong >&2; id -u; exit 4"].map(String::from).to_vec();
    let request = ExecRequest { args, terminal: None };
    let mut exec = replicas.exec(&function("exec"), None, &request).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(exec.stdin.as_mut().unwrap(), b"typed\n").await.unwrap();
    exec.close_stdin().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    exec.stdout.read_to_string(&mut out).await.unwrap();
    exec.stderr.as_mut().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!(exec.wait().await.unwrap().status, 4);
    let uid = out.strip_prefix("typed\n").unwrap().trim().parse::<u32>().unwrap();
    assert!(uid >= 200_000);
    assert_eq!(err, "wrong\n");
    site.close(replicas).await;
}

#[tokio::test]
async fn a_replica_whose_shim_is_killed_is_replaced_and_leaves_nothing() {
    let site = Site::new().with("orphan", HTTPD, Settings::default());
    let replicas = site.start().await;
    let first = acquire(&replicas, "orphan").await.replica().clone();
    let status = std::fs::read_to_string(format!("/proc/{}/status", first.pid)).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(first.fate(Duration::from_secs(20)).await.is_some());
    let next = acquire(&replicas, "orphan").await;
    assert_eq!(inside(&next, "echo here").await, "here");
    drop(next);
    site.close(replicas).await;
}
