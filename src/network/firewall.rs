//! What containers may talk to. Two chains of the filter table and one of the nat table, named after the data folder.
//!
//! Containers answer the host and may reach out; they reach neither the host itself nor each other nor, by default,
//! any network that is not public. The jumps stand first in the built-in chains, so that dockerd's policy of dropping
//! what it does not know does not decide.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::str::FromStr;

use tokio::process::Command;

use super::command::{run, simple};
use super::{Error, Subnet};

/// Where containers may connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Egress {
    None,
    /// Public addresses only: no private or link-local one, no cloud metadata.
    #[default]
    Public,
    /// Everything but the host and other containers of this server.
    All,
}

impl FromStr for Egress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "public" => Ok(Self::Public),
            "all" => Ok(Self::All),
            _ => Err(format!("{text:?} is none of: none, public, all")),
        }
    }
}

/// RFC 6890 and its registry: what is not globally reachable, and multicast.
const NOT_PUBLIC: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

#[derive(Debug)]
pub(super) struct Rules {
    pub id: String,
    pub bridge: String,
    pub subnet: Subnet,
    pub egress: Egress,
    pub dns: Vec<Ipv4Addr>,
    /// Of the gateway, for containers.
    pub open_port: Option<u16>,
}

impl Rules {
    /// `(table, built-in chain, our chain)`.
    fn chains(&self) -> [(&'static str, &'static str, String); 3] {
        [
            ("filter", "FORWARD", format!("FNB-{}-FWD", self.id)),
            ("filter", "INPUT", format!("FNB-{}-IN", self.id)),
            ("nat", "POSTROUTING", format!("FNB-{}-NAT", self.id)),
        ]
    }

    /// Writes the chains, each table at once, and the jumps to them where they are missing.
    pub async fn apply(&self) -> Result<(), Error> {
        let mut command = Command::new("iptables-restore");
        command.args(["--noflush", "--wait"]);
        run(command, self.text().as_bytes()).await?;
        for (table, builtin, chain) in self.chains() {
            let rule = ["--wait", "-t", table, "-C", builtin, "-j", &chain];
            if simple("iptables", &rule).await.is_err() {
                simple("iptables", &["--wait", "-t", table, "-I", builtin, "1", "-j", &chain]).await?;
            }
        }
        Ok(())
    }

    /// Removes jumps and chains. What is gone already is success.
    pub async fn remove(&self) -> Result<(), Error> {
        for (table, builtin, chain) in self.chains() {
            if simple("iptables", &["--wait", "-t", table, "-S", &chain]).await.is_err() {
                continue;
            }
            while simple("iptables", &["--wait", "-t", table, "-D", builtin, "-j", &chain]).await.is_ok() {}
            simple("iptables", &["--wait", "-t", table, "-F", &chain]).await?;
            simple("iptables", &["--wait", "-t", table, "-X", &chain]).await?;
        }
        Ok(())
    }

    /// In the format of `iptables-restore`, where naming a chain empties it.
    fn text(&self) -> String {
        let (bridge, subnet) = (&self.bridge, self.subnet);
        let [(_, _, forward), (_, _, input), (_, _, nat)] = self.chains();
        let mut text = format!("*filter\n:{forward} - [0:0]\n:{input} - [0:0]\n");
        let answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
        let mut rule = |chain: &str, rule: &str| {
            let _ = writeln!(text, "-A {chain} {rule}");
        };
        rule(&input, &format!("! -i {bridge} -j RETURN"));
        rule(&input, answers);
        if let Some(port) = self.open_port {
            rule(&input, &format!("-s {subnet} -d {} -p tcp --dport {port} -j ACCEPT", subnet.gateway()));
        }
        rule(&input, "-j REJECT --reject-with icmp-admin-prohibited");
        rule(&forward, &format!("-o {bridge} {answers}"));
        rule(&forward, &format!("-o {bridge} -j DROP"));
        rule(&forward, &format!("! -i {bridge} -j RETURN"));
        rule(&forward, &format!("! -s {subnet} -j DROP"));
        if self.egress != Egress::None {
            for server in &self.dns {
                rule(&forward, &format!("-d {server} -p udp --dport 53 -j ACCEPT"));
                rule(&forward, &format!("-d {server} -p tcp --dport 53 -j ACCEPT"));
            }
        }
        let refused = "-j REJECT --reject-with icmp-admin-prohibited";
        match self.egress {
            Egress::None => rule(&forward, refused),
            Egress::Public => {
                for network in NOT_PUBLIC {
                    rule(&forward, &format!("-d {network} {refused}"));
                }
                rule(&forward, "-j ACCEPT");
            }
            Egress::All => rule(&forward, "-j ACCEPT"),
        }
        let masquerade = format!("-A {nat} -s {subnet} ! -o {bridge} -j MASQUERADE");
        let _ = write!(text, "COMMIT\n*nat\n:{nat} - [0:0]\n{masquerade}\nCOMMIT\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(egress: Egress) -> String {
        let subnet = "10.60.4.0/22".parse().unwrap();
        let dns = vec![Ipv4Addr::new(10, 0, 0, 2)];
        Rules { id: "0a1b2c3d".into(), bridge: "fnb-0a1b2c3d".into(), subnet, egress, dns, open_port: None }
            .text()
    }

    #[test]
    fn a_private_resolver_is_allowed_before_private_networks_are_refused() {
        let text = rules(Egress::Public);
        let allowed = text.find("-d 10.0.0.2 -p udp --dport 53 -j ACCEPT").unwrap();
        let refused = text.find("-d 10.0.0.0/8 -j REJECT").unwrap();
        assert!(allowed < refused);
        assert!(text.contains("-d 169.254.0.0/16 -j REJECT"));
    }

    #[test]
    fn without_egress_nothing_is_accepted_but_answers() {
        let text = rules(Egress::None);
        let accepted: Vec<_> = text.lines().filter(|line| line.ends_with("ACCEPT")).collect();
        assert!(accepted.iter().all(|line| line.contains("RELATED,ESTABLISHED")), "{accepted:?}");
    }
}
