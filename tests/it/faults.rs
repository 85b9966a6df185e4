//! What goes on when something fails: three nodes with a containerd each, three members of etcd, one registry, as
//! processes of their own; and the servers that are killed in the middle of something.

use serde_json::Value;

use crate::support::balancer::Balancer;
use crate::support::callers::Callers;
use crate::support::cluster::{Cluster, PATIENCE};
use crate::support::{run, run_failing, wait_until};

/// Waits until a node says in `/readyz` that this is away, and that calls are answered all the same.
#[track_caller]
fn says_that_it_misses(cluster: &Cluster, node: usize, what: &str) {
    wait_until(&format!("node {node} to miss {what}"), PATIENCE, || {
        let (status, told) = cluster.nodes[node].get("/readyz");
        status == 503 && told.contains(what)
    });
    assert_eq!(cluster.nodes[node].get("/readyz?calls").0, 200);
}

#[track_caller]
fn is_ready(cluster: &Cluster, node: usize) {
    wait_until(&format!("node {node} to be ready"), PATIENCE, || cluster.nodes[node].get("/readyz").0 == 200);
}

/// The nodes that one of them knows to be there.
fn nodes(cluster: &Cluster, at: usize) -> usize {
    cluster.told(at, &["nodes"]).as_array().unwrap().len()
}

