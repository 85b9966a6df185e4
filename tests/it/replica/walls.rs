//! What a replica cannot do.

use std::net::TcpListener;

use fnbuild::function::{Memory, Settings};
use tokio::time::Duration;

use super::{HTTPD, Site, acquire, function, inside};

#[tokio::test]
async fn a_replica_is_nobody_and_can_write_nowhere_but_in_tmp() {
    let site = Site::new().with("walls", HTTPD, Settings::default());
    let replicas = site.start().await;
    let lease = acquire(&replicas, "walls").await;
    let status = inside(&lease, "cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().next().unwrap().to_string()
    };
    assert!(field("Uid").parse::<u32>().unwrap() >= 200_000);
    assert_eq!(field("Uid"), field("Gid"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    for namespace in ["pid", "mnt", "ipc", "uts", "net"] {
        let link = format!("/proc/self/ns/{namespace}");
        let hosts = std::fs::read_link(&link).unwrap();
        assert_ne!(inside(&lease, &format!("busybox readlink {link}")).await, hosts.to_string_lossy());
    }
    let mounts = inside(&lease, "cat /proc/self/mountinfo").await;
    let mounted: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    // What a kernel has of them.
    let masked = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"].into_iter();
    for masked in masked.filter(|path| std::fs::exists(path).unwrap()) {
        assert!(mounted.contains(&masked), "{masked} is not covered: {mounted:?}");
    }
    let written = "for d in / /bin /etc /www /dev /proc/sys /sys /tmp; do \
                   (echo x > $d/.probe) 2>/dev/null && echo $d; done; true";
    assert_eq!(inside(&lease, written).await, "/tmp");
    assert_eq!(inside(&lease, "hostname; echo $HOME").await, "walls\n/tmp");
    let full = inside(&lease, "dd if=/dev/zero of=/tmp/full bs=1M count=100 2>&1 | grep -c 'No space'").await;
    assert_eq!(full, "1");
    drop(lease);
    site.close(replicas).await;
}

/// The kernel's switch for bridged packets through iptables, off for as long as this lives. Nothing else in these tests
/// depends on it.
struct BridgeFilter(Option<String>);

impl BridgeFilter {
    const SWITCH: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

    fn off() -> Self {
        let before = std::fs::read_to_string(Self::SWITCH).ok();
        if before.is_some() {
            std::fs::write(Self::SWITCH, "0").unwrap();
        }
        Self(before)
    }
}

impl Drop for BridgeFilter {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(Self::SWITCH, before);
        }
    }
}

#[tokio::test]
async fn replicas_reach_neither_each_other_nor_the_host() {
    let site = Site::new().with("one", HTTPD, Settings::default()).with("two", HTTPD, Settings::default());
    let replicas = site.start().await;
    let (one, two) = (acquire(&replicas, "one").await, acquire(&replicas, "two").await);
    assert_ne!(inside(&one, "id -u").await, inside(&two, "id -u").await, "the kernel counts by user");
    let host = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let gateway = inside(&one, "busybox route -n | grep ^0.0.0.0").await;
    let gateway = gateway.split_whitespace().nth(1).unwrap().to_string();
    // Bridged packets pass iptables only with br_netfilter: what keeps replicas apart must not rest on it.
    let _off = BridgeFilter::off();
    let reach =
        |address: String, port: u16| format!("nc -w 2 {address} {port} </dev/null && echo reached; true");
    for address in [gateway, "172.17.0.1".into(), "169.254.169.254".into()] {
        let answer = inside(&one, &reach(address.clone(), port)).await;
        assert!(!answer.contains("reached"), "{address}: {answer}");
    }
    let other = two.replica().address;
    let answer = inside(&one, &reach(other.ip().to_string(), other.port())).await;
    assert!(!answer.contains("reached"), "{answer}");
    // Not even by an address that a frame could carry without an IPv4 rule seeing it: there is no IPv6 at either end.
    assert_eq!(inside(&one, "cat /proc/net/if_inet6").await, "");
    let bridge = format!("/proc/sys/net/ipv6/conf/fnb-{}/disable_ipv6", site.id());
    assert!(std::fs::read_to_string(bridge).is_ok_and(|text| text.trim() == "1"));
    // The port, not the firewall, keeps them apart, whatever br_netfilter says.
    let ports = std::fs::read_dir(format!("/sys/class/net/fnb-{}/brif", site.id())).unwrap();
    let isolated = ports.flatten().map(|port| std::fs::read_to_string(port.path().join("isolated")).unwrap());
    assert_eq!(isolated.map(|text| text.trim().to_string()).collect::<Vec<_>>(), ["1", "1"]);
    drop((one, two));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_replica_that_wants_too_much_memory_dies_and_says_why() {
    // The shell that serves is process 1: it grows itself.
    let script = "read_all() { x=x; while true; do x=$x$x; done; }; httpd -p 8081 -h /www; \
                  while ! [ -e /tmp/go ]; do sleep 0.05; done; read_all";
    let settings = Settings { memory: Memory(32 << 20), ..Settings::default() };
    let site = Site::new().with("greedy", script, settings);
    let replicas = site.start().await;
    let lease = acquire(&replicas, "greedy").await;
    inside(&lease, "echo > /tmp/go").await;
    let fate = lease.replica().fate(Duration::from_secs(30)).await.unwrap();
    assert!(fate.out_of_memory && fate.status == 137, "{fate:?}");
    drop(lease);
    assert_eq!(replicas.list(&function("greedy")).len(), 0);
    site.close(replicas).await;
}
