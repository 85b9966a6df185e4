//! The server whole: `fnbuild serve` as a process, its registry and containerd, and the verbs that talk to it.

use serde_json::json;

use crate::support::run;
use crate::support::server::FnbuildServer;

#[test]
fn a_push_is_answered_for() {
    let server = FnbuildServer::start();
    let said = run(server.command().args(["push", "examples/add"]));
    assert!(said.ends_with(&format!("{}/function/add", server.url())), "{said}");
    assert_eq!(server.call("add", &json!({ "x": 3, "y": 5 })), (200, "8".into()));
}
