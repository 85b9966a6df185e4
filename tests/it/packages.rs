//! `fnbuild push` of sources that ask for packages: the real uv, the real index, a real registry.

use std::process::Command;

use serde_json::{Value, json};

use super::dependencies::uv;
use super::push::Home;
use crate::support::registry::DockerRegistry;
use crate::support::server::FnbuildServer;
use crate::support::{run, run_failing};

/// Runs a push of a folder and gives its report and what it said.
fn push(home: &Home, server: &DockerRegistry, folder: &str) -> (Value, String) {
    let output = command(home, server, folder).args(["-o", "json"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

fn command(home: &Home, server: &DockerRegistry, folder: &str) -> Command {
    let mut command = home.fnbuild(&server.host());
    command.args(["push", folder, "--image-only"]);
    command.envs(uv().map(|uv| ("FNBUILD_UV", uv)));
    command
}

fn write(home: &Home, folder: &str, requirements: &str) {
    std::fs::create_dir_all(home.path(folder)).unwrap();
    home.write(&format!("{folder}/func.py"), &format!("import six\n\n\ndef run():\n    return {folder:?}\n"));
    home.write(&format!("{folder}/requirements.txt"), requirements);
}

fn states(report: &Value) -> Vec<&str> {
    report["layers"].as_array().unwrap().iter().map(|layer| layer["state"].as_str().unwrap()).collect()
}

#[test]
fn packages_are_a_layer_of_their_own_that_functions_share() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    write(&home, "one", "six==1.17.0\n");
    write(&home, "two", "# the same\nSix == 1.17.0\n");
    let (one, said) = push(&home, &server, "one");
    assert_eq!(states(&one), ["new"; 5]);
    assert!(said.contains("packages resolved now: six 1.17.0") && said.contains("fnbuild lock"), "{said}");
    let (two, said) = push(&home, &server, "two");
    assert_eq!(states(&two), ["mounted", "mounted", "mounted", "mounted", "new"]);
    assert!(said.contains("packages as resolved within a day: six 1.17.0"), "{said}");
    assert_eq!(one["layers"][3]["digest"], two["layers"][3]["digest"]);

    let (again, _) = push(&home, &server, "two");
    assert_eq!((&again["unchanged"], &again["digest"]), (&Value::Bool(true), &two["digest"]));
}

#[test]
fn a_lock_decides_and_a_stale_one_stops_the_push() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    write(&home, "one", "six==1.17.0\n");
    let mut lock = home.fnbuild(&server.host());
    run(lock.args(["lock", "one"]).envs(uv().map(|uv| ("FNBUILD_UV", uv))));
    let (_, said) = push(&home, &server, "one");
    assert!(!said.contains("resolved"), "{said}");

    home.write("one/requirements.txt", "six==1.16.0\n");
    let said = run_failing(&mut command(&home, &server, "one"), 1);
    assert!(said.contains("requirements.lock no longer fits") && said.contains("fnbuild lock"), "{said}");
}

#[test]
fn what_cannot_be_resolved_pushes_nothing() {
    let (home, server) = (Home::new(), DockerRegistry::start());
    for (requirements, says) in [
        ("sgmllib3k\n", "no usable wheels"),
        ("six\n\ngit+https://example.org/six.git\n", "requirements.txt, line 3: packages are named"),
    ] {
        write(&home, "bad", requirements);
        let said = run_failing(&mut command(&home, &server, "bad"), 1);
        assert!(said.contains(says) && said.contains("hint: "), "{said}");
        let list = format!("http://{}/v2/_catalog", server.host());
        assert_eq!(run(Command::new("curl").args(["-fsS", &list])), "{\"repositories\":[]}");
    }
}

#[test]
fn a_version_keeps_its_packages_with_hashes_and_a_server_resolves_as_push_does() {
    let server = FnbuildServer::start();
    let home = Home::new();
    home.write("func.py", "import six\n\n\ndef run():\n    return six.__version__\n");
    home.write("list.txt", "six==1.17.0\n");
    let push = |more: &[&str]| -> Value {
        let mut command = server.command();
        command.current_dir(home.path("")).envs(uv().map(|uv| ("FNBUILD_UV", uv)));
        command.args(["push", "func.py", "--requirements", "list.txt", "-o", "json"]).args(more);
        serde_json::from_str(&run(&mut command)).unwrap()
    };
    let remote = push(&["--remote", "--no-deps"]);
    assert_eq!(server.call("func", &json!({})), (200, "\"1.17.0\"".into()));
    let here = push(&["--no-deps", "--tag", "stable", "--tag", "v1"]);
    assert_eq!((&here["digest"], &here["version"]), (&remote["digest"], &json!(1)));
    // Without a word about dependencies it is the same list and another question; the answer happens to be the same.
    assert_eq!(push(&["--remote"])["version"], 1);

    let described = run(server.command().args(["describe", "func", "-o", "json"]));
    let described: Value = serde_json::from_str(&described).unwrap();
    let six = "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274";
    assert_eq!(described["packages"], json!([{ "name": "six", "version": "1.17.0", "sha256": six }]));
    let text = run(server.command().args(["describe", "func"]));
    assert!(text.contains("packages") && text.contains("six 1.17.0"), "{text}");

    let list = format!("http://{}/v2/fn/func/tags/list", server.registry().host());
    let mut tags: Value = serde_json::from_str(&run(Command::new("curl").args(["-fsS", &list]))).unwrap();
    tags["tags"].as_array_mut().unwrap().sort_by_key(|tag| tag.to_string());
    assert_eq!(tags["tags"], json!(["1", "latest", "stable", "v1"]));
}

#[test]
fn a_server_refuses_a_strangers_list_as_push_does() {
    let server = FnbuildServer::start();
    let home = Home::new();
    home.write("list.txt", "six\n--index-url http://example.org/\n");
    let mut command = server.command();
    command.current_dir(home.path("")).args(["push", "func.py", "--remote", "--requirements", "list.txt"]);
    let said = run_failing(&mut command, 1);
    assert!(said.contains("line 2: options are not taken"), "{said}");
    let (status, _) = server.curl(&[
        "-T",
        "tests/it/main.rs",
        "-H",
        "X-Fnbuild-Lock: *",
        "/v1/functions/func?filename=a.py",
    ]);
    assert_eq!(status, 400);
}
