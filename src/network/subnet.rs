//! IPv4 subnets: which are free, and the claim that keeps a free one from being taken twice.

use std::fmt;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::fcntl::{Flock, FlockArg};

use super::Error;

/// One file for each server's claim, beside a lock. Gone after a reboot, as are the bridges.
const CLAIMS: &str = "/run/fnbuild/subnets";

/// An IPv4 network in CIDR notation with at least one host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// Text that is no usable subnet.
#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} is no IPv4 subnet such as 10.60.4.0/22, with a prefix between /8 and /29 and no bits beyond it"
)]
pub struct InvalidSubnet {
    pub text: String,
}

impl Subnet {
    fn new(base: u32, prefix: u8) -> Self {
        Self { base, prefix }
    }

    fn mask(prefix: u8) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first address: the host's own on the bridge.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask(self.prefix) == self.base
    }

    fn overlaps(&self, other: &Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.base & mask == other.base & mask
    }
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let base = u32::from(address);
            let valid = (8..=29).contains(&prefix) && base & !Self::mask(prefix) == 0;
            valid.then(|| Self::new(base, prefix))
        };
        parse().ok_or_else(|| InvalidSubnet { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// Takes a subnet for this data folder: the wanted one, else the one it had, else the first free /22 of 10.60.0.0 to
/// 10.79.255.255 (which neither docker nor podman nor Kubernetes uses by default). Remembered in `folder`.
pub(super) fn claim(id: &str, folder: &Path, wanted: Option<Subnet>) -> Result<Subnet, Error> {
    let claims = Path::new(CLAIMS);
    fs::create_dir_all(claims).map_err(Error::files("create", claims))?;
    let lock = claims.join(".lock");
    let file = File::create(&lock).map_err(Error::files("create", &lock))?;
    let _held = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::files("lock", &lock)(errno.into()))?;

    let remembered = folder.join("subnet");
    let before = fs::read_to_string(&remembered).ok().and_then(|text| text.trim().parse().ok());
    let used = in_use(id);
    let free = |subnet: &Subnet| used.iter().find(|(other, _)| other.overlaps(subnet));
    let chosen = match (wanted, before) {
        (Some(subnet), _) => match free(&subnet) {
            Some((_, by)) => return Err(Error::Taken { subnet, by: by.clone() }),
            None => subnet,
        },
        (None, Some(subnet)) if free(&subnet).is_none() => subnet,
        (None, _) => candidates().find(|subnet| free(subnet).is_none()).ok_or(Error::NoSubnet)?,
    };
    let claim = claims.join(id);
    let text = format!("{chosen} {}\n", folder.display());
    fs::write(&claim, text).map_err(Error::files("write", &claim))?;
    fs::write(&remembered, format!("{chosen}\n")).map_err(Error::files("write", &remembered))?;
    Ok(chosen)
}

pub(super) fn release(id: &str, folder: &Path) {
    let _ = fs::remove_file(Path::new(CLAIMS).join(id));
    let _ = fs::remove_file(folder.join("subnet"));
}

fn candidates() -> impl Iterator<Item = Subnet> {
    let first = u32::from(Ipv4Addr::new(10, 60, 0, 0));
    let last = u32::from(Ipv4Addr::new(10, 80, 0, 0));
    (first..last).step_by(1 << 10).map(|base| Subnet::new(base, 22))
}

/// What this host routes or other servers claim, with who it is. Our own bridge does not count.
fn in_use(id: &str) -> Vec<(Subnet, String)> {
    let own = format!("fnb-{id}");
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let routed = routes.lines().skip(1).filter_map(route).filter(|(_, interface)| *interface != own);
    let claims = fs::read_dir(CLAIMS).into_iter().flatten().flatten();
    let claimed = claims.filter(|entry| entry.file_name() != id).filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let (subnet, folder) = text.trim().split_once(' ')?;
        // The claim of a data folder that was deleted binds nobody.
        PathBuf::from(folder).exists().then_some((subnet.parse().ok()?, folder.to_string()))
    });
    routed.chain(claimed).collect()
}

/// A line of `/proc/net/route`, whose numbers are in the machine's byte order. `None` for the default route.
fn route(line: &str) -> Option<(Subnet, String)> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| columns.get(at).and_then(|text| u32::from_str_radix(text, 16).ok());
    let (base, mask) = (u32::from_be(number(1)?), u32::from_be(number(7)?));
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    (prefix > 0).then(|| (Subnet::new(base, prefix), columns.first().copied().unwrap_or("?").to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_strictly() {
        let subnet: Subnet = "10.60.4.0/22".parse().unwrap();
        assert_eq!(
            (subnet.to_string().as_str(), subnet.gateway()),
            ("10.60.4.0/22", Ipv4Addr::new(10, 60, 4, 1))
        );
        assert!(
            subnet.contains(Ipv4Addr::new(10, 60, 7, 255)) && !subnet.contains(Ipv4Addr::new(10, 60, 8, 0))
        );
        for text in ["", "10.60.4.0", "10.60.4.1/22", "10.0.0.0/30", "10.0.0.0/33", "fd00::/64"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let line = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";
        let (subnet, interface) = route(line).unwrap();
        assert_eq!((subnet.to_string().as_str(), interface.as_str()), ("172.17.0.0/16", "docker0"));
        assert!(route("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0").is_none());
        let [a, b]: [Subnet; 2] = ["10.60.0.0/16".parse().unwrap(), "10.60.4.0/22".parse().unwrap()];
        assert!(a.overlaps(&b) && b.overlaps(&a));
    }
}
