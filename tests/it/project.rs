//! What a developer keeps beside the code: `fnbuild new`, `fnbuild up`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::server::FnbuildServer;
use crate::support::{base, fnbuild, run, run_failing};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_new_function_is_tested_and_built_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let files = run(fnbuild().args(["new", "hello"]).current_dir(folder.path()));
    assert_eq!(files, "hello/func.py\nhello/test_func.py\nhello/requirements.txt\nhello/.fnignore");
    let hello = folder.path().join("hello");
    run(Command::new("python3").arg("test_func.py").current_dir(&hello));

    // No uv is needed where no package is.
    let layout = folder.path().join("image");
    run(fnbuild()
        .args(["build", "hello", "-o", &format!("oci:{}", layout.display()), "--data-dir"])
        .arg(base::base())
        .env("FNBUILD_UV", "/nonexistent/uv")
        .current_dir(folder.path()));
    assert!(layout.join("index.json").is_file());

    fs::write(hello.join("func.py"), "mine").unwrap();
    let stderr = run_failing(fnbuild().args(["new", "hello"]).current_dir(folder.path()), 1);
    assert!(stderr.contains("hello is there already") && stderr.contains("hint: "), "{stderr}");
    assert_eq!(fs::read_to_string(hello.join("func.py")).unwrap(), "mine");
    run_failing(fnbuild().args(["new", "Hello"]).current_dir(folder.path()), 2);
}

#[test]
fn a_project_is_deployed_with_its_settings_and_one_that_fails_stops_no_other() {
    let server = FnbuildServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fnbuild.toml");
    write(&folder.path().join("greet/func.py"), "import os\ndef run():\n    return os.environ['GREETING']\n");
    write(&folder.path().join("src/two.py"), "def answer():\n    return 2\n");
    write(&folder.path().join("broken/func.py"), "def run(:\n");
    write(
        &file,
        r#"
        [functions.greet]
        env = { GREETING = "hello" }
        memory = "64Mi"
        timeout = "5s"
        max-scale = 2

        [functions.two]
        source = "src/two.py"
        entry = "two:answer"
        labels = { team = "web" }

        [functions.broken]
        "#,
    );
    let up = || {
        let mut up = server.command();
        up.args(["up", "-o", "json"]).current_dir(folder.path());
        up
    };
    let output = up().output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: broken: func.py:1:9") && stderr.contains("hint: "), "{stderr}");
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = reports.as_array().unwrap().iter().map(|report| &report["name"]).collect();
    assert_eq!(names, ["broken", "greet", "two"]);
    assert_eq!(reports[2]["version"], 1, "{reports}");
    assert_eq!((&reports[1]["version"], &reports[1]["unchanged"]), (&json!(1), &json!(false)));
    assert_eq!(server.call("greet", &json!({})), (200, "\"hello\"".into()));
    assert_eq!(server.call("two", &json!({})), (200, "2".into()));

    let status = run(server.command().arg("status"));
    assert!(status.contains(": ready") && status.contains("functions 2, nodes 1, replicas 2 of"), "{status}");

    let described = |name: &str| -> Value {
        serde_json::from_str(&run(server.command().args(["describe", name, "-o", "json"]))).unwrap()
    };
    let settings = described("greet")["settings"].clone();
    assert_eq!((&settings["memory"], &settings["timeoutMs"]), (&json!(64 << 20), &json!(5000)));
    assert_eq!((&settings["maxScale"], &settings["concurrency"]), (&json!(2), &json!(8)));
    assert_eq!(described("two")["settings"]["labels"]["team"], "web");

    // The file says everything: what it does not say any more is gone, and what it says already is no change.
    write(
        &file,
        "[functions.greet]\nenv = { GREETING = \"hi\" }\n[functions.two]\nsource = \"src/two.py\"\nentry = \"two:answer\"\nlabels = { team = \"web\" }\n",
    );
    let lines = run(server.command().arg("up").current_dir(folder.path()));
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    let url = |name: &str| format!("{}/function/{name}", server.url());
    assert_eq!(
        lines,
        [format!("greet: version 2 {}", url("greet")), format!("two: version 1 (unchanged) {}", url("two")),]
    );
    assert_eq!(server.call("greet", &json!({})), (200, "\"hi\"".into()));
    assert_eq!(described("greet")["settings"]["memory"], json!(256 << 20));
}

