//! Asynchronous calls and schedules at the real server: kept through `kill -9`, made again, called back, buried, and each
//! tick of a schedule made once by two nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::receiver::Receiver;
use crate::support::server::FnbuildServer;
use crate::support::{run, run_failing, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

const FLAGS: [&str; 6] = ["--pool", "0", "--async-backoff", "40ms", "--callback-hosts", "127.0.0.1"];

const CODE: &str = r#"
import time

def run(text="", fails=False, sleeps=0):
    print("called with", len(text))
    time.sleep(sleeps)
    if fails:
        raise ValueError("it is meant to")
    return {"length": len(text)}
"#;

#[track_caller]
fn push(server: &FnbuildServer, name: &str, code: &str, more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), code).unwrap();
    run(server.command().arg("push").arg(folder.path()).args(["--name", name]).args(more));
}

/// Makes a call to be made later; gives its status and its ID.
#[track_caller]
fn call(server: &FnbuildServer, name: &str, body: &Value, headers: &[&str]) -> (u16, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, body.to_string()).unwrap();
    let data = format!("@{}", file.display());
    let path = format!("/async-function/{name}");
    let mut arguments = vec!["-o", "/dev/stderr", "-D", "-", "-H", "Content-Type: application/json"];
    for header in headers {
        arguments.extend(["-H", header]);
    }
    arguments.extend(["--data-binary", &data, &path]);
    let (status, head) = server.curl(&arguments);
    (status, header(&head, "x-call-id").unwrap_or_default())
}

fn header(head: &str, name: &str) -> Option<String> {
    let line = head.lines().filter_map(|line| line.split_once(": "));
    line.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().into())
}

#[track_caller]
fn told(server: &FnbuildServer, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(server.command().args(arguments).args(["-o", "json"]))).unwrap()
}

fn calls(server: &FnbuildServer, more: &[&str]) -> Vec<Value> {
    told(server, &[&["calls", "list"], more].concat()).as_array().unwrap().clone()
}

#[test]
fn what_is_acknowledged_is_answered_although_the_server_is_killed() {
    let mut server = FnbuildServer::start_with(&FLAGS);
    push(&server, "f", CODE, &["--async-concurrency", "2"]);
    let receiver = Receiver::start(0);
    let callback = format!("X-Callback-Url: {}", receiver.url());
    let mut ids = BTreeSet::new();
    for round in 0..3 {
        for number in 0..8 {
            // Some bodies are kept in files of their own.
            let text = "x".repeat(if number % 4 == 0 { 100_000 } else { number });
            let (status, id) = call(&server, "f", &json!({ "text": text, "sleeps": 0.1 }), &[&callback]);
            assert_eq!(status, 202);
            assert!(ids.insert(id), "round {round}: an ID was given twice");
        }
        // Some are done, some are being made, most wait.
        server.kill();
        server.start_again();
    }
    wait_until("every answer", PATIENCE, || receiver.ids().into_iter().collect::<BTreeSet<_>>() == ids);
    assert!(receiver.received().iter().any(|one| one.body.contains("100000")));
    wait_until("the queue to be empty", PATIENCE, || calls(&server, &[]).is_empty());
    wait_until("the bodies to be gone", PATIENCE, || {
        std::fs::read_dir(server.data_dir().join("queue/bodies")).unwrap().next().is_none()
    });
}

#[test]
fn an_answer_is_called_back_with_openfaas_headers_until_it_is_taken() {
    let server = FnbuildServer::start_with(&FLAGS);
    push(&server, "f", CODE, &["--async-attempts", "2"]);
    let receiver = Receiver::start(2);
    let callback = format!("X-Callback-Url: {}", receiver.url());
    let (status, id) = call(&server, "f", &json!({ "text": "abc" }), &[&callback, "X-Call-Id: mine-1"]);
    assert_eq!((status, id.as_str()), (202, "mine-1"));
    wait_until("the answer", PATIENCE, || receiver.ids() == ["mine-1"]);
    assert_eq!(receiver.refusals(), 0);
    let answer = receiver.received().remove(0);
    assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), json!({ "length": 3 }));
    let said = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
    assert_eq!((said("x-function-status"), said("x-function-name")), ("200".into(), "f".into()));
    assert!(said("content-type").starts_with("application/json"));
    assert!(said("x-duration-seconds").parse::<f64>().is_ok());

    // A function's own verdict is an answer, its failure is one at last; and there is one callback for each.
    let (_, wrong) = call(&server, "f.openfaas-fn", &json!({ "unknown": 1 }), &[&callback]);
    let (_, fails) = call(&server, "f@1", &json!({ "fails": true }), &[&callback]);
    wait_until("both answers", PATIENCE, || receiver.received().len() == 3);
    for one in receiver.received() {
        let id = &one.headers["x-call-id"];
        let expected = if *id == wrong {
            "400"
        } else if *id == fails {
            "500"
        } else {
            "200"
        };
        assert_eq!(one.headers["x-function-status"], expected, "{one:?}");
    }
    wait_until("the one that failed to be buried", PATIENCE, || {
        let dead = calls(&server, &["--state", "dead"]);
        dead.len() == 1 && dead[0]["id"] == fails.as_str() && dead[0]["attempts"] == 2
    });
    assert_eq!(calls(&server, &[]).len(), 1);

    // Where functions may not connect to, no answer goes.
    for url in ["http://10.0.0.1/", "http://169.254.169.254/latest", "ftp://127.0.0.1/", "x"] {
        let (status, _) = call(&server, "f", &json!({}), &[&format!("X-Callback-Url: {url}")]);
        assert_eq!(status, 400, "{url}");
    }
    let own = format!("X-Callback-Url: {}/system/functions", server.url());
    assert_eq!(call(&server, "f", &json!({}), &[&own]).0, 400);
    let own = format!("X-Callback-Url: {}/async-function/f", server.url());
    assert_eq!(call(&server, "f", &json!({}), &[&own]).0, 202);
}

