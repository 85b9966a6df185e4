//! What a server tells of itself: `/metrics`, as Prometheus' own Python library reads it, and a log that programs read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};

use crate::registry_kit::program;
use crate::support::server::{FnbuildServer, containerd};
use crate::support::{run, wait_until};

const NAME: &str = "function_name=div.openfaas-fn";

/// Prints the families as JSON: name, type, help, and samples by their name and their labels in order.
const READ: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as read
def key(sample):
    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
    return sample.name + (f"{{{labels}}}" if labels else "")
print(json.dumps([
    {"name": family.name, "type": family.type, "help": family.documentation,
     "samples": {key(sample): sample.value for sample in family.samples}}
    for family in read(sys.stdin.read())
]))
"#;

fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python3");
    assert!(python.exists(), "run scripts/setup --tests: {} is not there", python.display());
    python
}

struct Scraped {
    samples: BTreeMap<String, f64>,
    /// By family.
    types: BTreeMap<String, String>,
    /// Of families and of samples, as they are written.
    names: BTreeSet<String>,
}

impl Scraped {
    #[track_caller]
    fn of(text: &str) -> Self {
        let mut reader = Command::new(python());
        reader.args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut reader = reader.spawn().unwrap();
        reader.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let read = reader.wait_with_output().unwrap();
        assert!(read.status.success(), "{text}");
        let families: Vec<Value> = serde_json::from_slice(&read.stdout).unwrap();
        let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
        for family in families {
            let name = family["name"].as_str().unwrap().to_string();
            assert_ne!(family["help"], "", "{name}");
            let twice = types.insert(name.clone(), family["type"].as_str().unwrap().to_string());
            assert_eq!(twice, None, "{name} is there twice");
            for (name, value) in family["samples"].as_object().unwrap() {
                samples.insert(name.clone(), value.as_f64().unwrap());
            }
        }
        let name = |line: &str| {
            let line = line.strip_prefix("# TYPE ").or((!line.starts_with('#')).then_some(line))?;
            line.split(['{', ' ']).next().map(str::to_string)
        };
        Self { samples, types, names: text.lines().filter_map(name).collect() }
    }

    #[track_caller]
    fn get(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("{sample} is not in {:#?}", self.samples))
    }
}

#[track_caller]
fn scrape(server: &FnbuildServer) -> Scraped {
    let (status, text) = server.get("/metrics");
    assert_eq!(status, 200, "{text}");
    Scraped::of(&text)
}

