//! What is left after things were killed: the server, the containerd, the whole machine. And that it goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::containerd::{Containerd, unmount_below};
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{comes_true, run, wait_until};

const ADD: &str = "examples/add";
const PATIENCE: Duration = Duration::from_secs(60);

fn folder_id(server: &FnbuildServer) -> String {
    std::fs::read_to_string(server.data_dir().join("id")).unwrap().trim().to_string()
}

/// How many of each thing the server has on the machine, counted where they are.
fn counts(server: &FnbuildServer, containerd: &Path) -> BTreeMap<&'static str, usize> {
    let id = folder_id(server);
    let ctr = |arguments: &[&str]| {
        let mut ctr = Command::new("ctr");
        run(ctr.arg("--address").arg(containerd).args(["-n", server.namespace()]).args(arguments))
    };
    let lines = |text: String| text.lines().filter(|line| !line.trim().is_empty()).count();
    let marked = |text: String| text.lines().filter(|line| line.contains(&id)).count();
    let names = |folder: &str| {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.map(|name| name.file_name().into_string().unwrap()).collect::<Vec<_>>().join("\n")
    };
    let rules = ["filter", "nat"].map(|table| run(Command::new("iptables").args(["-w", "-t", table, "-S"])));
    let leased = names(&format!("{}/network/ipam/fnb-{id}", server.data_dir().display()));
    BTreeMap::from([
        ("containers", lines(ctr(&["containers", "ls", "-q"]))),
        ("tasks", lines(ctr(&["tasks", "ls", "-q"]))),
        ("active snapshots", ctr(&["snapshots", "ls"]).matches("Active").count()),
        ("network namespaces", marked(names("/run/netns"))),
        ("addresses", leased.lines().filter(|name| name.parse::<std::net::Ipv4Addr>().is_ok()).count()),
        ("rules", marked(rules.join("\n"))),
        ("mounts", marked(std::fs::read_to_string("/proc/self/mountinfo").unwrap())),
        ("cgroups", lines(groups(&id))),
        ("replica folders", lines(names(&format!("{}/replicas", server.data_dir().display())))),
    ])
}

/// The replicas' own cgroups, of v1 or v2.
fn groups(id: &str) -> String {
    let one = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .map(|root| PathBuf::from(root).join(format!("fnbuild-{id}")));
    let found = one.iter().find(|folder| folder.exists());
    let entries = found.map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir()).map(|e| e.file_name().into_string().unwrap());
    folders.collect::<Vec<_>>().join("\n")
}

fn answers(server: &FnbuildServer, name: &str) -> bool {
    server.call(name, &json!({ "x": 1, "y": 2 })) == (200, "3".into())
}

/// Five times; `scripts/soak` says 200.
#[test]
fn a_server_that_is_killed_again_and_again_leaves_nothing_behind() {
    let kills = std::env::var("FNBUILD_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let mut server = FnbuildServer::start_with(&["--pool", "1"]);
    run(server.command().args(["push", ADD]));
    run(server.command().args(["scale", "add", "1"]));
    assert!(answers(&server, "add"));
    let containerd = crate::support::server::containerd();
    // One replica that stays, and one container that waits; of the replica that was there before `scale`, nothing.
    let settled = |server: &FnbuildServer| {
        let each = ["tasks", "containers", "active snapshots", "network namespaces", "addresses", "cgroups"];
        let mut last = BTreeMap::new();
        let are_two = comes_true(PATIENCE, || {
            last = counts(server, &containerd);
            each.into_iter().chain(["replica folders"]).all(|thing| last[thing] == 2)
        });
        assert!(are_two, "{last:?}");
        last
    };
    let before = settled(&server);
    let replica = || run(server.command().args(["describe", "add", "-o", "json"]));
    let id = |text: String| serde_json::from_str::<Value>(&text).unwrap()["replicas"][0]["id"].clone();
    let first = id(replica());
    for _ in 0..kills {
        server.kill();
        server.start_again();
        assert!(answers(&server, "add"));
    }
    let last = id(run(server.command().args(["describe", "add", "-o", "json"])));
    assert_eq!(first, last, "it is adopted each time");
    let mut after = BTreeMap::new();
    comes_true(PATIENCE, || {
        after = counts(&server, &containerd);
        after == before
    });
    assert_eq!(before, after);
}

#[test]
fn a_namespace_that_was_cut_off_while_it_was_made_does_not_keep_a_server_from_starting() {
    let mut server = FnbuildServer::start_with(&["--pool", "0"]);
    server.kill();
    // The file is there, and nothing is mounted on it: made between the two steps of making a namespace.
    let cut_off = PathBuf::from(format!("/run/netns/fnb-{}-cut-off", folder_id(&server)));
    std::fs::write(&cut_off, "").unwrap();
    server.start_again();
    assert!(!cut_off.exists());
    run(server.command().args(["push", ADD]));
    assert!(answers(&server, "add"));
}

#[test]
fn calls_go_on_while_containerd_is_dead_and_starts_wait_for_it() {
    let mut containerd = Containerd::start();
    let mut server = FnbuildServer::prepare(DockerRegistry::start(), &["--pool", "0"]);
    server.set_containerd(&containerd.socket());
    server.start_again();
    run(server.command().args(["push", ADD]));
    run(server.command().args(["push", ADD, "--name", "other"]));
    assert!(answers(&server, "add"));
    containerd.kill();
    assert!(answers(&server, "add"), "what runs goes on answering");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| answers(&server, "other"));
        wait_until("a start to fail", PATIENCE, || server.get("/readyz").0 == 503);
        containerd.start_again();
        assert!(waiting.join().unwrap(), "a start waits for containerd");
    });
    assert!(answers(&server, "add"));
    drop(server);
}