#[test]
fn what_fails_is_a_dead_letter_to_be_seen_made_again_and_dropped() {
    let server = FnbuildServer::start_with(&FLAGS);
    push(&server, "f", CODE, &["--async-attempts", "3"]);
    let secret = "Authorization: Bearer abc";
    let (status, id) = call(&server, "f/sub/path?q=1", &json!({ "fails": true }), &[secret]);
    assert_eq!(status, 202);
    let (_, root) = call(&server, "f", &json!({ "fails": true }), &[secret, "X-Kept: 1"]);
    let state = |id: &str| told(&server, &["calls", "show", id])["state"].clone();
    wait_until("the call to be buried", PATIENCE, || state(&root) == "dead");

    let shown = told(&server, &["calls", "show", &root]);
    assert_eq!(
        (&shown["attempts"], &shown["lastStatus"], &shown["method"]),
        (&json!(3), &json!(500), &json!("POST"))
    );
    assert_eq!(shown["body"]["text"], json!({ "fails": true }).to_string());
    assert!(shown["lastAnswer"].as_str().unwrap().contains("it is meant to"), "{shown}");
    let text = run(server.command().args(["calls", "show", &root]));
    assert!(text.contains("x-kept: 1") && text.contains("it failed 3 times"), "{text}");
    assert!(!text.contains("abc"), "credentials are kept back: {text}");
    // What a call was sent is not for everybody who may look.
    for (role, code) in [("read", 403), ("deploy", 200)] {
        let token = run(server.command().args(["token", "create", role, "--role", role]));
        let bearer = format!("Authorization: Bearer {token}");
        let (status, answer) = server.curl(&["-H", &bearer, &format!("/v1/calls/{root}")]);
        assert_eq!((status, answer.contains("fails")), (code, code == 200), "{answer}");
        assert_eq!(server.curl(&["-H", &bearer, "/v1/calls"]).0, 200);
    }
    let listed = run(server.command().args(["calls", "list", "f", "--state", "dead"]));
    assert!(listed.contains(&root) && listed.starts_with("CALL"), "{listed}");

    // It is there after a restart, and is answered once the function is repaired.
    drop(listed);
    push(&server, "f", "def run(fails=False):\n    return 1\n", &[]);
    let again = told(&server, &["calls", "retry", &root]);
    assert_eq!((&again["state"], &again["attempts"]), (&json!("waiting"), &json!(0)));
    let gone = |id: &str| calls(&server, &[]).iter().all(|call| call["id"] != id);
    wait_until("the call to be answered", PATIENCE, || gone(&root));
    let missing = run_failing(server.command().args(["calls", "show", &root]), 1);
    assert!(missing.contains("there is no call") && missing.contains("hint:"), "{missing}");

    // A function that was deleted meanwhile.
    push(&server, "g", CODE, &["--async-attempts", "100000"]);
    let (_, orphan) = call(&server, "g", &json!({ "fails": true }), &[]);
    run(server.command().args(["delete", "g"]));
    wait_until("the orphan to be buried", PATIENCE, || state(&orphan) == "dead");
    let reason = told(&server, &["calls", "show", &orphan])["lastReason"].to_string();
    assert!(reason.contains("deleted meanwhile"), "{reason}");
    run(server.command().args(["calls", "drop", &orphan]));
    assert!(gone(&orphan));
    let _ = id;
}

