//! Whom functions may connect to, tried with somebody who is really there: a namespace beside the host's that has a
//! public address, a private one and a link-local one.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::Command;

use fnbuild::function::Settings;
use fnbuild::network::Egress;
use nix::sched::{CloneFlags, setns};

use super::{HTTPD, Site, acquire, inside};
use crate::support::run;

/// A namespace that the host has routes to, and in it a port that anybody may connect to.
struct Outside {
    name: String,
    host: Ipv4Addr,
    /// Of nobody whom a function on this machine may have to do with.
    public: Ipv4Addr,
    private: Ipv4Addr,
    link_local: Ipv4Addr,
    port: u16,
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')));
}

/// Takes every connection and ends it.
fn listen(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    port
}

impl Outside {
    fn new() -> Self {
        let [a, b, c, d] = getrandom::u32().unwrap().to_be_bytes();
        let mut outside = Self {
            name: format!("fo{a:02x}{b:02x}{c:02x}{d:02x}"),
            host: [10, 253, a, b].into(),
            public: [25, a, b, c].into(),
            private: [10, 254, a, b].into(),
            link_local: [169, 254, 1 + c % 254, d].into(),
            port: 0,
        };
        let name = outside.name.clone();
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name outside netns {name}"));
        ip(&format!("addr add {}/32 dev {name}", outside.host));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} link set outside up"));
        for address in [outside.public, outside.private, outside.link_local] {
            ip(&format!("-n {name} addr add {address}/32 dev outside"));
            ip(&format!("route add {address}/32 dev {name}"));
        }
        ip(&format!("-n {name} route add default dev outside"));
        let inside = std::thread::spawn(move || {
            let namespace = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            listen("0.0.0.0")
        });
        outside.port = inside.join().unwrap();
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The interface goes with its other end, and the routes with the interface.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
    }
}

#[tokio::test]
async fn functions_reach_as_far_as_is_said_and_never_the_host_or_each_other() {
    let outside = Outside::new();
    let on_host = listen("0.0.0.0");
    for (egress, reached) in
        [(Egress::None, [false; 3]), (Egress::Public, [true, false, false]), (Egress::All, [true; 3])]
    {
        let site =
            Site::new().with("one", HTTPD, Settings::default()).with("two", HTTPD, Settings::default());
        let mut config = site.config();
        config.network.egress = egress;
        let replicas = site.start_with(config).await;
        let (one, two) = (acquire(&replicas, "one").await, acquire(&replicas, "two").await);
        let reaches = async |address: IpAddr, port: u16| {
            let script = format!("nc -w 5 {address} {port} </dev/null && echo reached; true");
            inside(&one, &script).await.contains("reached")
        };
        for (address, expected) in
            [outside.public, outside.private, outside.link_local].into_iter().zip(reached)
        {
            assert_eq!(reaches(address.into(), outside.port).await, expected, "{egress:?}: {address}");
        }
        for address in [outside.host, replicas.gateway()] {
            assert!(!reaches(address.into(), on_host).await, "{egress:?}: the host by {address}");
        }
        let other = two.replica().address;
        assert!(!reaches(other.ip(), other.port()).await, "{egress:?}: the other replica");
        drop((one, two));
        site.close(replicas).await;
    }
}
