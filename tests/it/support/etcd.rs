//! Debian's etcd as child processes: one member or several, in a folder of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fnbuild::store::EtcdOptions;

use super::{Server, free_port, run, wait_until};

pub struct Etcd {
    members: Vec<Member>,
    folder: tempfile::TempDir,
    /// For `https`: where `ca.pem`, `server.pem` and `server.key` are.
    certificates: Option<PathBuf>,
}

struct Member {
    client: u16,
    peer: u16,
    server: Option<Server>,
}

impl Etcd {
    /// Members that answer.
    pub fn start(members: usize) -> Self {
        Self::start_with(members, None)
    }

    /// One member that speaks TLS and wants to see a client's certificate.
    pub fn start_with_tls(certificates: &Path) -> Self {
        Self::start_with(1, Some(certificates.to_path_buf()))
    }

    fn start_with(members: usize, certificates: Option<PathBuf>) -> Self {
        let member = |_| Member { client: free_port(), peer: free_port(), server: None };
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Self { members: (0..members).map(member).collect(), folder, certificates };
        for index in 0..members {
            etcd.start_member(index);
        }
        etcd.wait_until_healthy();
        etcd
    }

    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        self.members.iter().map(|member| format!("{scheme}://127.0.0.1:{}", member.client)).collect()
    }

    pub fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.endpoints())
    }

    pub fn kill(&mut self, index: usize) {
        self.members[index].server = None;
    }

    /// `kill -9`.
    pub fn crash(&mut self, index: usize) {
        if let Some(mut server) = self.members[index].server.take() {
            server.kill();
        }
    }

    /// Where the members listen for clients.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| SocketAddr::from(([127, 0, 0, 1], member.client))).collect()
    }

    /// The member that leads, as etcd itself says.
    pub fn leader(&self) -> usize {
        let status = run(self.etcdctl().args(["endpoint", "status", "-w", "json"]));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let leads = |member: &serde_json::Value| {
            member["Status"]["leader"] == member["Status"]["header"]["member_id"]
        };
        status.as_array().unwrap().iter().position(leads).expect("one leads")
    }

    /// Ends all members; what they had on disk stays.
    pub fn stop(&mut self) {
        self.members.iter_mut().for_each(|member| member.server = None);
    }

    pub fn start_member(&mut self, index: usize) {
        let names = |member: usize| format!("m{member}=http://127.0.0.1:{}", self.members[member].peer);
        let cluster = (0..self.members.len()).map(names).collect::<Vec<_>>().join(",");
        let client = self.endpoints()[index].clone();
        let peer = format!("http://127.0.0.1:{}", self.members[index].peer);
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{index}"), "--data-dir"])
            .arg(self.data(index))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster, "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(folder) = &self.certificates {
            let file = |name: &str| folder.join(name).display().to_string();
            command.args(["--cert-file", &file("server.pem"), "--key-file", &file("server.key")]).args([
                "--trusted-ca-file",
                &file("ca.pem"),
                "--client-cert-auth",
            ]);
        }
        self.members[index].server = Some(Server::start(&mut command));
    }

    /// Listens on other ports from the next start on: those who knew the old ones no longer reach it.
    pub fn move_away(&mut self) -> u16 {
        std::mem::replace(&mut self.members[0].client, free_port())
    }

    pub fn move_back(&mut self, port: u16) {
        self.members[0].client = port;
    }

    pub fn data(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}"))
    }

    pub fn wait_until_healthy(&self) {
        wait_until("etcd to be healthy", Duration::from_secs(30), || {
            let health = self.etcdctl().args(["endpoint", "health"]).output().unwrap();
            health.status.success()
        });
    }

    pub fn revision(&self) -> u64 {
        let status = run(self.etcdctl().args(["endpoint", "status", "-w", "json"]));
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status[0]["Status"]["header"]["revision"].as_u64().unwrap()
    }

    pub fn etcdctl(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoints().join(","));
        if let Some(folder) = &self.certificates {
            command.arg("--cacert").arg(folder.join("ca.pem"));
            command.arg("--cert").arg(folder.join("client.pem")).arg("--key").arg(folder.join("client.key"));
        }
        command
    }
}