/// A server with a function that was called, in vain too, that was built, in vain too, and that was called later.
fn busy_server() -> FnbuildServer {
    let server = FnbuildServer::start_with(&["--log-format", "json", "--async-backoff", "40ms"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("div.py");
    let push =
        || server.command().arg("push").arg(&file).args(["--remote"]).output().unwrap().status.success();
    fs::write(&file, "def run(x=0):\n    return 1 / x\n").unwrap();
    assert!(push() && push(), "the second time there is nothing to build");
    fs::write(&file, "x = 1\n").unwrap();
    assert!(!push());
    assert_eq!(server.call("div", &json!({ "x": 1 })).0, 200);
    assert_eq!(server.call("div@1", &json!({ "x": 2 })).0, 200);
    assert_eq!(server.call("div", &json!({})).0, 500);
    assert_eq!(server.call("div@9", &json!({})).0, 404);
    assert_eq!(server.call("nobody", &json!({})).0, 404);
    let later = |x: u32| {
        let body = json!({ "x": x }).to_string();
        let headers = ["-H", "Content-Type: application/json", "-d", &body];
        assert_eq!(server.curl(&[&headers[..], &["/async-function/div"]].concat()).0, 202);
    };
    later(4);
    later(0);
    // One is done and gone, the other given up.
    wait_until("both calls to end", Duration::from_secs(60), || {
        let left: Value =
            serde_json::from_str(&run(server.command().args(["calls", "list", "-o", "json"]))).unwrap();
        left.as_array().unwrap().iter().map(|call| &call["state"]).eq([&json!("dead")])
    });
    server
}

#[test]
fn calls_starts_builds_and_the_queue_are_counted() {
    let server = busy_server();
    let scraped = scrape(&server);
    let total = |code: &str| scraped.get(&format!("gateway_function_invocation_total{{code={code},{NAME}}}"));
    assert_eq!((total("200"), total("404")), (3.0, 1.0));
    // The one that failed at once, and the attempts of the one that failed later.
    let failed = total("500");
    assert_eq!(failed, 1.0 + 1.0 + scraped.get("fnbuild_queue_retries_total"));
    assert_eq!(scraped.get(&format!("gateway_function_invocation_started_total{{{NAME}}}")), 4.0 + failed);
    let bucket =
        |le: &str| scraped.get(&format!("gateway_functions_seconds_bucket{{code=200,{NAME},le={le}}}"));
    assert_eq!((bucket("+Inf"), bucket("60")), (3.0, 3.0));
    assert!(bucket("0.0005") <= bucket("10"));
    assert_eq!(scraped.get(&format!("gateway_functions_seconds_count{{code=200,{NAME}}}")), 3.0);
    assert!(scraped.get(&format!("gateway_functions_seconds_sum{{code=200,{NAME}}}")) > 0.0);
    assert_eq!(scraped.get(&format!("gateway_service_count{{{NAME}}}")), 1.0);
    assert_eq!(scraped.get(&format!("fnbuild_cold_calls_total{{{NAME}}}")), 1.0);
    assert!(!server.get("/metrics").1.contains("nobody"), "a name that somebody made up is not kept");
    let from = |from: &str| scraped.get(&format!("fnbuild_cold_starts_total{{from={from}}}"));
    let timed = |from: &str| scraped.get(&format!("fnbuild_cold_start_seconds_count{{from={from}}}"));
    assert_eq!((from("pool") + from("container"), timed("pool") + timed("container")), (1.0, 1.0));
    for (name, value) in [
        ("fnbuild_builds_total{outcome=pushed}", 1.0),
        ("fnbuild_builds_total{outcome=unchanged}", 1.0),
        ("fnbuild_builds_total{outcome=failed}", 1.0),
        ("fnbuild_build_seconds_count", 1.0),
        ("fnbuild_push_seconds_count", 1.0),
        ("fnbuild_failed_starts_total", 0.0),
        ("fnbuild_replica_deaths_total", 0.0),
        ("fnbuild_functions", 1.0),
        ("fnbuild_replicas", 1.0),
        ("fnbuild_calls_in_flight", 0.0),
        ("fnbuild_calls_waiting", 0.0),
        ("fnbuild_queue_accepted_total", 2.0),
        ("fnbuild_queue_done_total", 1.0),
        ("fnbuild_queue_dead_total", 1.0),
        ("fnbuild_queue_calls{state=dead}", 1.0),
        ("fnbuild_queue_calls{state=waiting}", 0.0),
    ] {
        assert_eq!(scraped.get(name), value, "{name}");
    }
    assert!(scraped.get("process_resident_memory_bytes") > 1e6);
    assert!(scraped.get("process_start_time_seconds") > 1.7e9);
    for (family, kind) in [
        ("gateway_function_invocation", "counter"),
        ("gateway_functions_seconds", "histogram"),
        ("gateway_service_count", "gauge"),
        ("fnbuild_cold_start_seconds", "histogram"),
        ("fnbuild_builds", "counter"),
        ("fnbuild_queue_calls", "gauge"),
    ] {
        assert_eq!(scraped.types.get(family).map(String::as_str), Some(kind), "{family}");
    }

    run(server.command().args(["delete", "div"]));
    assert!(!server.get("/metrics").1.contains("div.openfaas-fn"));
}

#[test]
fn what_dies_and_what_does_not_start_are_counted_and_told() {
    let server = FnbuildServer::start_with(&["--pool", "0"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("die.py");
    fs::write(&file, "import os\ndef run():\n    os._exit(1)\n").unwrap();
    run(server.command().arg("push").arg(&file));
    assert_eq!(server.call("die", &json!({})).0, 502);
    wait_until("the death to be counted", Duration::from_secs(20), || {
        scrape(&server).get("fnbuild_replica_deaths_total") == 1.0
    });
    let name = "function_name=die.openfaas-fn";
    let scraped = scrape(&server);
    assert_eq!(scraped.get(&format!("gateway_function_invocation_total{{code=502,{name}}}")), 1.0);
    assert_eq!(scraped.get(&format!("gateway_function_invocation_started_total{{{name}}}")), 1.0);
    assert_eq!(scraped.get("fnbuild_cold_starts_total{from=container}"), 1.0);
    fs::write(&file, "import os\nos._exit(1)\ndef run():\n    pass\n").unwrap();
    run(server.command().arg("push").arg(&file).args(["--name", "never"]));
    assert_eq!(server.call("never", &json!({})).0, 503);
    assert!(scrape(&server).get("fnbuild_failed_starts_total") >= 1.0);
    let described = |name: &str| -> Value {
        serde_json::from_str(&run(server.command().args(["describe", name, "-o", "json"]))).unwrap()
    };
    let failed = &described("never")["lastFailedStart"];
    assert_eq!(failed["version"], 1, "{failed}");
    assert!(failed["cause"].as_str().unwrap().contains("its process ended with exit status 1"), "{failed}");
    assert_eq!((described("die").get("lastFailedStart"), described("never").get("lastDeath")), (None, None));
    let text = run(server.command().args(["describe", "never"]));
    assert!(text.contains("version 1 did not start: its process ended with exit status 1"), "{text}");
    // Another function of that name has a history of its own.
    run(server.command().args(["delete", "never"]));
    run(server.command().arg("push").arg(&file).args(["--name", "never"]));
    assert_eq!(described("never").get("lastFailedStart"), None);
}

#[test]
fn a_start_takes_the_container_of_the_pool_that_is_on_its_way() {
    let server = FnbuildServer::start_with(&["--pool", "1"]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let file = folder.path().join(format!("{name}.py"));
        fs::write(&file, "def run():\n    return 1\n").unwrap();
        run(server.command().arg("push").arg(&file));
    }
    assert_eq!(server.call("one", &json!({})).0, 200);
    let before = scrape(&server);
    let starts =
        |scraped: &Scraped, from: &str| scraped.get(&format!("fnbuild_cold_starts_total{{from={from}}}"));
    let containers = || {
        let mut ctr = Command::new("ctr");
        ctr.args(["--address", &containerd().display().to_string(), "--namespace", server.namespace()]);
        run(ctr.args(["containers", "ls", "-q"]))
    };
    // Not before it is there, but before it can be used: what the pool had, if anything, is the first one's now.
    wait_until("a container for the pool", Duration::from_secs(60), || containers().lines().count() == 2);
    assert_eq!(server.call("two", &json!({})).0, 200);
    let after = scrape(&server);
    assert_eq!(starts(&after, "container"), starts(&before, "container"));
    assert_eq!(starts(&after, "pool"), starts(&before, "pool") + 1.0);
}

/// Every name in a PromQL expression that could be a metric's.
fn metrics_in(expression: &str) -> impl Iterator<Item = &str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(move |c| !is_of_name(c));
    words.filter(|word| ["gateway_", "fnbuild_", "process_"].iter().any(|start| word.starts_with(start)))
}

#[test]
fn the_dashboard_and_the_documentation_name_what_there_is() {
    let registry = tempfile::tempdir().unwrap();
    let (_registry, host) = program(registry.path(), &[]);
    let of_registry = thread::spawn(move || {
        Scraped::of(&run(Command::new("curl").args(["-sSf", &format!("http://{host}/metrics")])))
    });
    let mut known = scrape(&busy_server()).names;
    known.extend(of_registry.join().unwrap().names);

    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let dashboard: Value =
        serde_json::from_slice(&fs::read(docs.join("grafana-dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(expressions.iter().all(|expression| metrics_in(expression).next().is_some()), "{expressions:?}");
    for name in expressions.iter().copied().flat_map(metrics_in) {
        assert!(known.contains(name), "the dashboard names {name}, which is not among {known:?}");
    }

    let page = fs::read_to_string(docs.join("operations.md")).unwrap();
    let (_, page) = page.split_once("## Metrics").unwrap();
    let rows = page.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
    let told: BTreeSet<&str> = rows.flat_map(|row| metrics_in(row.split(" | ").next().unwrap())).collect();
    for name in &told {
        assert!(known.contains(*name), "operations.md names {name}, which is not among {known:?}");
    }
    let base = |name: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        let end = ends.iter().find_map(|end| name.strip_suffix(end).filter(|base| known.contains(*base)));
        end.unwrap_or(name).to_string()
    };
    let of_server = known.iter().filter(|name| !name.starts_with("fnbuild_registry_"));
    for name in of_server.map(|name| base(name)) {
        assert!(told.contains(name.as_str()), "operations.md does not name {name}");
    }
}

#[test]
fn the_log_is_json_from_its_first_line_on() {
    let server = FnbuildServer::start_with(&["--log-format", "json"]);
    let lines: Vec<Value> = server.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |text: &str| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|message| message.starts_with(text)))
    };
    assert!(told("listening on http://"), "{lines:?}");
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()));
}