#[test]
fn every_bound_is_told_before_a_call_is_taken() {
    let mut server = FnbuildServer::start_with(&[&FLAGS[..], &["--max-request-body", "10Ki"]].concat());
    push(&server, "f", CODE, &["--async-queue", "3", "--async-concurrency", "1"]);
    let slow = json!({ "sleeps": 30 });
    let ids: Vec<_> = (0..3).map(|_| call(&server, "f", &slow, &["X-Call-Id: same"])).collect();
    assert!(ids.iter().all(|(status, _)| *status == 202), "{ids:?}");
    let distinct: BTreeSet<_> = ids.iter().map(|(_, id)| id).collect();
    assert_eq!((ids[0].1.as_str(), distinct.len()), ("same", 3), "an ID in use is not given again");
    let (status, head) = server.curl(&["-D", "-", "-d", "{}", "/async-function/f"]);
    assert_eq!((status, header(&head, "retry-after").as_deref()), (429, Some("5")), "{head}");
    assert!(head.contains("QueueFull"), "{head}");
    wait_until("one to run", PATIENCE, || calls(&server, &["--state", "running"]).len() == 1);
    assert_eq!(calls(&server, &["--state", "waiting"]).len(), 2, "one at a time");

    let (status, _) = call(&server, "f", &json!({ "text": "x".repeat(20_000) }), &[]);
    assert_eq!(status, 413);
    let (status, _) =
        call(&server, "f", &json!({ "text": "x".repeat(20_000) }), &["Transfer-Encoding: chunked"]);
    assert!(matches!(status, 413 | 429), "{status}");
    for path in ["absent", "f@7", "Absent"] {
        assert_eq!(call(&server, path, &json!({}), &[]).0, 404, "{path}");
    }

    // What is dropped is not there after a kill either, not even the one that was being made.
    for (_, id) in &ids {
        run(server.command().args(["calls", "drop", id]));
    }
    assert!(calls(&server, &[]).is_empty());
    server.kill();
    server.start_again();
    assert!(calls(&server, &[]).is_empty(), "dropped is dropped");
}

#[test]
fn schedules_are_kept_shown_and_deleted_with_their_function() {
    let mut server = FnbuildServer::start_with(&FLAGS);
    push(&server, "f", CODE, &[]);
    let add = ["schedule", "f", "30 9 * * MON-FRI", "-d", r#"{"text":"a"}"#, "--time-zone", "Europe/Berlin"];
    let first = told(&server, &add);
    assert_eq!(told(&server, &add)["id"], first["id"], "the same one is there once");
    let second = told(&server, &["schedule", "f", "@daily"]);
    server.kill();
    server.start_again();
    let listed = told(&server, &["schedule", "list", "f"]);
    let ids: BTreeSet<_> = listed.as_array().unwrap().iter().map(|one| one["id"].to_string()).collect();
    assert_eq!(ids, BTreeSet::from([first["id"].to_string(), second["id"].to_string()]));
    assert_eq!(told(&server, &["describe", "f"])["schedules"], listed);
    let text = run(server.command().args(["describe", "f"]));
    assert!(text.contains("Europe/Berlin") && text.contains("@daily"), "{text}");

    run(server.command().args(["schedule", "remove", second["id"].as_str().unwrap()]));
    assert_eq!(told(&server, &["schedule", "list"]).as_array().unwrap().len(), 1);
    for (arguments, expected) in [
        (&["schedule", "f", "* * * * * *"][..], "five fields"),
        (&["schedule", "f", "@daily", "--time-zone", "Nowhere"], "no time zone"),
        (&["schedule", "f", "@daily", "-d", "{"], "must be JSON"),
        (&["schedule", "absent", "@daily"], "there is no function absent"),
        (&["schedule", "remove", "f.0"], "there is no schedule"),
        (&["schedule", "remove", "absent"], "there is no function absent"),
    ] {
        let failed = run_failing(server.command().args(arguments), 1);
        assert!(failed.contains(expected), "{arguments:?}: {failed}");
    }
    run_failing(server.command().args(["schedule", "f"]), 2);

    run(server.command().args(["delete", "f"]));
    assert_eq!(told(&server, &["schedule", "list"]), json!([]));
    push(&server, "f", CODE, &[]);
    assert_eq!(
        told(&server, &["describe", "f"]).get("schedules"),
        None,
        "they do not come back with the name"
    );
}

#[test]
fn two_nodes_make_each_tick_once_and_one_without_a_share_takes_no_call() {
    let cluster = Cluster::start_with(2, 1, &["--async-backoff", "40ms"]);
    let code = "def run(text=''):\n    print('tick', text)\n";
    let [one, other] = &cluster.nodes[..] else { panic!("two nodes") };
    push(one, "f", code, &[]);
    let schedule = told(one, &["schedule", "f", "* * * * *", "-d", r#"{"text":"tock"}"#]);
    let ticks = || -> usize {
        let printed =
            |node: &FnbuildServer| run(node.command().args(["logs", "f"])).matches("tick tock").count();
        printed(one) + printed(other)
    };
    let last = |node: &FnbuildServer| told(node, &["schedule", "list"])[0]["last"].as_str().map(String::from);
    let idle = || calls(one, &[]).is_empty() && calls(other, &[]).is_empty();
    let mut before = None;
    for count in 1..=2 {
        wait_until("a tick at both nodes", PATIENCE * 2, || {
            let (here, there) = (last(one), last(other));
            here.is_some() && here != before && here == there && idle() && ticks() == count
        });
        before = last(one);
    }
    assert_eq!(schedule["last"], Value::Null);

    push(one, "single", CODE, &["--max-scale", "1"]);
    wait_until("the record at both nodes", PATIENCE, || other.get("/v1/functions/single").0 == 200);
    let statuses = cluster.nodes.iter().map(|node| call(node, "single", &json!({}), &[]).0);
    let mut statuses: Vec<_> = statuses.collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 503]);
    run(other.command().args(["schedule", "remove", "f"]));
    wait_until("no schedule at the other node", PATIENCE, || told(one, &["schedule", "list"]) == json!([]));
}
