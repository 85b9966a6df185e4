//! Traces by OTLP: what a collector is sent, as OpenTelemetry's own messages read it, and what a function is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::FnbuildServer;
use crate::support::{Server, free_port, run, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that refuses the first requests, then prints each span as a line of JSON.
const COLLECTOR: &str = r#"
import http.server, json, sys
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
port, refusals = int(sys.argv[1]), int(sys.argv[2])
def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global refusals
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.send_error(404)
        if refusals:
            refusals -= 1
            return self.send_error(503)
        for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "trace": span.trace_id.hex(), "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(), "state": span.trace_state, "name": span.name,
                        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                        "start": span.start_time_unix_nano, "end": span.end_time_unix_nano,
                        "attributes": attributes(span.attributes), "flags": span.flags,
                        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                        "message": span.status.message, "scope": scope.scope.name,
                        "resource": attributes(resource.resource.attributes),
                    }), flush=True)
        answer = messages.ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Collector).serve_forever()
"#;

/// It answers what it was told.
const ECHO: &str = "from flask import request\n\
    def run(fail=False):\n\
    \x20   if fail:\n        raise ValueError('no')\n\
    \x20   return [request.headers.get('traceparent'), request.headers.get('tracestate')]\n";

struct Collector {
    _process: Server,
    folder: tempfile::TempDir,
    url: String,
}

impl Collector {
    fn start(refusals: u32) -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python3");
        assert!(python.exists(), "run scripts/setup --tests: {} is not there", python.display());
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let spans = File::create(folder.path().join("spans")).unwrap();
        let mut collector = Command::new(python);
        collector.args(["-c", COLLECTOR, &port.to_string(), &refusals.to_string()]).stdout(spans);
        let process = Server::start(&mut collector);
        wait_until("the collector's port", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { _process: process, folder, url: format!("http://127.0.0.1:{port}") }
    }

    fn spans(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("spans")).unwrap();
        text.lines().map_while(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The spans of a trace by their names, when all of these are there.
    fn trace(&self, id: &str, names: &[&str]) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        wait_until("the trace", PATIENCE, || {
            let spans = self.spans().into_iter().filter(|span| span["trace"] == *id);
            found = spans.map(|span| (span["name"].as_str().unwrap().to_string(), span)).collect();
            names.iter().all(|name| found.contains_key(*name))
        });
        found
    }
}

