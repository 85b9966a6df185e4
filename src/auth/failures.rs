//! How often an address has been wrong of late.
//!
//! Each failure is forgiven after [`FORGIVEN_AFTER`], one at a time; with [`ALLOWED`] unforgiven ones nothing that comes
//! from there is looked at. An IPv6 customer has a /64 and counts as one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const ALLOWED: u32 = 10;
const FORGIVEN_AFTER: Duration = Duration::from_secs(6);
/// Addresses remembered at once: what an attacker with many can make this hold.
const REMEMBERED: usize = 10_000;

/// For each address the moment at which all is forgiven.
#[derive(Default)]
pub struct Failures {
    forgiven: Mutex<HashMap<IpAddr, Instant>>,
}

impl Failures {
    /// How long `peer` has to wait, if it has to.
    pub fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let until = *self.lock().get(&network(peer))?;
        let wait = until.saturating_duration_since(now).checked_sub(FORGIVEN_AFTER * (ALLOWED - 1))?;
        (!wait.is_zero()).then_some(wait)
    }

    pub fn failed(&self, peer: IpAddr, now: Instant) {
        let mut forgiven = self.lock();
        if forgiven.len() >= REMEMBERED {
            forgiven.retain(|_, until| *until > now);
        }
        if forgiven.len() >= REMEMBERED
            && let Some(soonest) = forgiven.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            forgiven.remove(&soonest);
        }
        let until = forgiven.entry(network(peer)).or_insert(now);
        *until = (*until).max(now) + FORGIVEN_AFTER;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.forgiven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_wrong_too_often_waits_and_nobody_else() {
        let (failures, start) = (Failures::default(), Instant::now());
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..ALLOWED {
            assert_eq!(failures.wait(peer, start), None);
            failures.failed(peer, start);
        }
        assert_eq!(failures.wait(peer, start), Some(FORGIVEN_AFTER));
        assert_eq!(failures.wait("::ffff:10.0.0.1".parse().unwrap(), start), Some(FORGIVEN_AFTER));
        assert_eq!(failures.wait("10.0.0.2".parse().unwrap(), start), None);
        let later = start + FORGIVEN_AFTER;
        assert_eq!(failures.wait(peer, later), None, "one is forgiven");
        failures.failed(peer, later);
        assert!(failures.wait(peer, later).is_some(), "and one only");
        assert_eq!(failures.wait(peer, later + FORGIVEN_AFTER * ALLOWED), None);
    }

    #[test]
    fn neighbours_in_a_64_are_one_and_memory_is_bounded() {
        let (failures, start) = (Failures::default(), Instant::now());
        for host in 0..ALLOWED {
            failures.failed(format!("2001:db8::{host:x}").parse().unwrap(), start);
        }
        assert!(failures.wait("2001:db8::ffff".parse().unwrap(), start).is_some());
        assert_eq!(failures.wait("2001:db8:0:1::1".parse().unwrap(), start), None);
        for number in 0..=u32::try_from(REMEMBERED).unwrap() {
            failures.failed(std::net::Ipv4Addr::from(number).into(), start);
        }
        assert!(failures.lock().len() <= REMEMBERED);
        assert!(failures.wait("2001:db8::1".parse().unwrap(), start).is_some(), "the worst are kept");
    }
}
