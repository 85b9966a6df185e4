//! Who may do what: tokens, roles, TLS, and what is written down of it.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::registry::{DockerRegistry, certificate};
use crate::support::server::FnbuildServer;
use crate::support::{run, run_failing, wait_until};

const HELLO: &str = "def run(name='world'):\n    return f'hello {name}'\n";

/// An address of this machine's that is not loopback. Nothing is sent to find it, and what is sent to it stays here.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

/// A server that listens beyond loopback too, and its URL there.
fn open_server(flags: &[&str]) -> (FnbuildServer, String) {
    let mut server = FnbuildServer::prepare(DockerRegistry::start(), flags);
    server.listen_too(own_address());
    server.start_again();
    let url = format!("http://{}:{}", own_address(), server.port());
    (server, url)
}

/// Status, headers and body of what `curl` gets.
fn curl(arguments: &[&str]) -> (u16, String, String) {
    let mut curl = Command::new("curl");
    let printed = run(curl.args(["-sS", "--max-time", "60", "-D", "-"]).args(arguments));
    let (mut head, mut body) = printed.split_once("\r\n\r\n").unwrap_or((&printed, ""));
    while head.contains(" 100 ") {
        (head, body) = body.split_once("\r\n\r\n").unwrap();
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.into())
}

fn status(arguments: &[&str]) -> u16 {
    curl(arguments).0
}

fn admin_token(server: &FnbuildServer) -> String {
    std::fs::read_to_string(server.data_dir().join("admin.token")).unwrap().trim().to_string()
}

fn create(server: &FnbuildServer, name: &str, role: &str) -> String {
    run(server.command().args(["token", "create", name, "--role", role]))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn push(server: &FnbuildServer, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), HELLO).unwrap();
    let mut push = server.command();
    push.arg("push").arg(folder.path()).args(["--name", "hello", "-o", "json"]).args(more);
    serde_json::from_str(&run(&mut push)).unwrap()
}