/// What the function was told: `traceparent`, `tracestate`.
#[track_caller]
fn call(server: &FnbuildServer, headers: &[&str]) -> (Option<String>, Option<String>) {
    let mut arguments = vec!["-X", "POST"];
    headers.iter().for_each(|header| arguments.extend(["-H", header]));
    arguments.push("/function/echo");
    let (status, body) = server.curl(&arguments);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn file(folder: &tempfile::TempDir) -> PathBuf {
    let file = folder.path().join("echo.py");
    fs::write(&file, ECHO).unwrap();
    file
}

fn is_within(inner: &Value, outer: &Value) -> bool {
    let time = |span: &Value, key: &str| span[key].as_u64().unwrap();
    let [starts, ends] = [(inner, outer), (outer, inner)];
    time(starts.1, "start") <= time(starts.0, "start") && time(ends.1, "end") <= time(ends.0, "end")
}

#[test]
fn a_call_is_a_trace_from_its_caller_to_its_function() {
    let collector = Collector::start(2);
    let server = FnbuildServer::start_with(&["--pool", "0", "--otlp-endpoint", &collector.url]);
    let folder = tempfile::tempdir().unwrap();
    let source = file(&folder).display().to_string();

    // A build, as a part of what its client does.
    const BUILDER: &str = "11111111111111111111111111111111";
    let parent = format!("traceparent: 00-{BUILDER}-2222222222222222-01");
    let (status, told) = server.curl(&["-T", &source, "-H", &parent, "/v1/functions/echo?filename=echo.py"]);
    assert_eq!(status, 201, "{told}");
    let built = collector.trace(BUILDER, &["build echo", "source", "blobs", "manifest"]);
    let build = &built["build echo"];
    assert_eq!((&build["parent"], &build["kind"]), (&json!("2222222222222222"), &json!("INTERNAL")));
    assert_eq!(built["blobs"]["parent"], build["span"]);
    assert!(is_within(&built["manifest"], build), "{built:#?}");
    assert_eq!(build["resource"]["service.name"], "fnbuild");

    // The first call waits for a start.
    const CALLER: &str = "33333333333333333333333333333333";
    let parent = format!("traceparent: 00-{CALLER}-4444444444444444-01");
    let (told, state) = call(&server, &[&parent, "tracestate: a=1,b=2"]);
    let all = ["function echo", "wait for a replica", "start of a replica", "create", "import", "POST"];
    let spans = collector.trace(CALLER, &all);
    let (whole, request) = (&spans["function echo"], &spans["POST"]);
    assert_eq!((&whole["parent"], &whole["kind"]), (&json!("4444444444444444"), &json!("SERVER")));
    assert_eq!((&request["parent"], &request["kind"]), (&whole["span"], &json!("CLIENT")));
    assert_eq!(told.unwrap(), format!("00-{CALLER}-{}-01", request["span"].as_str().unwrap()));
    assert_eq!((state.as_deref(), &whole["state"]), (Some("a=1,b=2"), &json!("a=1,b=2")));
    assert_eq!(spans["wait for a replica"]["parent"], whole["span"]);
    assert_eq!(spans["start of a replica"]["parent"], spans["wait for a replica"]["span"]);
    assert_eq!(spans["import"]["parent"], spans["start of a replica"]["span"]);
    assert!(spans.values().all(|span| is_within(span, whole) && span["status"] == "UNSET"), "{spans:#?}");
    let attributes = &whole["attributes"];
    for (name, value) in [
        ("http.request.method", json!("POST")),
        ("http.response.status_code", json!(200)),
        ("http.route", json!("/function/echo")),
        ("url.path", json!("/function/echo/")),
        ("server.address", json!("127.0.0.1")),
        ("server.port", json!(server.port())),
        ("client.address", json!("127.0.0.1")),
        ("faas.trigger", json!("http")),
        ("faas.coldstart", json!(true)),
    ] {
        assert_eq!(attributes[name], value, "{name} in {attributes:#}");
    }

    // One that its caller does not want traced goes on as it came, and nobody is told.
    const SILENT: &str = "55555555555555555555555555555555";
    let untouched = format!("00-{SILENT}-6666666666666666-00");
    assert_eq!(call(&server, &[&format!("traceparent: {untouched}")]).0.unwrap(), untouched);

    // One without a trace begins one, and so does one whose trace nobody understands.
    for (headers, state) in [(vec![], None), (vec!["traceparent: 00-1-2-01", "tracestate: a=1"], None)] {
        let (told, told_state) = call(&server, &headers);
        let (told, parts) = (told.clone().unwrap(), told.unwrap());
        let parts: Vec<_> = parts.split('-').collect();
        let spans = collector.trace(parts[1], &["function echo", "POST"]);
        assert_eq!(
            (&spans["function echo"]["parent"], spans["POST"]["span"].as_str()),
            (&json!(""), Some(parts[2]))
        );
        assert_eq!(spans["function echo"]["attributes"]["faas.coldstart"], false);
        assert!(!spans.contains_key("wait for a replica"), "{told}");
        assert_eq!(told_state, state);
    }

    // What fails says so; what is called later is of the trace that it was asked for in.
    for (path, id, kind) in [("function", "7", "SERVER"), ("async-function", "8", "CONSUMER")] {
        let id = id.repeat(32);
        let parent = format!("traceparent: 00-{id}-9999999999999999-01");
        let json = "Content-Type: application/json";
        server.curl(&["-H", json, "-d", r#"{"fail": true}"#, "-H", &parent, &format!("/{path}/echo")]);
        let spans = collector.trace(&id, &["function echo", "POST"]);
        let whole = &spans["function echo"];
        assert_eq!((&whole["kind"], &whole["parent"]), (&json!(kind), &json!("9999999999999999")));
        assert_eq!((&whole["status"], &whole["attributes"]["error.type"]), (&json!("ERROR"), &json!("500")));
        assert_eq!(whole["attributes"]["http.response.status_code"], 500);
    }
    assert!(!collector.spans().iter().any(|span| span["trace"] == SILENT));

    // Two refusals have cost none.
    let metrics = server.get("/metrics").1;
    assert!(metrics.contains("fnbuild_trace_spans_total{outcome=\"lost\"} 0\n"), "{metrics}");
}

#[test]
fn a_share_is_sampled_and_what_is_left_at_the_end_is_sent() {
    let collector = Collector::start(0);
    let mut server = FnbuildServer::start_with(&["--otlp-endpoint", &collector.url, "--trace-sample", "0"]);
    let folder = tempfile::tempdir().unwrap();
    run(server.command().arg("push").arg(file(&folder)));
    let (told, _) = call(&server, &[]);
    let own = told.unwrap();
    assert!(own.starts_with("00-") && ["00", "02"].contains(&own.rsplit('-').next().unwrap()), "{own}");
    let parent = format!("00-{}-4444444444444444-01", "3".repeat(32));
    assert_ne!(call(&server, &[&format!("traceparent: {parent}")]).0.unwrap(), parent);
    server.stop();
    let spans = collector.spans();
    assert!(!spans.is_empty() && spans.iter().all(|span| span["trace"] == "3".repeat(32)), "{spans:#?}");
}
