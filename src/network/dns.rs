//! Which resolvers containers are told of.

use std::net::Ipv4Addr;

/// Where the host's resolvers may stand. The second is systemd-resolved's own list, for hosts whose first names only
/// the loopback stub.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// For a host that has no resolver which a container could reach.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8)];

/// The configured ones, else the host's that are not its loopback, else public ones.
pub(super) fn servers(configured: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    if !configured.is_empty() {
        return configured.to_vec();
    }
    FILES
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| reachable(&text))
        .find(|servers| !servers.is_empty())
        .unwrap_or_else(|| PUBLIC.to_vec())
}

fn reachable(text: &str) -> Vec<Ipv4Addr> {
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    // resolv.conf(5): at most three count.
    servers.filter(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified()).take(3).collect()
}

pub(super) fn resolv_conf(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_resolver_is_not_passed_on() {
        let text = "search lan\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\n";
        assert_eq!(reachable(text), [Ipv4Addr::new(192, 0, 2, 53)]);
        assert_eq!(resolv_conf(&reachable(text)), "nameserver 192.0.2.53\n");
    }
}
