//! The API against its own description: schemathesis makes requests of it, wild ones too, and looks that every answer is
//! one that the description knows.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::run;
use crate::support::server::FnbuildServer;

fn schemathesis() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/schemathesis")
}

fn description(server: &FnbuildServer) -> Value {
    let (status, text) = server.get("/openapi.json");
    assert_eq!(status, 200);
    serde_json::from_str(&text).unwrap()
}

/// What cannot be tried like this: streams that never end, and connections that become something else.
const LEFT_OUT: [&str; 2] = ["/v1/live", "/v1/functions/{name}/exec"];

#[test]
fn no_answer_is_a_fault_of_the_server_or_not_in_the_description() {
    assert!(schemathesis().exists(), "schemathesis is missing: scripts/setup --tests brings it");
    // A wild scale must not fill the machine.
    let server = FnbuildServer::start_with(&["--max-replicas", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("adder.py");
    for body in ["return x + y", "return y + x"] {
        std::fs::write(&source, format!("def run(x=1, y=2):\n    {body}\n")).unwrap();
        run(server.command().arg("push").arg(&source));
    }
    // A log that is followed has no end.
    let config = |name: &str| {
        let named = if name.is_empty() { String::new() } else { format!("name = \"{name}\"\n") };
        format!("[parameters]\nfollow = false\n{named}")
    };
    let tried = |name: &str, more: &[&str]| {
        let file = folder.path().join("schemathesis.toml");
        std::fs::write(&file, config(name)).unwrap();
        let mut tried = Command::new(schemathesis());
        tried.current_dir(folder.path()).arg("--config-file").arg(&file).arg("--no-color");
        tried.arg("run").arg(format!("{}/openapi.json", server.url()));
        let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";
        tried.args(["--checks", checks, "--phases", "examples,coverage,fuzzing"]);
        tried.args(["--seed", "1", "--generation-deterministic", "--max-examples", "15"]);
        tried.args(["--request-timeout", "60", "--suppress-health-check", "all"]);
        for path in LEFT_OUT {
            tried.args(["--exclude-path", path]);
        }
        let told = run(tried.args(more));
        assert!(told.contains("generated") && !told.contains("Errors:"), "{told}");
    };
    // Of a function that is there, and of names that are not.
    tried("adder", &["--exclude-method", "DELETE"]);
    tried("", &[]);
}

#[test]
fn every_path_is_described_and_what_cannot_be_read_is_told_in_json() {
    let server = FnbuildServer::start();
    let described = description(&server);
    assert!(described["openapi"].as_str().unwrap().starts_with("3."));
    let paths = described["paths"].as_object().unwrap();
    for (path, method) in [
        ("/v1/functions/{name}", "put"),
        ("/v1/functions/{name}/rollback", "post"),
        ("/v1/functions/{name}/schedules", "post"),
        ("/v1/live", "get"),
        ("/v1/calls/{id}", "get"),
        ("/v1/schedules", "get"),
        ("/v1/tokens", "post"),
        ("/async-function/{name}", "post"),
        ("/system/functions", "delete"),
        ("/system/secrets", "post"),
    ] {
        let operation = &paths[path][method];
        assert!(operation["responses"]["401"].is_object(), "{method} {path}: {operation}");
    }
    let problem = |arguments: &[&str], expected: u16| {
        let (status, body) = server.curl(arguments);
        let problem: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{arguments:?}: {body}"));
        assert_eq!(status, expected, "{arguments:?}: {problem}");
        assert!(problem["errorType"].is_string() && problem["requestId"].is_string(), "{problem}");
    };
    let large = server.data_dir().join("large.json");
    std::fs::write(&large, vec![b' '; 2 << 20]).unwrap();
    let large = format!("@{}", large.display());
    problem(&["/v1/functions?limit=many"], 400);
    problem(&["/v1/functions?after=Not_A_Name"], 400);
    problem(&["/v1/functions/%ff"], 400);
    problem(&["/v1/functions/a/logs?follow=perhaps"], 400);
    problem(&["/v1/live?name=-"], 400);
    problem(&["/system/function/%ff"], 400);
    problem(&["/system/logs?tail=x&name=a"], 400);
    problem(&["-X", "POST", "/v1/doctor?repair=x"], 400);
    problem(&["-X", "PATCH", "/v1/functions"], 405);
    let json = "Content-Type: application/json";
    problem(&["-H", json, "--data-binary", &large, "/v1/functions/a/config"], 413);
    problem(&["--data-binary", &large, "/system/functions"], 413);
    for list in ["[]", "[1]", "\"x\"", "null"] {
        for path in ["/v1/functions/a/config", "/v1/functions/a/scale", "/system/functions"] {
            let (status, told) = server.curl(&["-H", json, "-d", list, path]);
            assert!(status == 400 && told.contains("expected a JSON object"), "{path} {list}: {told}");
        }
    }
    problem(&["-d", "{}", "/v1/functions/a/config"], 400);
    problem(&["-d", "{}", "/async-function/Not_A_Name"], 404);
}
