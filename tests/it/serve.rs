//! The server whole: `fnbuild serve` as a process, its registry and containerd, and the verbs that talk to it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::auth::own_address;
use crate::support::callers::{Callers, HeldCall};
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{Server, fnbuild, free_port, run, run_failing, wait_until};

const ADD: &str = "examples/add";

/// A verb of this server's, its answer read as JSON.
fn told(server: &FnbuildServer, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(server.command().args(arguments).args(["-o", "json"]))).unwrap()
}

/// A folder with a `func.py` in it.
fn source(code: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), code).unwrap();
    folder
}

fn push(server: &FnbuildServer, name: &str, code: &str, more: &[&str]) -> Value {
    let folder = source(code);
    let mut command = server.command();
    command.arg("push").arg(folder.path()).args(["--name", name, "-o", "json"]).args(more);
    serde_json::from_str(&run(&mut command)).unwrap()
}

/// One line, the next step below it, and nothing else.
#[track_caller]
fn assert_told(stderr: &str, what: &str, hint: &str) {
    let lines: Vec<_> = stderr.lines().collect();
    let first = lines.first().copied().unwrap_or_default();
    assert!(first.starts_with("error: ") && first.contains(what), "{stderr}");
    assert!(lines.iter().any(|line| line.starts_with("hint: ") && line.contains(hint)), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_function_is_pushed_called_configured_rolled_back_and_deleted() {
    let server = FnbuildServer::start();
    let first = told(&server, &["push", ADD, "-e", "WHO=one", "-e", "KEEP=1"]);
    assert_eq!((&first["version"], &first["unchanged"]), (&json!(1), &json!(false)));
    assert_eq!(first["url"], format!("{}/function/add", server.url()));
    assert_eq!(server.call("add", &json!({ "x": 3, "y": 5 })), (200, "8".into()));
    let again = told(&server, &["push", ADD]);
    assert_eq!((&again["version"], &again["unchanged"]), (&json!(1), &json!(true)));

    let env = "import os\ndef run(name='WHO'):\n    return os.environ.get(name)\n";
    assert_eq!(push(&server, "add", env, &["-e", "WHO=two", "-e", "KEEP-"])["version"], 2);
    assert_eq!(server.call("add", &json!({})), (200, "\"two\"".into()));
    assert_eq!(server.call("add", &json!({ "name": "KEEP" })), (200, "null".into()));
    run(server.command().args(["config", "add", "-e", "WHO=three"]));
    assert_eq!(server.call("add", &json!({})), (200, "\"three\"".into()));

    run(server.command().args(["rollback", "add", "1"]));
    assert_eq!(server.call("add", &json!({ "x": 1, "y": 1 })), (200, "2".into()));
    assert_eq!(server.call("add@2", &json!({})), (200, "\"two\"".into()), "any version has an address");
    let described = told(&server, &["describe", "add"]);
    assert_eq!((&described["version"], &described["versions"]), (&json!(1), &json!([1, 2, 3])));
    assert_eq!(described["digest"], first["digest"]);

    run(server.command().args(["delete", "add"]));
    assert_eq!(server.call("add", &json!({})).0, 404);
    assert_eq!(server.call("add@2", &json!({})).0, 404);
    assert_eq!(told(&server, &["list"]), json!([]));
}

#[test]
fn every_error_of_a_call_says_whose_it_is_and_what_to_do() {
    let server = FnbuildServer::start();
    run(server.command().args(["push", ADD]));
    let problem = |(status, body): (u16, String)| {
        let problem: Value = serde_json::from_str(&body).unwrap();
        let text = |key: &str| problem[key].as_str().unwrap_or_default().to_string();
        (status, text("errorType"), text("errorMessage"))
    };
    let (status, _, message) = problem(server.call("add", &json!({ "x": 1 })));
    assert!(status == 400 && message.contains("missing argument 'y'"), "{message}");
    let (status, _, message) = problem(server.call("add", &json!({ "x": 1, "y": 2, "z": 3 })));
    assert!(status == 400 && message.contains("unexpected argument 'z'"), "{message}");
    let (status, kind, message) = problem(server.call("add", &json!([1, 2])));
    assert!(status == 400 && kind == "InvalidJSON" && message.contains("an array"), "{message}");
    let (status, kind, _) = problem(server.curl(&["-d", "{", "/function/add"]));
    assert_eq!((status, kind.as_str()), (400, "InvalidJSON"));
    let (status, kind, message) = problem(server.call("absent", &json!({})));
    assert_eq!((status, kind.as_str()), (404, "FunctionNotFound"), "{message}");
    let (status, kind, message) = problem(server.call("add", &json!({ "x": 1, "y": "a" })));
    assert!(status == 500 && kind == "TypeError" && message.contains("unsupported operand"), "{message}");

    // Three errors of the source that only Python finds, and each is the function's own.
    push(&server, "syntax", "def run():\n    pass\nreturn 1\n", &[]);
    let (status, kind, message) = problem(server.call("syntax", &json!({})));
    assert!(status >= 500 && kind.contains("SyntaxError"), "{status} {kind} {message}");
    assert!(message.contains("line 3"), "{message}");
    push(&server, "leaver", "import os\ndef run():\n    os._exit(7)\n", &[]);
    let (status, kind, message) = problem(server.call("leaver", &json!({})));
    assert!(status == 502 && kind == "ContainerDied" && message.contains("status 7"), "{message}");
    let greedy = "def run():\n    return len(bytearray(1 << 30).replace(b'\\0', b'1'))\n";
    push(&server, "greedy", greedy, &["--memory", "64Mi"]);
    let (status, _, message) = problem(server.call("greedy", &json!({})));
    assert!(status == 502 && message.contains("out of memory") && message.contains("64Mi"), "{message}");

    let breeder = "import os, threading\ndef run():\n    try:\n        \
                   while True:\n            threading.Thread(target=threading.Event().wait).start()\n    \
                   except RuntimeError:\n        os._exit(3)\n";
    push(&server, "breeder", breeder, &[]);
    let (status, _, message) = problem(server.call("breeder", &json!({})));
    assert!(status == 502 && message.contains("refused a process (the limit is 256)"), "{message}");
    for (name, cause) in [("greedy", "out of memory"), ("breeder", "refused a process")] {
        let death = &told(&server, &["describe", name])["lastDeath"]["cause"];
        assert!(death.as_str().is_some_and(|death| death.contains(cause)), "{name}: {death}");
    }

    let stderr = run_failing(server.command().args(["invoke", "syntax"]), 3);
    assert!(stderr.contains("the function answered 5"), "{stderr}");
    assert_told(
        &run_failing(server.command().args(["invoke", "absent"]), 1),
        "no function absent",
        "fnbuild list",
    );
    assert_told(
        &run_failing(server.command().args(["describe", "absent"]), 1),
        "no function absent",
        "fnbuild list",
    );
}

#[test]
fn commands_run_inside_and_logs_are_followed() {
    let server = FnbuildServer::start();
    push(&server, "talker", "def run(text):\n    print(text)\n    return 1\n", &["-e", "WHO=me"]);
    let exec = |script: &str| {
        let mut command = server.command();
        command.args(["exec", "talker", "--", "/bin/sh", "-c", script]);
        command
    };
    assert_eq!(run(&mut exec("echo $WHO; pwd")), "me\n/function");
    run_failing(&mut exec("exit 7"), 7);
    let mut following =
        server.command().args(["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let told = json!({ "text": "heard" }).to_string();
    let options = ["-H", "Content-Type: application/json", "-H", "X-Call-Id: the-call", "-d", &told];
    assert_eq!(server.curl(&[&options[..], &["/function/talker"]].concat()).0, 200);
    let heard = lines.find(|line| line.as_ref().is_ok_and(|line| line.ends_with("the-call stdout: heard")));
    assert!(heard.is_some());
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(run(server.command().args(["logs", "talker", "--tail", "1"])).contains("heard"));
    assert!(run(server.command().args(["logs", "talker", "--since", "1h"])).contains("heard"));
    assert_eq!(run(server.command().args(["logs", "talker", "--since", "0s"])), "");
    let timed = server.command().args(["invoke", "talker", "-d", &told, "--timing"]).output().unwrap();
    let timed = String::from_utf8(timed.stderr).unwrap();
    assert!(["queue", "run", "proxy", "in all"].iter().all(|part| timed.contains(part)), "{timed}");
}

#[test]
fn logs_of_a_function_that_nobody_calls_any_more_go_with_it() {
    let mut server = FnbuildServer::start_with(&["--idle-time", "1s"]);
    let talks = "def run():\n    print('heard')\n";
    let logs = |server: &FnbuildServer| run(server.command().args(["logs", "talker"]));
    let idle = |server: &FnbuildServer| {
        assert_eq!(server.call("talker", &json!({})).0, 200);
        wait_until("its line", Duration::from_secs(30), || logs(server).contains("heard"));
        wait_until("no replica", Duration::from_secs(60), || {
            told(server, &["describe", "talker"])["replicas"] == json!([])
        });
    };
    push(&server, "talker", talks, &[]);
    idle(&server);
    server.stop();
    // Nothing is in memory of it: as after an idle time.
    server.start_again();
    run(server.command().args(["delete", "talker"]));
    push(&server, "talker", talks, &[]);
    assert_eq!(logs(&server), "");

    // Those of one whose record went while no server ran.
    idle(&server);
    server.stop();
    let folder = server.data_dir().join("logs");
    std::fs::rename(folder.join("talker"), folder.join("deleted-meanwhile")).unwrap();
    server.start_again();
    wait_until("nobody's logs to be gone", Duration::from_secs(30), || {
        !folder.join("deleted-meanwhile").exists()
    });
}

#[test]
fn tags_that_could_not_be_written_are_written_when_the_registry_is_back() {
    let server = FnbuildServer::start();
    push(&server, "add", "def run():\n    return 1\n", &[]);
    server.registry().kill();
    // The same image with other settings needs nothing of the registry but its tags.
    let changed = server.command().args(["config", "add", "-e", "A=B"]).output().unwrap();
    let warned = String::from_utf8(changed.stderr).unwrap();
    assert!(changed.status.success() && warned.contains("do not say version 2 yet"), "{warned}");
    server.registry().start_again();
    wait_until("the tag of version 2", Duration::from_secs(60), || {
        server.registry().status_of("fn/add", "2") == "200"
    });
}

#[test]
fn a_killed_server_comes_back_with_its_records_and_its_replicas() {
    let mut server = FnbuildServer::start();
    run(server.command().args(["push", ADD]));
    assert_eq!(server.call("add", &json!({ "x": 1, "y": 2 })), (200, "3".into()));
    let replica = told(&server, &["describe", "add"])["replicas"][0]["id"].clone();
    assert!(replica.is_string());
    let locked = run_failing(server.serve().args(["--listen", "127.0.0.1:0"]), 1);
    assert_told(&locked, "in use by another fnbuild server", "--data-dir");

    server.kill();
    server.start_again();
    assert_eq!(told(&server, &["describe", "add"])["replicas"][0]["id"], replica, "it is adopted");
    assert_eq!(server.call("add", &json!({ "x": 2, "y": 2 })), (200, "4".into()));
    // The same from somebody else is the same.
    let version = || told(&server, &["versions", "add"])["versions"][0].clone();
    let before = version();
    run(server.command().env_remove("SUDO_USER").env("USER", "somebody-else").args(["push", ADD]));
    assert_eq!(version(), before);
    assert!(before["author"].as_str().unwrap().contains('@'), "{before}");
    for what in ["number", "digest", "source", "base", "settings", "created"] {
        assert!(!before[what].is_null(), "{what} of {before}");
    }

    // Records that are gone are told, and nothing is begun anew in their place.
    server.stop();
    let (records, aside) = (server.data_dir().join("records"), server.data_dir().join("aside"));
    std::fs::rename(&records, &aside).unwrap();
    assert_told(&run_failing(&mut server.serve(), 1), "there is no record store", "from a backup");
    assert!(!records.exists());
    std::fs::rename(&aside, &records).unwrap();
    server.start_again();
    assert_eq!(server.call("add", &json!({ "x": 2, "y": 3 })), (200, "5".into()));
}

#[test]
fn pushes_at_once_get_a_version_each_and_none_waits_for_one_that_never_listens() {
    let server = FnbuildServer::start();
    let returns = |n: u32| format!("def run():\n    return {n}\n");
    push(&server, "many", &returns(0), &[]);
    assert_eq!(server.call("many", &json!({})), (200, "0".into()));
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let (server, returns) = (&server, &returns);
        let pushes = [1, 2].map(|n| scope.spawn(move || push(server, "many", &returns(n), &[])));
        pushes.into_iter().map(|push| push.join().unwrap()["version"].as_u64().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, [2, 3]);

    // Its import never ends. The push waits for a replica that calls could go to; the next push does not wait with it.
    std::thread::scope(|scope| {
        let stuck =
            scope.spawn(|| push(&server, "many", "import time\ntime.sleep(999)\ndef run(): pass\n", &[]));
        wait_until("the version to be recorded", Duration::from_secs(60), || {
            told(&server, &["versions", "many"])["current"] == 4
        });
        assert!(matches!(server.call("many", &json!({})).1.as_str(), "1" | "2"), "the one before answers on");
        assert_eq!(push(&server, "many", &returns(5), &[])["version"], 5);
        assert_eq!(server.call("many", &json!({})), (200, "5".into()));
        assert_eq!(stuck.join().unwrap()["version"], 4);
    });
}

#[test]
fn versions_that_take_over_under_load_cost_no_call() {
    let server = FnbuildServer::start();
    // Some are always on their way when calls go elsewhere.
    let returns = |n: u32| format!("import time\ndef run():\n    time.sleep(0.1)\n    return {n}\n");
    push(&server, "busy", &returns(1), &["--concurrency", "2"]);
    let url = format!("{}/function/busy", server.url());
    let callers = Callers::start(&vec![url; 6], &["1", "2", "3"]);
    callers.wait_for(10);
    for n in [2, 3] {
        assert_eq!(push(&server, "busy", &returns(n), &[])["version"], n);
        assert_eq!(server.call("busy", &json!({})), (200, n.to_string()), "what was pushed is what answers");
        callers.wait_for(10);
    }
    run(server.command().args(["config", "busy", "-e", "A=B"]));
    callers.wait_for(10);
    run(server.command().args(["rollback", "busy"]));
    callers.wait_for(10);
    run(server.command().args(["scale", "busy", "2"]));
    callers.wait_for(10);
    callers.finish();
}

#[test]
fn a_server_that_stops_says_so_and_finishes_its_calls_first() {
    let mut server = FnbuildServer::start();
    push(&server, "held", "def run():\n    return 7\n", &[]);
    let call = HeldCall::begin(&format!("{}/function/held", server.url()));
    let in_flight = || server.get("/metrics").1.contains("\nfnbuild_calls_in_flight 1");
    wait_until("the call to be there", Duration::from_secs(60), in_flight);
    let pid = nix::unistd::Pid::from_raw(server.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_until("it to say that it stops", Duration::from_secs(60), || {
        server.get_or_nothing("/readyz").0 == 503
    });
    wait_until("calls to be refused", Duration::from_secs(60), || server.call("held", &json!({})).0 == 503);
    assert_eq!(call.let_go(), "7 200");
    server.stop();
    server.start_again();
    assert_eq!(server.call("held", &json!({})), (200, "7".into()));
}

#[test]
fn what_is_missing_at_the_start_is_told_in_one_line() {
    let mut server = FnbuildServer::prepare(DockerRegistry::start(), &[]);
    server.set_containerd("/nonexistent/containerd.sock".as_ref());
    let away = run_failing(&mut server.serve(), 1);
    assert_told(&away, "containerd", "containerd");
    server.set_containerd(&crate::support::server::containerd());
    let taken = std::net::TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    assert_told(&run_failing(&mut server.serve(), 1), "cannot listen on", "--listen");
    drop(taken);

    let nobody = run_failing(server.command().args(["push", ADD]), 1);
    assert_told(&nobody, "is pushed, but there is no server", "--image-only");
    assert!(nobody.contains("fnbuild serve"), "{nobody}");
    let registry = format!("127.0.0.1:{}", free_port());
    let away = run_failing(server.command().env("FNBUILD_REGISTRY", &registry).args(["push", ADD]), 1);
    assert_told(&away, "push", "fnbuild registry serve");
    let unknown = fnbuild().args(["list", "--server", "http://127.0.0.1:1"]).output().unwrap();
    assert_told(&String::from_utf8_lossy(&unknown.stderr), "no server at", "fnbuild serve");
}

#[test]
fn a_server_starts_without_its_registry_and_serves_what_it_has() {
    let mut server = FnbuildServer::start();
    run(server.command().args(["push", ADD]));
    assert_eq!(server.call("add", &json!({ "x": 3, "y": 5 })), (200, "8".into()));
    server.stop();
    let nobody = format!("127.0.0.1:{}", free_port());
    let mut serve = server.serve();
    let _process = Server::start(serve.env("FNBUILD_REGISTRY", &nobody).stderr(Stdio::null()));
    let up = || {
        let health = format!("{}/healthz", server.url());
        std::process::Command::new("curl").args(["-sf", &health]).output().unwrap().status.success()
    };
    wait_until("the server without a registry", Duration::from_secs(60), up);
    assert_eq!(server.call("add", &json!({ "x": 4, "y": 5 })), (200, "9".into()));
    let (status, told) = server.get("/readyz");
    assert!(status == 503 && told.contains(&nobody), "{status} {told}");
    // What it cannot do leaves nothing behind.
    let sent = ["-T", "examples/add/func.py", "/v1/functions/other?filename=func.py"];
    let (status, told) = server.curl(&sent);
    assert!(status == 503 && told.contains(&nobody), "{status} {told}");
    assert_eq!(server.get("/v1/functions/other").0, 404);
}

#[test]
fn images_are_deleted_except_what_others_stand_on() {
    let server = FnbuildServer::start();
    let digest = push(&server, "one", "def run(): return 1\n", &[])["digest"].clone();
    let digest = digest.as_str().unwrap();
    // Another function of the very same image, as a client of the API may record it.
    let body = json!({ "repository": "fn/one", "digest": digest, "settings": {} }).to_string();
    let path = "/v1/functions/two/versions";
    assert_eq!(server.curl(&["-H", "Content-Type: application/json", "-d", &body, path]).0, 201);
    let kept = run_failing(server.command().args(["delete", "one", "--images"]), 1);
    assert!(kept.contains("another function uses it") && kept.lines().count() == 1, "{kept}");
    assert_eq!(server.call("two", &json!({})), (200, "1".into()));
    run(server.command().args(["delete", "two", "--images"]));
    let manifest = format!("http://{}/v2/fn/one/manifests/{digest}", server.registry().host());
    let mut curl = std::process::Command::new("curl");
    assert_eq!(run(curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &manifest])), "404");

    let mut server = FnbuildServer::prepare(DockerRegistry::without_deletion(), &[]);
    server.start_again();
    push(&server, "one", "def run(): return 1\n", &[]);
    let kept = run_failing(server.command().args(["delete", "one", "--images"]), 1);
    assert!(kept.contains("stays in the registry") && kept.lines().count() == 1, "{kept}");
    assert_eq!(server.get("/v1/functions/one").0, 404);
}

#[test]
fn a_listener_beyond_loopback_answers_calls_and_asks_who_manages() {
    let server = FnbuildServer::start();
    let wide = free_port();
    let data = crate::support::base::data_dir();
    let mut serve = server.serve();
    let listen = format!("0.0.0.0:{wide}");
    serve.env("FNBUILD_DATA_DIR", data.path()).args(["--listen", &listen]);
    {
        let _process = Server::start(serve.stderr(Stdio::null()));
        let status = |path: &str| {
            let mut curl = std::process::Command::new("curl");
            curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}"]);
            curl.arg(format!("http://{}:{wide}{path}", own_address())).output().unwrap().stdout
        };
        wait_until("the other server", Duration::from_secs(60), || status("/healthz") == b"200");
        assert_eq!(status("/v1/functions"), b"401");
        assert_eq!(status("/v1/status"), b"401");
        assert_eq!(status("/function/absent"), b"404");
    }
    run(server.serve().env("FNBUILD_DATA_DIR", data.path()).arg("--clean-up"));
    assert_eq!(server.get("/v1/functions").0, 200);
}

#[test]
fn functions_call_functions_where_they_may_and_nothing_else() {
    let caller = "import os, json, urllib.request\n\ndef run(path, method='POST'):\n    url = os.environ['FNBUILD_GATEWAY'] + path\n    \
                  body = json.dumps({'x': 1, 'y': 2}).encode() if method == 'POST' else None\n    \
                  request = urllib.request.Request(url, body, {'Content-Type': 'application/json'}, method=method)\n    \
                  try:\n        with urllib.request.urlopen(request, timeout=5) as answer:\n            return answer.status\n    \
                  except urllib.error.HTTPError as error:\n        return error.code\n";
    let server = FnbuildServer::start_with(&["--function-calls", "--pool", "1"]);
    run(server.command().args(["push", ADD]));
    push(&server, "caller", caller, &[]);
    let calls = |path: &str, method: &str| server.call("caller", &json!({ "path": path, "method": method }));
    assert_eq!(calls("/function/add", "POST"), (200, "200".into()));
    for path in ["/v1/functions", "/v1/status", "/system/functions"] {
        assert_eq!(calls(path, "GET"), (200, "404".into()), "{path}");
    }
    drop(server);

    let closed = FnbuildServer::start_with(&["--pool", "0"]);
    push(&closed, "caller", "import os\ndef run():\n    return os.environ.get('FNBUILD_GATEWAY')\n", &[]);
    assert_eq!(closed.call("caller", &json!({})), (200, "null".into()));
}
