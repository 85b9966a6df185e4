//! The page in a real browser: `tests/it/page/walk.mjs` drives Debian's Chromium over a server of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::server::FnbuildServer;
use crate::support::{run, wait_until};

/// Where `scripts/setup --tests` puts `playwright-core`.
fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/node/node_modules")
}

/// A zip of one `func.py`.
fn zip(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (python, zip) = (folder.join("func.py"), folder.join(name));
    std::fs::write(&python, source).unwrap();
    run(Command::new("zip").arg("-qj").arg(&zip).arg(&python));
    zip
}

const FIRST: &str = "def run(x, y=2):\n    print('adding', x, y)\n    return {'sum': x + y}\n";
const SECOND: &str =
    "def run(x, y=2):\n    print('<b>bold</b>', x, y)\n    return {'sum': x + y, 'by': 'second'}\n";
const MARKUP: &str = "def run():\n    return '<img src=x onerror=alert(1)>'\n";

#[test]
fn a_function_is_uploaded_called_and_rolled_back_with_mouse_and_keyboard_in_both_schemes() {
    assert!(
        modules().join("playwright-core").exists(),
        "playwright-core is missing: scripts/setup --tests brings it"
    );
    let server = FnbuildServer::start();
    let guarded = FnbuildServer::start_with(&["--auth", "always"]);
    let token = std::fs::read_to_string(guarded.data_dir().join("admin.token")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    zip(folder.path(), "adder.zip", FIRST);
    zip(folder.path(), "adder-2.zip", SECOND);
    std::fs::write(folder.path().join("markup.py"), MARKUP).unwrap();
    let mut walk = Command::new("node");
    walk.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/page/walk.mjs"))
        .env("PAGE", format!("{}/ui", server.url()))
        .env("GUARDED", format!("{}/ui", guarded.url()))
        .env("TOKEN", token.trim())
        .env("FILES", folder.path())
        .env("MODULES", modules());
    let told = run(&mut walk);
    for step in ["mouse", "keyboard", "markup", "dark", "narrow", "token", "quiet"] {
        assert!(told.lines().any(|line| line == format!("ok {step}")), "{step} is missing in:\n{told}");
    }
}

#[test]
fn the_page_is_served_with_a_policy_and_who_looks_on_does_not_hold_up_the_end() {
    let mut server = FnbuildServer::start();
    for (path, kind) in [
        ("/ui", "text/html"),
        ("/ui/", "text/html"),
        ("/ui/page.css", "text/css"),
        ("/ui/page.js", "text/javascript"),
    ] {
        let (status, answer) = server.curl(&["-i", path]);
        let head = answer.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase();
        assert_eq!(status, 200, "{head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
    assert_eq!(server.curl(&["-L", "/"]).0, 200);
    assert_eq!(server.get("/ui/nothing.js").0, 404);

    let source = server.data_dir().join("hello.py");
    std::fs::write(&source, "def run():\n    print('said')\n    return 1\n").unwrap();
    run(server.command().arg("push").arg(&source));
    let seen = server.data_dir().join("seen");
    let mut looker = Command::new("curl");
    looker.args(["-sN", "-o"]).arg(&seen).arg(format!("{}/v1/live", server.url()));
    let mut looker = looker.spawn().unwrap();
    assert_eq!(server.call("hello", &serde_json::json!({})).0, 200);
    let told = || std::fs::read_to_string(&seen).unwrap_or_default();
    wait_until("the call to be seen", std::time::Duration::from_secs(30), || {
        told().contains("event: history") && told().contains("\"hello\":{\"calls\":1,\"errors\":0")
    });
    let answered = run(server.command().args(["config", "hello", "-e", "A=1"]));
    assert!(!answered.is_empty());
    wait_until("the change to be seen", std::time::Duration::from_secs(30), || {
        told().contains("event: change\ndata: {\"name\":\"hello\"}")
    });
    let log = server.data_dir().join("log");
    let mut follower = Command::new("curl");
    let url = format!("{}/v1/functions/hello/logs?follow=true", server.url());
    let mut follower = follower.args(["-sN", "-o"]).arg(&log).arg(url).spawn().unwrap();
    wait_until("the log to be followed", std::time::Duration::from_secs(30), || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("said")
    });
    server.stop();
    assert!(follower.wait().unwrap().success(), "so does a log that is followed");
    assert!(looker.wait().unwrap().success(), "the stream ends as a whole answer does");
    assert!(!server.log().contains("cut off"), "{}", server.log());
}
