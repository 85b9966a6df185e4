//! Several nodes as processes, each with a data folder and a containerd namespace of its own, over one etcd and one
//! registry.

use std::sync::Arc;

use serde_json::Value;

use super::etcd::Etcd;
use super::registry::DockerRegistry;
use super::run;
use super::server::FnbuildServer;

pub struct Cluster {
    // Nodes end before what they stand on.
    pub nodes: Vec<FnbuildServer>,
    pub etcd: Etcd,
    registry: Arc<DockerRegistry>,
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
        let mut cluster = Self { nodes: Vec::new(), etcd: Etcd::start(members), registry, folder, flags };
        for _ in 0..nodes {
            let mut node = cluster.prepare("secret.key");
            node.start_again();
            cluster.nodes.push(node);
        }
        cluster
    }

    /// A node of this cluster that does not run yet, with a key file of this name.
    pub fn prepare(&self, key: &str) -> FnbuildServer {
        let key = self.folder.path().join(key).display().to_string();
        let etcd = self.etcd.endpoints().join(",");
        let mut flags = vec!["--etcd", &etcd, "--secret-key-file", &key, "--pool", "1", "--notice", "2s"];
        flags.extend(self.flags.iter().map(String::as_str));
        FnbuildServer::prepare(Arc::clone(&self.registry), &flags)
    }

    /// Pushes a function that returns this number, at one of the nodes.
    #[track_caller]
    pub fn push(&self, node: usize, name: &str, returns: u32, more: &[&str]) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let code = format!("def run():\n    return {returns}\n");
        std::fs::write(folder.path().join("func.py"), code).unwrap();
        let mut push = self.nodes[node].command();
        push.arg("push").arg(folder.path()).args(["--name", name, "-o", "json"]).args(more);
        serde_json::from_str(&run(&mut push)).unwrap()
    }

    /// What a verb says at one of the nodes, read as JSON.
    #[track_caller]
    pub fn told(&self, node: usize, arguments: &[&str]) -> Value {
        let mut command = self.nodes[node].command();
        serde_json::from_str(&run(command.args(arguments).args(["-o", "json"]))).unwrap()
    }
}
