//! Several nodes over one etcd and one registry: what one does, all serve; and what goes on when something is away.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::balancer::Balancer;
use crate::support::cluster::Cluster;
use crate::support::server::FnbuildServer;
use crate::support::{fnbuild, run, run_failing, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn answers(cluster: &Cluster, node: usize, target: &str) -> (u16, String) {
    cluster.nodes[node].call(target, &json!({}))
}

/// Waits until every node answers so.
#[track_caller]
fn all_answer(cluster: &Cluster, target: &str, status: u16, body: &str) {
    for node in 0..cluster.nodes.len() {
        wait_until(&format!("{body} from node {node}"), PATIENCE, || {
            let (found, text) = answers(cluster, node, target);
            found == status && text.contains(body)
        });
    }
}

/// The nodes on which replicas of a version run, in order.
fn hosts(cluster: &Cluster, at: usize, name: &str, version: u64) -> Vec<String> {
    let described = cluster.told(at, &["describe", name]);
    let replicas = described["replicas"].as_array().unwrap().iter();
    let of_version = replicas.filter(|replica| replica["version"] == version && replica["state"] == "ready");
    let mut nodes: Vec<String> = of_version.map(|replica| replica["node"].as_str().unwrap().into()).collect();
    nodes.sort();
    nodes
}

#[test]
fn what_one_node_is_told_all_serve() {
    let cluster = Cluster::start(3, 1);
    assert_eq!(cluster.push(0, "f", 1, &[])["version"], 1);
    all_answer(&cluster, "f", 200, "1");
    assert_eq!(cluster.push(1, "f", 2, &[])["version"], 2);
    all_answer(&cluster, "f", 200, "2");
    run(cluster.nodes[2].command().args(["rollback", "f"]));
    all_answer(&cluster, "f", 200, "1");
    all_answer(&cluster, "f@2", 200, "2");

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
        let mut hosts = hosts(&cluster, 2, "f", 3);
        hosts.dedup();
        hosts.len() == 3
    });
    cluster.push(0, "single", 7, &["--max-scale", "1"]);
    let told: Vec<_> = (0..3).map(|node| answers(&cluster, node, "single")).collect();
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
    all_answer(&cluster, "f", 404, "no function f");
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
    cluster.push(1, "f", 2, &[]);
    let bad = run_failing(&mut command(0, &["route", "f", "--to", "1=90"]), 1);
    assert!(bad.contains("come to 90"), "{bad}");
    run(&mut command(0, &["route", "f", "--to", "1=90", "--to", "2=10"]));
    for node in 0..2 {
        wait_until("the division", PATIENCE, || cluster.told(node, &["describe", "f"])["split"]["1"] == 90);
        wait_until("both versions", PATIENCE, || {
            let counts = (0..20).filter(|_| answers(&cluster, node, "f").1 == "2").count();
            counts == 2
        });
        let twos = (0..100).filter(|_| answers(&cluster, node, "f").1 == "2").count();
        assert_eq!(twos, 10, "exactly its percent");
    }
    // A push takes no calls from a split; a rollback ends it.
    let told = command(0, &["config", "f", "-e", "A=1"]).output().unwrap();
    assert!(told.status.success());
    assert_eq!(cluster.told(1, &["describe", "f"])["split"]["1"], 90);
    run(&mut command(1, &["rollback", "f", "2"]));
    all_answer(&cluster, "f", 200, "2");

    // Four versions are kept: the first goes, with its image.
    for number in 10..12 {
        cluster.push(number % 2, "f", u32::try_from(number).unwrap(), &["-q"]);
    }
    let versions = cluster.told(0, &["versions", "f"]);
    let numbers: Vec<_> =
        versions["versions"].as_array().unwrap().iter().map(|v| v["number"].clone()).collect();
    assert_eq!(numbers, (2..=5).map(Value::from).collect::<Vec<_>>());
    assert_eq!(answers(&cluster, 0, "f@1").0, 404);
    let digest = first["digest"].as_str().unwrap();
    let manifest = format!("http://{}/v2/fn/f/manifests/{digest}", cluster.nodes[0].registry().host());
    let mut curl = Command::new("curl");
    assert_eq!(run(curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &manifest])), "404");
}

#[test]
fn calls_go_on_while_etcd_is_gone_and_everything_catches_up() {
    let mut cluster = Cluster::start(2, 1);
    cluster.push(0, "f", 1, &[]);
    all_answer(&cluster, "f", 200, "1");
    cluster.etcd.stop();
    wait_until("readyz to say so", PATIENCE, || {
        let (status, told) = cluster.nodes[1].get("/readyz");
        status == 503 && told.contains("etcd")
    });
    for node in 0..2 {
        assert_eq!(answers(&cluster, node, "f"), (200, "1".into()));
    }
    let refused = run_failing(cluster.nodes[0].command().args(["config", "f", "-e", "A=1"]), 1);
    assert!(refused.contains("etcd") && refused.contains("nothing was lost"), "{refused}");
    assert_eq!(cluster.told(0, &["versions", "f"])["current"], 1);

    cluster.etcd.start_member(0);
    cluster.etcd.wait_until_healthy();
    for node in &cluster.nodes {
        wait_until("the node to be ready again", PATIENCE, || node.get("/readyz").0 == 200);
    }
    cluster.push(0, "f", 2, &[]);
    all_answer(&cluster, "f", 200, "2");

    // A node that was away while history was compacted has what came and what went.
    cluster.nodes[1].kill();
    cluster.push(0, "f", 3, &[]);
    cluster.push(0, "new", 9, &[]);
    let revision = cluster.etcd.revision().to_string();
    run(cluster.etcd.etcdctl().args(["compact", &revision]));
    cluster.nodes[1].start_again();
    all_answer(&cluster, "f", 200, "3");
    all_answer(&cluster, "new", 200, "9");
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
    all_answer(&cluster, "f", 200, "1");
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port()).collect();
    let balancer = start(&ports);
    let (done, calls) = (AtomicBool::new(false), AtomicU32::new(0));
    let url = format!("http://127.0.0.1:{}/function/f", balancer.port);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        let mut curl = Command::new("curl");
                        curl.args(["-sS", "--max-time", "60", "-w", " %{http_code}", "-d", "{}", &url]);
                        let answer = curl.output().unwrap();
                        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
                        calls.fetch_add(1, Ordering::Relaxed);
                        if text != "1 200" {
                            failed.push(format!("{text} {}", String::from_utf8_lossy(&answer.stderr)));
                        }
                    }
                    failed
                })
            })
            .collect();
        for node in &mut cluster.nodes {
            let before = calls.load(Ordering::Relaxed);
            node.stop();
            node.start_again();
            wait_until("more calls", PATIENCE, || calls.load(Ordering::Relaxed) > before + 20);
        }
        done.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{} of {} calls: {failed:?}", failed.len(), calls.load(Ordering::Relaxed));
}

#[test]
fn a_rolling_restart_behind_haproxy_loses_no_call() {
    rolls(Balancer::haproxy);
}

#[test]
fn a_rolling_restart_behind_nginx_loses_no_call() {
    rolls(Balancer::nginx);
}