#[test]
fn the_schedules_that_the_file_names_are_those_that_there_are() {
    let server = FnbuildServer::start();
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("mail/func.py"), "def run(to=None):\n    return to\n");
    let file = folder.path().join("fnbuild.toml");
    let up = |schedules: &str| {
        write(&file, &format!("[functions.mail]\n{schedules}"));
        run(server.command().arg("up").current_dir(folder.path()))
    };
    let schedules = || -> Vec<[String; 4]> {
        let told = run(server.command().args(["schedule", "list", "mail", "-o", "json"]));
        let told: Vec<Value> = serde_json::from_str(&told).unwrap();
        let text = |schedule: &Value, key: &str| schedule[key].as_str().unwrap().to_string();
        let row = |schedule: &Value| ["cron", "timeZone", "data", "id"].map(|key| text(schedule, key));
        let mut all: Vec<_> = told.iter().map(row).collect();
        all.sort();
        all
    };
    const DAILY: &str = "[[functions.mail.schedule]]\npattern = \"@daily\"\n";
    let berlin = "[[functions.mail.schedule]]\npattern = \"0 9 * * 1-5\"\ntime-zone = \"Europe/Berlin\"\n\
                  data = { to = \"me\" }\n";
    up(&format!("{DAILY}{berlin}"));
    let first = schedules();
    assert_eq!(first[0][..3], ["0 9 * * 1-5", "Europe/Berlin", r#"{"to":"me"}"#]);
    assert_eq!(first[1][..3], ["@daily", "UTC", "{}"]);

    // One is gone, the other the same one as before; what is made by hand goes too.
    run(server.command().args(["schedule", "mail", "@hourly"]));
    let told = up(DAILY);
    assert!(told.contains("mail: version 1 (unchanged)"), "{told}");
    assert_eq!(schedules(), [first[1].clone()]);

    // A file that says nothing of schedules leaves them alone; one that says none has none.
    run(server.command().args(["schedule", "mail", "@hourly"]));
    up("");
    assert_eq!(schedules().len(), 2);
    up("schedule = []");
    assert!(schedules().is_empty());

    // What is no pattern is refused before anything is built.
    write(&file, "[functions.mail]\nschedule = [{ pattern = \"often\" }]\n");
    let stderr = run_failing(server.command().arg("up").current_dir(folder.path()), 1);
    assert!(stderr.contains("error: mail\n") && stderr.contains("\"often\" is no schedule"), "{stderr}");
}

#[test]
fn a_stack_of_openfaas_is_deployed() {
    let server = FnbuildServer::start();
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("add/func.py"), "import os\ndef run():\n    return os.environ['LEVEL']\n");
    write(&folder.path().join("other/func.py"), "def run():\n    return 1\n");
    write(
        &folder.path().join("stack.yml"),
        "version: 1.0\nprovider:\n  name: openfaas\n  gateway: http://127.0.0.1:8080\nfunctions:\n  add:\n    \
         lang: python3\n    handler: ./add\n    image: add:latest\n    environment: {LEVEL: 3}\n    labels:\n      \
         com.openfaas.scale.zero: true\n    limits: {memory: 64Mi}\n  other:\n    handler: ./other\n",
    );
    let told = run(server.command().args(["up", "add"]).current_dir(folder.path()));
    assert_eq!(told, format!("add: version 1 {}/function/add", server.url()));
    assert_eq!(server.call("add", &json!({})), (200, "\"3\"".into()));
    let (status, _) = server.call("other", &json!({}));
    assert_eq!(status, 404, "only what was asked for is deployed");
}