#[test]
fn after_the_machine_was_off_everything_answers_again() {
    let mut containerd = Containerd::start();
    let mut server = FnbuildServer::prepare(DockerRegistry::start(), &["--pool", "0"]);
    server.set_containerd(&containerd.socket());
    server.start_again();
    run(server.command().args(["push", ADD]));
    run(server.command().args(["push", ADD, "--name", "other"]));
    assert!(answers(&server, "add") && answers(&server, "other"));
    let id = folder_id(&server);

    // What a reboot takes: processes, mounts, namespaces, interfaces, rules, and what lies below /run.
    server.kill();
    containerd.kill_with_everything();
    unmount_below(&containerd.state());
    std::fs::remove_dir_all(containerd.state()).unwrap();
    for entry in std::fs::read_dir("/run/netns").unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(&id) {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    run(Command::new("ip").args(["link", "delete", &format!("fnb-{id}")]));
    for (table, builtin, chain) in
        [("filter", "FORWARD", "FWD"), ("filter", "INPUT", "IN"), ("nat", "POSTROUTING", "NAT")]
    {
        let chain = format!("FNB-{id}-{chain}");
        run(Command::new("iptables").args(["-w", "-t", table, "-D", builtin, "-j", &chain]));
        run(Command::new("iptables").args(["-w", "-t", table, "-F", &chain]));
        run(Command::new("iptables").args(["-w", "-t", table, "-X", &chain]));
    }
    std::fs::remove_file(format!("/run/fnbuild/subnets/{id}")).unwrap();

    containerd.start_again();
    server.start_again();
    assert!(answers(&server, "add") && answers(&server, "other"));
    let counts = counts(&server, &containerd.socket());
    for thing in ["containers", "tasks", "active snapshots", "network namespaces", "addresses", "cgroups"] {
        assert_eq!(counts[thing], 2, "{thing}: {counts:?}");
    }
    drop(server);
}

#[test]
fn a_new_program_takes_over_the_listener_and_nobody_is_refused() {
    let server = FnbuildServer::start_with(&["--pool", "0"]);
    run(server.command().args(["push", ADD]));
    assert!(answers(&server, "add"));
    let pid = server.pid();
    let over = AtomicBool::new(false);
    let starts = || server.log().matches("listening on").count();
    let before = starts();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !over.load(Ordering::Relaxed) {
                        // Each with a connection of its own: one that is refused fails.
                        assert!(answers(&server, "add"));
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for turn in 1..=3 {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGHUP,
            )
            .unwrap();
            wait_until("the server to be the new program", PATIENCE, || {
                starts() == before + turn || callers.iter().any(std::thread::ScopedJoinHandle::is_finished)
            });
        }
        over.store(true, Ordering::Relaxed);
        let calls: Vec<u32> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        assert!(calls.iter().all(|calls| *calls > 0), "{calls:?}");
    });
    assert_eq!(server.pid(), pid);
}