#[test]
fn a_member_of_etcd_dies_and_nobody_notices() {
    let mut cluster = Cluster::apart(&[]);
    cluster.push(0, "f", 1, &["--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    let callers = Callers::start(&cluster.urls("f"), &["1"]);
    // The one that leads, so that the others have to agree on another; then one that follows.
    let leader = cluster.etcd.leader();
    for (round, member) in [leader, (leader + 1) % 3].into_iter().enumerate() {
        cluster.etcd.crash(member);
        let returns = 10 * u32::try_from(round + 1).unwrap();
        for node in 0..3 {
            cluster.push(node, "g", returns + u32::try_from(node).unwrap(), &["--max-scale", "6"]);
        }
        cluster.all_answer("g", 200, &(returns + 2).to_string());
        callers.wait_for(10);
        cluster.etcd.start_member(member);
        cluster.etcd.wait_until_healthy();
    }
    callers.finish();
    (0..3).for_each(|node| is_ready(&cluster, node));
}

#[test]
fn without_etcd_calls_go_on_nothing_is_lost_and_everything_catches_up() {
    let mut cluster = Cluster::apart(&[]);
    cluster.push(0, "f", 1, &["--max-scale", "6"]);
    cluster.push(1, "gone", 5, &["--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    cluster.all_answer("gone", 200, "5");
    let callers = Callers::start(&cluster.urls("f"), &["1"]);
    (0..3).for_each(|member| cluster.etcd.crash(member));
    (0..3).for_each(|node| says_that_it_misses(&cluster, node, "etcd"));

    // Nobody can change anything, and is told why.
    let told = cluster.push_in_vain(0, "f", 2);
    assert!(told.contains("etcd") && told.contains("nothing was lost"), "{told}");
    let upload = ["-T", "examples/add/func.py", "/v1/functions/late?filename=func.py"];
    let (status, told) = cluster.nodes[1].curl(&upload);
    assert!(status == 503 && told.contains("StoreUnavailable") && told.contains("etcd"), "{status} {told}");
    assert_eq!(cluster.nodes[1].get("/v1/functions/late").0, 404);
    assert_eq!(cluster.told(0, &["versions", "f"])["current"], 1);
    callers.wait_for(10);
    callers.finish();

    // One that is started again knows what it knew.
    cluster.nodes[1].stop();
    cluster.nodes[1].start_process();
    wait_until("the node without etcd", PATIENCE, || cluster.nodes[1].get_or_nothing("/healthz").0 == 200);
    assert_eq!(cluster.answer(1, "f"), (200, "1".into()));

    // etcd comes back, but one node does not reach it before history is compacted.
    cluster.links[2].iter().for_each(|link| link.silence());
    (0..3).for_each(|member| cluster.etcd.start_member(member));
    cluster.etcd.wait_until_healthy();
    (0..2).for_each(|node| is_ready(&cluster, node));
    cluster.push(0, "f", 2, &[]);
    cluster.push(1, "new", 9, &["--max-scale", "6"]);
    run(cluster.nodes[0].command().args(["delete", "gone"]));
    run(cluster.etcd.etcdctl().args(["compact", &cluster.etcd.revision().to_string()]));
    assert_eq!(cluster.answer(2, "f"), (200, "1".into()));
    assert_eq!(cluster.answer(2, "gone"), (200, "5".into()));

    cluster.links[2].iter().for_each(|link| link.mend());
    cluster.all_answer("f", 200, "2");
    cluster.all_answer("new", 200, "9");
    cluster.all_answer("gone", 404, "no function gone");
    is_ready(&cluster, 2);
    // What was refused did not happen later.
    let versions = cluster.told(2, &["versions", "f"]);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2, "{versions}");
    assert_eq!(cluster.answer(2, "late").0, 404);
}

#[test]
fn a_node_dies_and_the_others_serve() {
    let mut cluster = Cluster::apart(&[]);
    cluster.push(0, "f", 1, &["--min-scale", "3", "--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    wait_until("a replica on each node", PATIENCE, || {
        let mut hosts = cluster.hosts(0, "f", 1);
        hosts.dedup();
        hosts.len() == 3
    });
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.port()).collect();
    let balancer = Balancer::haproxy(&ports);
    let others = Callers::start(&cluster.urls("f")[..2], &["1"]);

    // The whole machine: server, containerd, and all that ran.
    cluster.nodes[2].kill();
    cluster.containerds[2].kill_with_everything();
    let url = format!("http://127.0.0.1:{}/function/f", balancer.port);
    let behind = Callers::start(&[url.clone(), url], &["1"]);
    behind.wait_for(30);
    behind.finish();
    wait_until("the others to know", PATIENCE, || (0..2).all(|node| nodes(&cluster, node) == 2));
    wait_until("its share to be theirs", PATIENCE, || {
        let hosts = cluster.hosts(0, "f", 1);
        hosts.len() == 3 && hosts[0] != hosts[2]
    });
    others.finish();
    cluster.push(1, "f", 2, &[]);
    for node in 0..2 {
        cluster.waits_for(node, "f", (200, "2"));
    }

    // The machine is up again.
    cluster.containerds[2].start_again();
    cluster.nodes[2].start_again();
    cluster.all_answer("f", 200, "2");
    wait_until("three nodes", PATIENCE, || nodes(&cluster, 0) == 3);
}

#[test]
fn a_node_that_is_cut_off_from_etcd_serves_what_it_knows_and_says_so() {
    let cluster = Cluster::apart(&[]);
    cluster.push(0, "f", 1, &["--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    let cut_off = Callers::start(&cluster.urls("f")[2..], &["1"]);
    cluster.links[2].iter().for_each(|link| link.silence());
    says_that_it_misses(&cluster, 2, "etcd");
    (0..2).for_each(|node| is_ready(&cluster, node));

    cluster.push(0, "f", 2, &[]);
    for node in 0..2 {
        cluster.waits_for(node, "f", (200, "2"));
    }
    let told = run_failing(cluster.nodes[2].command().args(["config", "f", "-e", "A=1"]), 1);
    assert!(told.contains("etcd") && told.contains("nothing was lost"), "{told}");
    wait_until("the others to go on without it", PATIENCE, || nodes(&cluster, 0) == 2);
    cut_off.wait_for(10);
    cut_off.finish();

    cluster.links[2].iter().for_each(|link| link.mend());
    cluster.all_answer("f", 200, "2");
    is_ready(&cluster, 2);
    wait_until("three nodes", PATIENCE, || nodes(&cluster, 0) == 3);
    let versions = cluster.told(0, &["versions", "f"]);
    assert_eq!(versions["versions"].as_array().unwrap().len(), 2, "{versions}");
}

#[test]
fn without_the_registry_what_was_started_runs_and_new_starts_wait_and_then_name_it() {
    let cluster = Cluster::apart(&["--start-timeout", "30s"]);
    cluster.push(0, "f", 1, &["--max-scale", "6"]);
    cluster.all_answer("f", 200, "1");
    for (name, returns) in [("late", 2), ("later", 3)] {
        cluster.push(0, name, returns, &["--max-scale", "6"]);
    }
    let callers = Callers::start(&cluster.urls("f"), &["1"]);
    let registry = cluster.registry.host();
    cluster.registry.kill();
    (0..3).for_each(|node| says_that_it_misses(&cluster, node, &registry));

    // Where the image is unpacked nothing is missing; where it is not, a call waits for it.
    assert_eq!(cluster.answer(0, "late"), (200, "2".into()));
    let (status, told) = cluster.answer(1, "late");
    let told: Value = serde_json::from_str(&told).unwrap();
    let message = told["errorMessage"].as_str().unwrap();
    assert!(status == 503 && message.contains(&registry), "{status} {told}");
    assert_eq!(told["errorType"], "CannotStart");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cluster.answer(2, "later"));
        let told = cluster.push_in_vain(0, "f", 9);
        assert!(told.contains(&registry) && !waiting.is_finished(), "{told}");
        cluster.registry.start_again();
        assert_eq!(waiting.join().unwrap(), (200, "3".into()));
    });
    cluster.waits_for(1, "late", (200, "2"));
    callers.finish();
    (0..3).for_each(|node| is_ready(&cluster, node));
    cluster.push(1, "f", 4, &[]);
    cluster.all_answer("f", 200, "4");
    // Not even a tag is missing.
    assert!(run(cluster.nodes[0].command().arg("doctor")).contains("everything agrees"));
    assert_eq!(cluster.registry.status_of("fn/f", "2"), "200");
}
