//! Several nodes over one etcd and one registry: what one does, all serve. What goes on when something fails is in
//! `faults`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::balancer::Balancer;
use crate::support::callers::{Callers, HeldCall};
use crate::support::cluster::{Cluster, PATIENCE};
use crate::support::server::FnbuildServer;
use crate::support::{fnbuild, run, run_failing, wait_until};

#[test]
fn what_one_node_is_told_all_serve() {
    let cluster = Cluster::start(3, 1);
    assert_eq!(cluster.push(0, "f", 1, &[])["version"], 1);
    cluster.all_answer("f", 200, "1");
    assert_eq!(cluster.push(1, "f", 2, &[])["version"], 2);
    cluster.all_answer("f", 200, "2");
    run(cluster.nodes[2].command().args(["rollback", "f"]));
    cluster.all_answer("f", 200, "1");
    cluster.all_answer("f@2", 200, "2");

    // The nodes know of each other, and of each other's replicas.
    let ready = || -> Vec<Value> {
        let nodes = cluster.told(1, &["nodes"]);
        nodes.as_array().unwrap().iter().filter(|node| node["state"] == "ready").cloned().collect()
    };
    wait_until("three nodes", PATIENCE, || ready().len() == 3);
    assert!(ready().iter().all(|node| node["capacity"]["cpus"].as_u64() >= Some(1)));

    // Scales are the cluster's: three that stay are one on each, and one at most is on one alone.
    run(cluster.nodes[0].command().args(["config", "f", "--min-scale", "3", "--max-scale", "3"]));
    wait_until("a replica on each node", PATIENCE, || {
        let mut hosts = cluster.hosts(2, "f", 3);
        hosts.dedup();
        hosts.len() == 3
    });
    // What one node is told to have at once too: no more than its share comes at that node.
    let asked = ["-H", "Content-Type:", "-d", r#"{"replicas": 5}"#, "/system/scale-function/f"];
    assert_eq!(cluster.nodes[0].curl(&asked), (202, String::new()));
    wait_until("five replicas on three nodes", PATIENCE, || {
        let hosts = cluster.hosts(2, "f", 4);
        let mut each: Vec<_> = hosts.chunk_by(|one, other| one == other).map(<[String]>::len).collect();
        each.sort();
        each == [1, 2, 2]
    });
    cluster.push(0, "single", 7, &["--max-scale", "1"]);
    let told: Vec<_> = (0..3).map(|node| cluster.answer(node, "single")).collect();
    assert_eq!(
        told.iter().filter(|(status, body)| (*status, body.as_str()) == (200, "7")).count(),
        1,
        "{told:?}"
    );
    let refused: Vec<_> = told.iter().filter(|(status, _)| *status == 503).collect();
    assert!(refused.len() == 2 && refused.iter().all(|(_, body)| body.contains("other nodes")), "{told:?}");
    let one = (0..3).find(|node| told[*node].0 == 503).unwrap();
    let (_, headers) = cluster.nodes[one].curl(&["-o", "/dev/null", "-D", "-", "/function/single"]);
    assert!(headers.to_lowercase().contains("retry-after: 1"), "{headers}");

    run(cluster.nodes[1].command().args(["delete", "f"]));
    cluster.all_answer("f", 404, "no function f");
}

#[test]
fn calls_are_divided_and_old_versions_are_given_up_at_every_node() {
    let cluster = Cluster::start_with(2, 1, &["--keep", "4"]);
    let command = |node: usize, arguments: &[&str]| {
        let mut command = cluster.nodes[node].command();
        command.args(arguments);
        command
    };
    let first = cluster.push(0, "f", 1, &["--max-scale", "4"]);
    let second = cluster.push(1, "f", 2, &[]);
    let bad = run_failing(&mut command(0, &["route", "f", "--to", "1=90"]), 1);
    assert!(bad.contains("come to 90"), "{bad}");
    run(&mut command(0, &["route", "f", "--to", "1=90", "--to", "2=10"]));
    for node in 0..2 {
        wait_until("the division", PATIENCE, || cluster.told(node, &["describe", "f"])["split"]["1"] == 90);
        wait_until("both versions", PATIENCE, || {
            let counts = (0..20).filter(|_| cluster.answer(node, "f").1 == "2").count();
            counts == 2
        });
        let twos = (0..100).filter(|_| cluster.answer(node, "f").1 == "2").count();
        assert_eq!(twos, 10, "exactly its percent");
    }
    // A push takes no calls from a split; a rollback ends it.
    let told = command(0, &["config", "f", "-e", "A=1"]).output().unwrap();
    assert!(told.status.success());
    assert_eq!(cluster.told(1, &["describe", "f"])["split"]["1"], 90);
    run(&mut command(1, &["rollback", "f", "2"]));
    cluster.all_answer("f", 200, "2");

    // Four versions are kept: the first goes, with its image.
    for number in 10..12 {
        cluster.push(number % 2, "f", u32::try_from(number).unwrap(), &["-q"]);
    }
    wait_until("the first to be gone at the other node too", PATIENCE, || {
        let versions = cluster.told(0, &["versions", "f"]);
        let numbers = versions["versions"].as_array().unwrap().iter().map(|v| v["number"].clone());
        numbers.eq((2..=5).map(Value::from))
    });
    wait_until("the first to be gone from node 0's routes too", PATIENCE, || {
        cluster.answer(0, "f@1").0 == 404
    });
    let status = |pushed: &Value| cluster.registry.status_of("fn/f", pushed["digest"].as_str().unwrap());
    wait_until("its image to be gone", PATIENCE, || status(&first) == "404");
    assert_eq!(status(&second), "200");
}

#[test]
fn pushes_at_two_nodes_at_once_get_a_version_each_and_the_later_one_is_served() {
    let cluster = Cluster::start(2, 1);
    let versions: Vec<u64> = std::thread::scope(|scope| {
        let push = |node: usize, returns: u32| {
            let cluster = &cluster;
            scope.spawn(move || {
                cluster.push(node, "f", returns, &["--max-scale", "4"])["version"].as_u64().unwrap()
            })
        };
        [push(0, 10), push(1, 11)].map(|pushed| pushed.join().unwrap()).into()
    });
    let mut sorted = versions.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 2]);
    // Neither is mixed up with the other, at any node.
    for (pusher, version) in versions.iter().enumerate() {
        cluster.all_answer(&format!("f@{version}"), 200, &(10 + pusher).to_string());
    }
    let later = versions.iter().position(|version| *version == 2).unwrap();
    cluster.all_answer("f", 200, &(10 + later).to_string());
}