#[test]
fn beyond_loopback_a_token_says_what_one_may_do() {
    let (server, url) = open_server(&[]);
    let path = server.data_dir().join("admin.token");
    assert!(server.log().contains(&format!("the admin's is in {}", path.display())), "{}", server.log());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let functions = format!("{url}/v1/functions");

    // Loopback stays open, beyond it nothing is told without a token; health is for everybody.
    assert_eq!(server.get("/v1/functions").0, 200);
    // What OpenFaaS's clients send who have not logged in; often enough for it to count if it were a wrong token.
    for _ in 0..12 {
        assert_eq!(server.curl(&["-H", "Authorization: Bearer ", "/system/functions"]).0, 200);
    }
    assert_eq!(status(&["-H", "Authorization: Bearer ", &functions]), 401);
    let (code, head, body) = curl(&[&functions]);
    assert_eq!(code, 401);
    assert!(head.contains("www-authenticate: basic") && head.contains("www-authenticate: bearer"), "{head}");
    assert!(body.contains("FNBUILD_TOKEN"), "the next step: {body}");
    assert_eq!(status(&[&format!("{url}/healthz")]), 200);
    let forwarded = ["-H", "X-Forwarded-For: 10.0.0.1", "/v1/functions"];
    assert_eq!(server.curl(&forwarded).0, 401, "a proxy on this machine is not this machine");

    // The admin by bearer, and as OpenFaaS's clients log in.
    let admin = admin_token(&server);
    assert_eq!(status(&["-H", &bearer(&admin), &functions]), 200);
    assert_eq!(status(&["-u", &format!("admin:{admin}"), &format!("{url}/system/functions")]), 200);
    assert_eq!(status(&["-u", "admin:admin", &format!("{url}/system/functions")]), 401);
    let page = ["-u", &format!("admin:{admin}"), "-H", "Origin: http://evil.example", &functions];
    assert_eq!(status(&page), 403, "another site's page has the browser's password");

    let [deploy, read, invoke] = ["deploy", "read", "invoke"].map(|role| create(&server, role, role));
    let secrets = format!("{url}/system/secrets");
    let tokens = format!("{url}/v1/tokens");
    let secret = r#"{"name": "key", "value": "hush-hush"}"#;
    for (token, looks, changes, manages) in
        [(&admin, 200, 201, 200), (&deploy, 200, 200, 403), (&read, 200, 403, 403), (&invoke, 403, 403, 403)]
    {
        let header = bearer(token);
        for looked_at in [&functions, &format!("{url}/metrics")] {
            assert_eq!(status(&["-H", &header, looked_at]), looks, "{looked_at}");
        }
        let method = if token == &admin { "POST" } else { "PUT" };
        assert_eq!(status(&["-H", &header, "-X", method, "-d", secret, &secrets]), changes);
        assert_eq!(status(&["-H", &header, &tokens]), manages);
    }

    // What was done is written down, and nothing that is secret.
    let log = std::fs::read_to_string(server.data_dir().join("audit.log")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |line: &Value| {
        ["who", "method", "path", "subject", "outcome"]
            .map(|key| line[key].as_str().unwrap_or_default().to_string())
    };
    let told: Vec<_> = lines[..5].iter().map(told).collect();
    assert_eq!(told[0], ["local", "POST", "/v1/tokens", "deploy", "done"]);
    assert_eq!(told[3], ["admin", "POST", "/system/secrets", "key", "done"]);
    assert_eq!(told[4], ["deploy", "PUT", "/system/secrets", "key", "done"]);
    assert_eq!(lines[5]["who"], "read");
    assert_eq!((&lines[5]["outcome"], &lines[5]["status"]), (&json!("refused"), &json!(403)));
    for hidden in [&admin, &deploy, &read, &invoke, "hush-hush"] {
        assert!(!log.contains(hidden) && !server.log().contains(hidden), "{log}");
    }

    // The command line, from there; and a token that is revoked.
    let listed = |token: &str| {
        let mut command = server.command();
        command.args(["token", "list", "-o", "json", "--server", &url]).env("FNBUILD_TOKEN", token);
        command
    };
    let names: Value = serde_json::from_str(&run(&mut listed(&admin))).unwrap();
    assert_eq!(names.as_array().unwrap().len(), 4);
    assert!(run_failing(&mut listed(&read), 1).contains("--role admin"));
    assert!(run_failing(&mut listed("fnb_no"), 1).contains("hint: "));
    run(server.command().args(["token", "revoke", "read"]));
    assert_eq!(status(&["-H", &bearer(&read), &functions]), 401);
}

#[test]
fn who_guesses_waits() {
    let (server, url) = open_server(&[]);
    let functions = format!("{url}/v1/functions");
    let wrong = bearer(&format!("fnb_admin_{}", "0".repeat(64)));
    let last = (0..30).map(|_| curl(&["-H", &wrong, &functions])).find(|(code, ..)| *code != 401).unwrap();
    assert_eq!(last.0, 429);
    let wait = last.1.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    assert!((1..=60).contains(&wait.trim().parse::<u32>().unwrap()), "{wait}");
    let right = bearer(&admin_token(&server));
    assert_eq!(status(&["-H", &right, &functions]), 429, "not even the right one is looked at");
    // Another address is not kept waiting, nor is who brings nothing.
    assert_eq!(server.curl(&["-H", &right, "/v1/functions"]).0, 200);
    assert_eq!(status(&[&functions]), 401);
}

#[test]
fn a_function_may_answer_only_calls_with_a_token() {
    let server = FnbuildServer::start();
    let echo = "from flask import request\ndef run():\n    return request.headers.get('Authorization')\n";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), echo).unwrap();
    let mut first = server.command();
    run(first.arg("push").arg(folder.path()).args(["--name", "hello", "--require-token"]));
    let (invoke, read) = (create(&server, "caller", "invoke"), create(&server, "reader", "read"));
    let post = |path: &str, headers: &[&str]| {
        let headers = headers.iter().flat_map(|header| ["-H", header]);
        let arguments: Vec<&str> =
            headers.chain(["-d", "{}", "-H", "Content-Type: application/json"]).collect();
        server.curl(&[&arguments[..], &[path]].concat())
    };
    let call = |target: &str, headers: &[&str]| post(&format!("/function/{target}"), headers);
    let (code, problem) = call("hello", &[]);
    assert!(code == 401 && problem.contains("hello answers only calls with a token"), "{problem}");
    let replicas = run(server.command().args(["describe", "hello", "-o", "json"]));
    let described: Value = serde_json::from_str(&replicas).unwrap();
    assert_eq!(
        (&described["requireToken"], &described["replicas"]),
        (&json!(true), &json!([])),
        "none started"
    );
    // Nor is one kept that is to be made later.
    let (code, problem) = post("/async-function/hello", &[]);
    assert!(code == 401 && problem.contains("token"), "{problem}");
    assert_eq!(post("/async-function/hello@1/sub", &["Authorization: Bearer fnb_no"]).0, 401);
    assert_eq!(post("/async-function/hello", &[&bearer(&read)]).0, 403);
    assert_eq!(run(server.command().args(["calls", "list", "-o", "json"])).trim(), "[]");
    assert_eq!(post("/async-function/hello", &[&bearer(&invoke)]).0, 202);

    // The function never sees what was for the platform.
    assert_eq!(call("hello", &[&bearer(&invoke)]), (200, "null".into()));
    assert_eq!(call("hello", &[&bearer(&read)]).0, 403);
    assert_eq!(call("hello@1", &[]).0, 401, "no version is a way round");
    let mut asked = server.command();
    assert_eq!(run(asked.args(["invoke", "hello", "--token", &invoke])), "null");
    run_failing(server.command().args(["invoke", "hello"]), 1);

    // It is the function's, not a version's: it outlives pushes and rollbacks, and makes no version.
    let pushed = push(&server, &[]);
    assert_eq!(pushed["version"], 2);
    assert_eq!(call("hello", &[]).0, 401);
    run(server.command().args(["rollback", "hello"]));
    assert_eq!(call("hello", &[]).0, 401);
    let configured = run(server.command().args(["config", "hello", "--require-token=false", "-o", "json"]));
    assert_eq!(serde_json::from_str::<Value>(&configured).unwrap()["version"], 1);
    assert_eq!(call("hello", &[]), (200, "null".into()));
    // What is not a token of the platform is the function's own affair.
    assert_eq!(call("hello", &["Authorization: Bearer mine"]), (200, "\"Bearer mine\"".into()));
    assert_eq!(call("hello", &[&bearer(&invoke)]), (200, "null".into()));
}

