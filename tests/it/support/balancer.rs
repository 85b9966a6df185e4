//! The balancers of `docs/cluster.md`, with the configuration that stands there: only addresses are put in.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Server, free_port, wait_until};

pub struct Balancer {
    pub port: u16,
    _process: Server,
    _folder: tempfile::TempDir,
}

impl Balancer {
    pub fn haproxy(nodes: &[u16]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, configured("haproxy", nodes, port)).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        Self::start(command.args(["-db", "-f"]).arg(&file), port, folder)
    }

    pub fn nginx(nodes: &[u16]) -> Self {
        let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name).display().to_string();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {temporary}{}}}\n",
            at("pid"),
            configured("nginx", nodes, port)
        );
        std::fs::write(at("nginx.conf"), text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-e", "stderr", "-c", &at("nginx.conf")]);
        Self::start(&mut command, port, folder)
    }

    fn start(command: &mut Command, port: u16, folder: tempfile::TempDir) -> Self {
        let process = Server::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        wait_until("the balancer", Duration::from_secs(20), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, _process: process, _folder: folder }
    }
}

/// The block of the page for this program, with the nodes' ports and the balancer's own.
fn configured(program: &str, nodes: &[u16], port: u16) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md");
    let page = std::fs::read_to_string(page).unwrap();
    let start = format!("```{program}\n");
    let block = page.split(&start).nth(1).unwrap_or_else(|| panic!("docs/cluster.md has a block {start:?}"));
    let mut text = block.split("```").next().unwrap().to_string();
    for (at, node) in nodes.iter().enumerate() {
        text = text.replace(&format!("10.0.0.{}:8080", at + 1), &format!("127.0.0.1:{node}"));
    }
    assert!(!text.contains("10.0.0."), "as many nodes as the page has");
    text.replace("*:80\n", &format!("127.0.0.1:{port}\n"))
        .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
}
