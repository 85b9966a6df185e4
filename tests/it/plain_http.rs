//! A registry by a name and on an address that are not loopback, without TLS: what a company's own network has.

use std::fs;
use std::process::Command;

use super::push::Home;
use super::support::run;

/// In a network and mount namespace of its own: `registry` is 10.98.7.1 on an interface that is not loopback, and port
/// 5000 is free, whatever the machine has there.
const SCRIPT: &str = r#"
set -eu
cd "$1"
ip link set lo up
ip link add net0 type bridge
ip addr add 10.98.7.1/24 dev net0
ip link set net0 up
printf '127.0.0.1 localhost\n10.98.7.1 registry\n' >hosts
mount --bind hosts /etc/hosts
docker-registry serve config.yml >log 2>&1 &
server=$!
trap 'kill $server' EXIT
tries=0
until curl -fsS -o answer http://registry:5000/v2/; do
    tries=$((tries + 1)); [ "$tries" -lt 200 ]; sleep 0.1
done 2>/dev/null
step() {
    echo "== $1"
    shift
    "$@" 2>&1 && echo "exit 0" || echo "exit $?"
}
step refused "$2" push func.py --image-only
step said "$2" push func.py --image-only --plain-http
step remembered "$2" push func.py --image-only
step forgotten "$2" logout registry:5000
step refused-again "$2" push func.py --image-only
curl -fsS http://registry:5000/v2/fn/func/tags/list
"#;

#[test]
fn plain_http_is_named_by_the_hint_said_once_and_remembered() {
    let home = Home::new();
    let config = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: data-of-registry\nhttp:\n  addr: 10.98.7.1:5000\n";
    fs::write(home.path("config.yml"), config).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "script"]);
    command.arg(home.path("")).arg(env!("CARGO_BIN_EXE_fnbuild"));
    command
        .env("FNBUILD_REGISTRY", "registry:5000")
        .env("FNBUILD_DATA_DIR", home.path("data"))
        .env("DOCKER_CONFIG", home.path("docker"))
        .env_remove("FNBUILD_PLAIN_HTTP");
    let said = run(&mut command);
    let step = |name: &str| {
        let (_, rest) = said.split_once(&format!("== {name}\n")).unwrap_or_else(|| panic!("{said}"));
        rest.split("\n== ").next().unwrap().to_string()
    };
    for refused in ["refused", "refused-again"] {
        let said = step(refused);
        assert!(said.contains("a plain HTTP server answered the TLS hello"), "{said}");
        assert!(
            said.contains("hint: ") && said.contains("--plain-http") && said.contains("exit 1"),
            "{said}"
        );
    }
    let first = step("said");
    assert!(first.contains("registry:5000/fn/func:latest") && first.contains("exit 0"), "{first}");
    assert!(first.contains("remembered how to talk to registry:5000 (--plain-http)"), "{first}");
    let second = step("remembered");
    assert!(second.contains("nothing changed") && second.contains("exit 0"), "{second}");
    assert!(!second.contains("remembered how"), "{second}");
    assert!(said.trim_end().ends_with(r#"{"name":"fn/func","tags":["latest"]}"#), "{said}");
}
