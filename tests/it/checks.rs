//! What is checked before anything is pushed: that the entry point's module is there, parses, and defines the function.

use std::process::Command;

use serde_json::{Value, json};

use super::push::Home;
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{run, run_failing};

/// Sources that are refused, and what is said then.
const REFUSED: [(&str, &str); 4] = [
    (
        "def run(x)\n    return x\n",
        "func.py:1:11: expected `:`, found newline\n    def run(x)\n              ^",
    ),
    ("type X = int\ndef run(): pass\n", "func.py:1:1: cannot use `type` alias statement on Python 3.11"),
    ("def main(): pass\n# def run(): pass\n", "func.py defines no run"),
    ("x = 1\ny = [[[\n", "func.py:2:8: unexpected EOF while parsing\n    y = [[[\n           ^"),
];

/// A zip with this `func.py` in it.
fn zip(home: &Home, code: &str) {
    home.write("func.py", code);
    run(Command::new("zip").args(["-q", "-FS", "func.zip", "func.py"]).current_dir(home.path("")));
}

#[track_caller]
fn assert_empty(registry: &DockerRegistry) {
    let list = format!("http://{}/v2/_catalog", registry.host());
    assert_eq!(run(Command::new("curl").args(["-fsS", &list])), "{\"repositories\":[]}");
}

#[test]
fn what_python_could_not_import_is_refused_before_anything_is_pushed() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    for (code, says) in REFUSED {
        zip(&home, code);
        for arguments in [
            &["push", "func.zip", "--image-only"][..],
            &["push", "func.py", "--image-only"],
            &["build", "func.zip", "-o", "registry"],
            &["build", "func.py"],
        ] {
            let said = run_failing(home.fnbuild(&server.host()).args(arguments), 1);
            assert!(said.contains(says) && said.contains("hint: "), "{arguments:?}: {said}");
        }
    }
    let mut push = home.fnbuild(&server.host());
    home.write("func.py", "def main(): pass\n");
    let said = run_failing(push.args(["push", "func.py", "--image-only", "--entry", "func:other"]), 1);
    assert!(said.contains("func.py defines no other"), "{said}");
    assert_empty(&server);
}

#[test]
fn a_server_refuses_what_python_could_not_import() {
    let server = FnbuildServer::start();
    let home = Home::new();
    for (code, says) in REFUSED {
        zip(&home, code);
        let file = home.path("func.zip").display().to_string();
        let said = run_failing(server.command().args(["push", &file, "--remote"]), 1);
        assert!(said.contains(says), "{said}");
        let (status, body) = server.curl(&["-T", &file, "/v1/functions/func"]);
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &problem["errorType"]), (400, &json!("InvalidSource")), "{body}");
        assert!(problem["errorMessage"].as_str().unwrap().contains(says), "{body}");
    }
    assert_empty(server.registry());
    assert_eq!(server.get("/v1/functions/func").0, 404);
}

#[test]
fn what_a_function_takes_is_recorded_and_shown() {
    let server = FnbuildServer::start();
    let home = Home::new();
    home.write("func.py", "def run(x: int, y=1, *, unit: str = 'mm'):\n    return x + y\n");
    let file = home.path("func.py").display().to_string();
    let expected = json!([
        { "name": "x", "kind": "POSITIONAL_OR_KEYWORD", "annotation": "int" },
        { "name": "y", "kind": "POSITIONAL_OR_KEYWORD", "default": "1" },
        { "name": "unit", "kind": "KEYWORD_ONLY", "default": "'mm'", "annotation": "str" },
    ]);
    for remote in [&[][..], &["--remote"]] {
        run(server.command().args(["push", &file]).args(remote));
        let json = run(server.command().args(["describe", "func", "-o", "json"]));
        let described: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(described["parameters"], expected);
        assert_eq!(described["version"], 1, "both ways record the same");
    }
    let text = run(server.command().args(["describe", "func"]));
    assert!(text.contains("func:run(x: int, y=1, *, unit: str = 'mm')"), "{text}");
    let json = run(server.command().args(["versions", "func", "-o", "json"]));
    let versions: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(versions["versions"][0]["parameters"], expected);

    home.write("func.py", "from operator import add as run\n");
    run(server.command().args(["push", &file]));
    let json = run(server.command().args(["describe", "func", "-o", "json"]));
    assert!(serde_json::from_str::<Value>(&json).unwrap().get("parameters").is_none());
    assert!(run(server.command().args(["describe", "func"])).contains("func:run\n"));
}

#[test]
fn a_vendored_wheel_for_another_python_is_refused() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    std::fs::create_dir_all(home.path("f/numpy-2.4.6.dist-info")).unwrap();
    home.write("f/func.py", "def run(): pass\n");
    home.write(
        "f/numpy-2.4.6.dist-info/WHEEL",
        "Wheel-Version: 1.0\nTag: cp313-cp313-manylinux_2_28_x86_64\n",
    );
    run(Command::new("zip").args(["-qr", "../f.zip", "."]).current_dir(home.path("f")));
    for source in ["f", "f.zip"] {
        let said = run_failing(home.fnbuild(&server.host()).args(["push", source, "--image-only"]), 1);
        assert!(said.contains("numpy-2.4.6.dist-info/WHEEL does not fit Python 3.11"), "{said}");
        assert!(
            said.contains("cp313-cp313-manylinux_2_28_x86_64") && said.contains("requirements.txt"),
            "{said}"
        );
    }
    assert_empty(&server);
}
