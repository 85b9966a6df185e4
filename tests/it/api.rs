//! The management API as any HTTP client sees it: uploads, and what is refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::run;
use crate::support::server::FnbuildServer;

const HELLO: &str = "def run(name='world'):\n    return f'hello {name}'\n";

fn put(server: &FnbuildServer, path: &str, file: &Path, more: &[&str]) -> (u16, Value) {
    let data = format!("@{}", file.display());
    let arguments = [&["-X", "PUT", "--data-binary", &data], more, &[path]].concat();
    let (status, body) = server.curl(&arguments);
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn an_upload_is_built_recorded_and_answered_for_as_a_push_is() {
    let server = FnbuildServer::start_with(&["--max-source", "1Mi", "--max-entries", "50"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let python = file("func.py", HELLO.as_bytes());
    let zip = folder.path().join("hello.zip");
    run(std::process::Command::new("zip").arg("-qj").arg(&zip).arg(&python));

    // curl names a type of its own: the first bytes decide.
    let (status, made) = put(&server, "/v1/functions/hello", &zip, &[]);
    assert_eq!((status, &made["version"], &made["unchanged"]), (201, &json!(1), &json!(false)), "{made}");
    assert_eq!(server.call("hello", &json!({})), (200, "\"hello world\"".into()));
    let (status, again) = put(&server, "/v1/functions/hello", &zip, &["-H", "Content-Type: application/zip"]);
    assert_eq!((status, &again["version"]), (200, &json!(1)));
    let local = |more: &[&str]| -> Value {
        let mut push = server.command();
        push.arg("push").arg(&zip).args(["--name", "hello", "-o", "json"]).args(more);
        serde_json::from_str(&run(&mut push)).unwrap()
    };
    let (local, remote) = (local(&[]), local(&["--remote"]));
    for pushed in [&local, &remote] {
        assert_eq!((&pushed["digest"], &pushed["unchanged"]), (&made["digest"], &json!(true)));
    }

    let module = file("greet.py", HELLO.as_bytes());
    let (status, made) = put(&server, "/v1/functions/greet?filename=greet.py&entry=greet:run", &module, &[]);
    assert_eq!(status, 201, "{made}");
    assert_eq!(server.call("greet", &json!({ "name": "you" })), (200, "\"hello you\"".into()));
    let mut push = server.command();
    let remote = run(push.arg("push").arg(&module).args(["--remote", "-e", "A=1", "-o", "json"]));
    let remote: Value = serde_json::from_str(&remote).unwrap();
    assert_eq!(
        (&remote["digest"], &remote["version"]),
        (&made["digest"], &json!(2)),
        "the settings came along"
    );

    // What is wrong with a source is told, and nothing is recorded.
    let refused = |path: &str, content: &[u8], expected: u16, says: &str| {
        let (status, problem) = put(&server, path, &file("refused", content), &[]);
        assert_eq!(status, expected, "{problem}");
        let text = problem["errorMessage"].as_str().unwrap();
        assert!(text.contains(says), "{problem}");
        assert!(
            problem["errorType"].is_string() && problem["hint"].is_string() || expected != 400,
            "{problem}"
        );
    };
    refused("/v1/functions/bad", b"x = 1\n", 400, "func.py defines no run");
    refused("/v1/functions/bad", b"PK\x03\x04 and no more", 400, "zip");
    refused("/v1/functions/bad", b"\0\x01\x02", 400, "not a zip");
    refused("/v1/functions/bad", &vec![b'#'; (1 << 20) + 1], 413, "larger than 1048576 bytes");
    assert_eq!(put(&server, "/v1/functions/bad?filename=../func.py", &python, &[]).0, 400);
    assert_eq!(put(&server, "/v1/functions/Bad_Name", &python, &[]).0, 400);
    let settings = ["-H", "X-Fnbuild-Settings: {\"memroy\": 1}"];
    assert_eq!(put(&server, "/v1/functions/bad", &python, &settings).0, 400);
    let many = folder.path().join("many");
    fs::create_dir(&many).unwrap();
    fs::write(many.join("func.py"), HELLO).unwrap();
    (0..60).for_each(|n| fs::write(many.join(n.to_string()), "").unwrap());
    run(std::process::Command::new("zip").args(["-qr", "../many.zip", "."]).current_dir(&many));
    let (status, problem) = put(&server, "/v1/functions/bad", &folder.path().join("many.zip"), &[]);
    assert!(status == 400 && problem["errorMessage"].as_str().unwrap().contains("50 entries"), "{problem}");
    assert_eq!(server.get("/v1/functions/bad").0, 404);
    assert_eq!(fs::read_dir(server.data_dir().join("uploads")).unwrap().count(), 0, "no upload stays");
}

#[test]
fn other_sites_and_wrong_requests_are_refused() {
    let server = FnbuildServer::start();
    let problem = |arguments: &[&str]| {
        let (status, body) = server.curl(arguments);
        let problem: Value = serde_json::from_str(&body).unwrap();
        (status, problem["errorType"].as_str().unwrap_or_default().to_string())
    };
    let json = ["-H", "Content-Type: application/json"];
    let foreign = (403, "ForeignRequest".to_string());
    assert_eq!(problem(&["-H", "Host: evil.example", "/v1/functions"]), foreign);
    assert_eq!(problem(&["-H", "Origin: http://evil.example", "-X", "DELETE", "/v1/functions/a"]), foreign);
    let versions = "/v1/functions/a/versions";
    let post = |body: &str| problem(&[&json[..], &["-d", body, versions]].concat());
    assert_eq!(post("{"), (400, "InvalidRequest".into()));
    let image = json!({ "repository": "fn/a", "digest": format!("sha256:{}", "0".repeat(64)) });
    assert_eq!(post(&image.to_string()), (422, "ImageNotFound".into()));
    assert_eq!(problem(&["/v1/functions/a"]), (404, "FunctionNotFound".into()));
    assert_eq!(problem(&["/v1/nothing"]), (404, "PathNotFound".into()));
    assert_eq!(server.get("/v1/functions").0, 200);
}
