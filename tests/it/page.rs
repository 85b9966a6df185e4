//! The page in a real browser: `tests/it/page/walk.mjs` drives Debian's Chromium over a server of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::auth::own_address;
use crate::support::registry::DockerRegistry;
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
/// Answers a page that tries what only `/ui` may do.
const SITE: &str = r#"PAGE = """<!doctype html><title>trying</title><a href="/ui" target="_blank" rel="opener">Management</a>
<script>
const can = async (what) => { try { return Boolean(await what()); } catch { return false; } };
(async () => {
  document.title = JSON.stringify({
    origin: self.origin,
    storage: await can(() => sessionStorage.getItem("kept")),
    list: await can(async () => (await fetch("/v1/functions")).ok),
    remove: await can(async () => (await fetch("/v1/functions/adder", { method: "DELETE" })).ok),
    worker: await can(() => navigator.serviceWorker.register("/function/site")),
  });
})();
</script>"""

def run(request):
    policies = [("Content-Security-Policy", "connect-src 'self'"), ("Content-Type", "text/html")]
    return PAGE, 200, policies
"#;
const MARKUP: &str = "def run():\n    return '<img src=x onerror=alert(1)>'\n";

fn push_site(server: &FnbuildServer, folder: &Path) {
    let source = folder.join("site.py");
    std::fs::write(&source, SITE).unwrap();
    run(server.command().arg("push").arg(&source));
}

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
    std::fs::write(folder.path().join("site.py"), SITE).unwrap();
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
    for step in ["mouse", "keyboard", "markup", "dark", "narrow", "origin", "token", "quiet"] {
        assert!(told.lines().any(|line| line == format!("ok {step}")), "{step} is missing in:\n{told}");
    }
}

/// The policies that a path is answered with.
fn policies(server: &FnbuildServer, url: &str) -> Vec<String> {
    let head = run(Command::new("curl").args(["-sS", "-D", "-", "-o", "/dev/null", url]));
    assert!(head.contains(" 200 "), "{head}\n{}", server.log());
    let policy = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-security-policy").then(|| value.trim().to_string())
    };
    head.lines().filter_map(policy).collect()
}

#[test]
fn what_a_function_answers_has_no_origin_where_management_has_the_same() {
    let mut server = FnbuildServer::prepare(DockerRegistry::start(), &["--auth", "local"]);
    server.listen_too(own_address());
    server.start_again();
    let folder = tempfile::tempdir().unwrap();
    push_site(&server, folder.path());
    let own = "connect-src 'self'";
    let both = policies(&server, &format!("{}/function/site", server.url()));
    let [first, sandbox] = both.as_slice() else { panic!("{both:?}") };
    assert_eq!(first, own, "the function's own stays");
    assert!(sandbox.starts_with("sandbox ") && !sandbox.contains("allow-same-origin"), "{sandbox}");
    let beyond = format!("http://{}:{}/function/site", own_address(), server.port());
    assert_eq!(policies(&server, &beyond), [own], "there is no management");
    let trusting = FnbuildServer::start_with(&["--trust-pages"]);
    push_site(&trusting, folder.path());
    assert_eq!(policies(&trusting, &format!("{}/function/site", trusting.url())), [own]);
    // What a page without an origin can still send is refused.
    let image = ["-H", "Sec-Fetch-Site: cross-site", "/v1/functions"];
    let (status, problem) = trusting.curl(&image);
    assert!(status == 403 && problem.contains("another site"), "{problem}");
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
