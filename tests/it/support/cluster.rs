//! Several nodes as processes, each with a data folder and a containerd namespace of its own, over one etcd and one
//! registry.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::containerd::Containerd;
use super::etcd::Etcd;
use super::link::Link;
use super::registry::DockerRegistry;
use super::server::FnbuildServer;
use super::{run, run_failing, wait_until};

/// For a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Cluster {
    // Nodes end before what they stand on.
    pub nodes: Vec<FnbuildServer>,
    /// Of each node, in a cluster whose nodes are apart.
    pub containerds: Vec<Containerd>,
    /// From each node to etcd's members, likewise.
    pub links: Vec<Vec<Link>>,
    pub etcd: Etcd,
    pub registry: Arc<DockerRegistry>,
    folder: tempfile::TempDir,
    flags: Vec<String>,
}

impl Cluster {
    /// So many nodes that are ready.
    pub fn start(nodes: usize, members: usize) -> Self {
        Self::start_with(nodes, members, &[])
    }

    /// The same with more flags for each `fnbuild serve`.
    pub fn start_with(nodes: usize, members: usize, flags: &[&str]) -> Self {
        let registry = Arc::new(DockerRegistry::start());
        let folder = tempfile::tempdir().unwrap();
        let flags = flags.iter().map(ToString::to_string).collect();
        let (containerds, links, etcd) = (Vec::new(), Vec::new(), Etcd::start(members));
        let mut cluster = Self { nodes: Vec::new(), containerds, links, etcd, registry, folder, flags };
        for _ in 0..nodes {
            let mut node = cluster.prepare("secret.key");
            node.start_again();
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Three nodes over three members of etcd, as three machines have them: each with a containerd of its own, and a way
    /// to etcd of its own that can be broken.
    pub fn apart(flags: &[&str]) -> Self {
        let mut cluster = Self::start_with(0, 3, flags);
        for _ in 0..3 {
            let links: Vec<Link> = cluster.etcd.addresses().into_iter().map(Link::to).collect();
            let endpoints: Vec<String> =
                links.iter().map(|link| format!("http://{}", link.address)).collect();
            let containerd = Containerd::start();
            let mut node = cluster.prepare_with(&endpoints, "secret.key");
            node.set_containerd(&containerd.socket());
            node.start_again();
            cluster.containerds.push(containerd);
            cluster.links.push(links);
            cluster.nodes.push(node);
        }
        cluster
    }

    /// A node of this cluster that does not run yet, with a key file of this name.
    pub fn prepare(&self, key: &str) -> FnbuildServer {
        self.prepare_with(&self.etcd.endpoints(), key)
    }

    fn prepare_with(&self, etcd: &[String], key: &str) -> FnbuildServer {
        let key = self.folder.path().join(key).display().to_string();
        let etcd = etcd.join(",");
        let mut flags = vec!["--etcd", &etcd, "--secret-key-file", &key, "--pool", "1", "--notice", "2s"];
        flags.extend(self.flags.iter().map(String::as_str));
        FnbuildServer::prepare(Arc::clone(&self.registry), &flags)
    }

    /// Pushes a function that returns this number, at one of the nodes.
    #[track_caller]
    pub fn push(&self, node: usize, name: &str, returns: u32, more: &[&str]) -> Value {
        let folder = source(returns);
        let mut push = self.nodes[node].command();
        push.arg("push").arg(folder.path()).args(["--name", name, "-o", "json"]).args(more);
        serde_json::from_str(&run(&mut push)).unwrap()
    }

    /// The same where it cannot be done; gives what is told.
    #[track_caller]
    pub fn push_in_vain(&self, node: usize, name: &str, returns: u32) -> String {
        let folder = source(returns);
        run_failing(self.nodes[node].command().arg("push").arg(folder.path()).args(["--name", name]), 1)
    }

    /// What one node answers.
    #[track_caller]
    pub fn answer(&self, node: usize, target: &str) -> (u16, String) {
        self.nodes[node].call(target, &json!({}))
    }

    /// Waits until every node answers so.
    #[track_caller]
    pub fn all_answer(&self, target: &str, status: u16, body: &str) {
        for node in 0..self.nodes.len() {
            self.waits_for(node, target, (status, body));
        }
    }

    /// Waits until this node answers so.
    #[track_caller]
    pub fn waits_for(&self, node: usize, target: &str, (status, body): (u16, &str)) {
        wait_until(&format!("{body} from node {node}"), PATIENCE, || {
            let (found, text) = self.answer(node, target);
            found == status && text.contains(body)
        });
    }

    /// The nodes on which replicas of a version run, in order, as one of them knows it.
    pub fn hosts(&self, at: usize, name: &str, version: u64) -> Vec<String> {
        let described = self.told(at, &["describe", name]);
        let replicas = described["replicas"].as_array().unwrap().iter();
        let of_version =
            replicas.filter(|replica| replica["version"] == version && replica["state"] == "ready");
        let mut nodes: Vec<String> =
            of_version.map(|replica| replica["node"].as_str().unwrap().into()).collect();
        nodes.sort();
        nodes
    }

    /// Where a function is called at each node.
    pub fn urls(&self, target: &str) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{}/function/{target}", node.url())).collect()
    }

    /// What a verb says at one of the nodes, read as JSON.
    #[track_caller]
    pub fn told(&self, node: usize, arguments: &[&str]) -> Value {
        let mut command = self.nodes[node].command();
        serde_json::from_str(&run(command.args(arguments).args(["-o", "json"]))).unwrap()
    }
}

/// A folder with a function that returns this number.
fn source(returns: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("func.py"), format!("def run():\n    return {returns}\n")).unwrap();
    folder
}