/// A function that takes as many seconds as it is told.
#[test]
fn a_node_at_its_limit_or_on_its_way_out_says_so_and_its_calls_go_elsewhere() {
    let cluster = Cluster::start_with(2, 1, &["--max-replicas", "1", "--drain", "5m"]);
    cluster.push(0, "held", 7, &["--concurrency", "1", "--max-scale", "2"]);
    cluster.push(0, "other", 9, &["--max-scale", "2"]);
    // What a balancer sees of a call that is not taken.
    let refused = |node: usize, why: &str| {
        let (_, told) = cluster.nodes[node].curl(&["-i", "-d", "{}", "/function/other"]);
        let told = told.to_lowercase();
        told.contains(" 503 ") && told.contains("retry-after: 1") && told.contains(why)
    };
    let held = |node: usize| HeldCall::begin(&cluster.urls("held")[node]);
    let busy = held(0);
    wait_until("the node to be full", PATIENCE, || {
        let (status, told) = cluster.nodes[0].get("/readyz?calls");
        status == 503 && told.contains("at its limit")
    });
    assert!(refused(0, "no room"));
    assert_eq!(cluster.answer(1, "other"), (200, "9".into()), "the other node has room");
    assert_eq!(busy.let_go(), "7 200");
    wait_until("the node to have room", PATIENCE, || cluster.nodes[0].get("/readyz?calls").0 == 200);

    let busy = held(1);
    let in_flight =
        || cluster.told(1, &["nodes"]).as_array().unwrap().iter().any(|n| n["load"]["inFlight"] == 1);
    wait_until("the call to be there", PATIENCE, in_flight);
    let pid = nix::unistd::Pid::from_raw(cluster.nodes[1].pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    // It cannot be gone before this call is answered, however long the machine takes over the rest.
    wait_until("the node to say that it stops", PATIENCE, || {
        let (status, told) = cluster.nodes[1].get("/readyz?calls");
        status == 503 && told.contains("is stopping")
    });
    wait_until("the node to take no more calls", PATIENCE, || refused(1, "is stopping"));
    assert_eq!(busy.let_go(), "7 200", "what it works on it finishes");
    assert_eq!(cluster.answer(0, "other"), (200, "9".into()));
}

#[test]
fn a_node_with_another_key_is_not_ready_and_says_why() {
    let cluster = Cluster::start(1, 1);
    let mut stranger = cluster.prepare("another.key");
    stranger.start_process();
    wait_until("the other node", PATIENCE, || {
        let (status, told) = stranger.get_or_nothing("/readyz");
        status == 503 && told.contains("the key of the secrets is not well")
    });
    assert_eq!(cluster.nodes[0].get("/readyz").0, 200);
    let alone = run_failing(fnbuild().args(["serve", "--etcd", "http://127.0.0.1:1"]), 2);
    assert!(alone.contains("--registry"), "{alone}");
}

#[test]
fn a_server_killed_while_it_takes_a_push_leaves_the_old_or_the_new_version_whole() {
    let rounds: u32 = std::env::var("FNBUILD_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let mut server = FnbuildServer::start_with(&["--pool", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let push = |server: &FnbuildServer, returns: u32| {
        let code = format!("def run():\n    return {returns}\n");
        std::fs::write(folder.path().join("func.py"), code).unwrap();
        let mut push = server.command();
        push.arg("push").arg(folder.path()).args(["--name", "f"]);
        push
    };
    run(&mut push(&server, 0));
    let begun = std::time::Instant::now();
    run(&mut push(&server, 1));
    let whole = begun.elapsed();
    let mut last = 1;
    for round in 2..2 + rounds {
        let mut pushing = push(&server, round).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let moment = getrandom::u32().unwrap() % 1000;
        std::thread::sleep(whole * moment / 1000);
        server.kill();
        let acknowledged = pushing.wait().unwrap().success();
        server.start_again();
        let (status, body) = server.call("f", &json!({}));
        let found: u32 = body.parse().unwrap();
        assert!(status == 200 && (found == round || found == last && !acknowledged), "{round}: {found}");
        last = found;
        run(server.command().args(["doctor", "--repair"]));
        let told = run(server.command().args(["doctor"]));
        assert!(told.contains("everything agrees"), "{told}");
    }
}

#[test]
fn the_doctor_finds_what_does_not_agree_and_repairs_what_follows_the_record() {
    let server = FnbuildServer::start_with(&["--pool", "0"]);
    let registry = server.registry().host();
    run(server.command().args(["push", "examples/add"]));
    assert!(run(server.command().arg("doctor")).contains("functions looked at: 1; everything agrees"));

    // Somebody moves a tag.
    let url = |name: &str| format!("http://{registry}/v2/fn/add/manifests/{name}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    run(server.command().args(["config", "add", "-e", "A=1"]));
    let other = run(Command::new("curl").args(["-sS", "-H", &format!("Accept: {kind}"), &url("latest")]));
    // The same to every reader, and another digest.
    let changed = format!(" {other}");
    run(Command::new("curl").args(["-sSf", "-X", "PUT", "-H", &format!("Content-Type: {kind}")]).args([
        "--data-binary",
        &changed,
        &url("latest"),
    ]));
    let found = server.command().arg("doctor").output().unwrap();
    let told = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.status.code() == Some(1) && told.contains("fn/add:latest"), "{told}");
    assert!(run(server.command().args(["doctor", "--repair"])).contains("(repaired)"));
    assert!(run(server.command().arg("doctor")).contains("everything agrees"));

    // Somebody deletes an image: nothing can be done about that but to say it.
    let described = run(server.command().args(["describe", "add", "-o", "json"]));
    let described: Value = serde_json::from_str(&described).unwrap();
    run(Command::new("curl").args(["-sSf", "-X", "DELETE", &url(described["digest"].as_str().unwrap())]));
    let told = server.command().args(["doctor", "--repair"]).output().unwrap();
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.code() == Some(1) && text.contains("is not in the registry"), "{text}");
    assert_eq!(server.call("add", &json!({ "x": 1, "y": 2 })), (200, "3".into()));
}

/// Every node is stopped and started again while calls go through a balancer.
fn rolls(start: impl Fn(&[u16]) -> Balancer) {
    let mut cluster = Cluster::start(3, 1);
    cluster.push(0, "f", 1, &["--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port()).collect();
    let balancer = start(&ports);
    let url = format!("http://127.0.0.1:{}/function/f", balancer.port);
    let callers = Callers::start(&[url.clone(), url.clone(), url], &["1"]);
    for node in &mut cluster.nodes {
        node.stop();
        node.start_again();
        callers.wait_for(20);
    }
    callers.finish();
}

#[test]
fn a_rolling_restart_behind_haproxy_loses_no_call() {
    rolls(Balancer::haproxy);
}

#[test]
fn a_rolling_restart_behind_nginx_loses_no_call() {
    rolls(Balancer::nginx);
}
