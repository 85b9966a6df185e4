//! The bridge between the host and its containers, and the isolation of its ports.

use std::path::{Path, PathBuf};

use super::command::simple;
use super::{Error, Subnet};

/// Makes the bridge with the subnet's gateway as its address, if it is not so already.
pub(super) async fn create(name: &str, subnet: Subnet) -> Result<(), Error> {
    let address = format!("{}/{}", subnet.gateway(), subnet.prefix());
    if !exists(name) {
        let made = simple("ip", &["link", "add", "name", name, "type", "bridge"]).await;
        if made.is_err() && !exists(name) {
            made?;
        }
    }
    let shown = simple("ip", &["-4", "-o", "address", "show", "dev", name]).await?;
    let shown = String::from_utf8_lossy(&shown);
    if !shown.split_whitespace().any(|word| word == address) {
        // Another subnet than last time: the old address would keep its route.
        simple("ip", &["-4", "address", "flush", "dev", name]).await?;
        simple("ip", &["address", "add", &address, "dev", name]).await?;
    }
    // Before it is up, so that it never gets a link-local address that containers could reach the host by.
    setting(&format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1", Necessity::IfThere)?;
    simple("ip", &["link", "set", name, "up"]).await?;
    setting("/proc/sys/net/ipv4/ip_forward", "1", Necessity::Always)
}

pub(super) async fn remove(name: &str) -> Result<(), Error> {
    if exists(name) {
        simple("ip", &["link", "delete", name]).await?;
    }
    Ok(())
}

/// Cuts a port off from the other isolated ports of its bridge; the bridge itself stays reachable.
pub(super) fn isolate(interface: &str) -> Result<(), Error> {
    setting(&format!("/sys/class/net/{interface}/brport/isolated"), "1", Necessity::Always)
}

/// The interface that packets to the world leave by decides how large they may be.
pub(super) fn outer_mtu() -> Option<u32> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let default = routes.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let interface = columns.next()?;
        (columns.next()? == "00000000").then_some(interface)
    })?;
    let path: PathBuf = ["/sys/class/net", default, "mtu"].iter().collect();
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

#[derive(PartialEq)]
enum Necessity {
    Always,
    /// A kernel without IPv6 has none of its settings either.
    IfThere,
}

fn setting(path: &str, value: &str, necessity: Necessity) -> Result<(), Error> {
    let path = Path::new(path);
    if necessity == Necessity::IfThere && !path.exists() {
        return Ok(());
    }
    if std::fs::read_to_string(path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    std::fs::write(path, value).map_err(Error::files("write", path))
}