#[test]
fn tls_is_spoken_and_its_certificate_taken_up_again() {
    let folder = tempfile::tempdir().unwrap();
    let (certified, key) = certificate(folder.path(), "server");
    let (at, ca) = (|path: &std::path::Path| path.display().to_string(), folder.path().join("ca.pem"));
    let flags = ["--auth", "always", "--tls-cert", &at(&certified), "--tls-key", &at(&key)];
    let (server, plain) = open_server(&flags);
    let url = format!("https://localhost:{}", server.port());
    let status = |more: &[&str]| {
        let mut command = server.command();
        command.args(["status", "--server", &url]).args(more);
        command
    };
    let token = format!("@{}", server.data_dir().join("admin.token").display());
    let trusting = ["--server-ca", &at(&ca), "--token", &token];
    run(&mut status(&trusting));
    assert!(run_failing(&mut status(&["--token", &token]), 1).contains("--server-ca"), "nobody's authority");
    assert!(run_failing(&mut status(&trusting[..2]), 1).contains("a token is needed"), "on loopback too");
    let mut beyond = Command::new("curl");
    assert!(!beyond.args(["-s", &format!("{plain}/healthz")]).output().unwrap().status.success());
    assert_eq!(server.get("/healthz").0, 200, "loopback needs no certificate");

    // Another authority's certificate in the same files.
    let before = std::fs::read(&ca).unwrap();
    std::fs::write(&certified, "half a certif").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    run(&mut status(&trusting));
    certificate(folder.path(), "server");
    assert_ne!(std::fs::read(&ca).unwrap(), before);
    wait_until("the new certificate", Duration::from_secs(20), || {
        status(&trusting).output().unwrap().status.success()
    });
}

#[test]
fn openfaas_clients_log_in_and_do_all_they_do() {
    let (server, url) = open_server(&[]);
    push(&server, &[]);
    let described: Value = serde_json::from_str(&server.get("/v1/functions/hello").1).unwrap();
    let user = format!("admin:{}", admin_token(&server));
    let send = |method: &str, path: &str, body: Value| {
        let (body, url) = (body.to_string(), format!("{url}{path}"));
        let request = ["-X", method, "-H", "Content-Type:", "-d", &body, &url];
        assert_eq!(status(&request), 401, "{method} {path} without a login");
        status(&[&["-u", &user], &request[..]].concat())
    };
    let spec = json!({ "service": "copy", "image": described["image"], "secrets": ["key"] });
    let named = json!({ "name": "key", "value": "v" });
    for (method, path, body, expected) in [
        ("GET", "/system/info", json!({}), 200),
        ("GET", "/system/namespaces", json!({}), 200),
        ("POST", "/system/secrets", named.clone(), 201),
        ("PUT", "/system/functions", spec.clone(), 404),
        ("POST", "/system/functions", spec.clone(), 202),
        ("PUT", "/system/functions", spec, 200),
        ("GET", "/system/functions", json!({}), 200),
        ("GET", "/system/function/copy", json!({}), 200),
        ("POST", "/system/scale-function/copy", json!({ "replicas": 1 }), 202),
        ("GET", "/system/logs?name=copy&tail=1&follow=false", json!({}), 200),
        ("DELETE", "/system/functions", json!({ "functionName": "copy" }), 200),
        ("DELETE", "/system/secrets", json!({ "name": "key" }), 200),
    ] {
        assert_eq!(send(method, path, body), expected, "{method} {path}");
    }
    let call = format!("{url}/function/hello");
    let (code, head, _) = curl(&["-u", &user, "-H", "Content-Type: application/json", "-d", "{}", &call]);
    assert_eq!(code, 200);
    for header in ["x-call-id: ", "x-duration-seconds: ", "x-start-time: "] {
        assert!(head.contains(header), "{head}");
    }
}
