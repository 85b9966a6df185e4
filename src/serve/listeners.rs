//! The listening sockets: opened, or taken over from the server that was this process before.
//!
//! On SIGHUP a server ends its calls and becomes, by `exec`, the program that is then in its place. Its listeners stay open
//! all the while: who connects waits in their queues, and nobody is refused.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as Socket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::TcpListener;

use super::ServeError;

/// The descriptors of the listeners that were handed over, separated by commas.
const HANDED_OVER: &str = "FNBUILD_LISTENERS";

/// The kernel has a bound of its own (net.core.somaxconn).
const QUEUE: i32 = 4096;

/// Open sockets and where each of them listens.
pub struct Listeners {
    open: Vec<(Socket, SocketAddr)>,
}

impl Listeners {
    /// Listens at these addresses. A socket that was handed over and listens there already is used.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, ServeError> {
        let mut listeners = Self { open: Vec::new() };
        let mut handed_over = handed_over();
        for address in addresses {
            let same = |(_, bound): &(Socket, SocketAddr)| bound == address || free(address, bound);
            match handed_over.iter().position(same) {
                Some(at) => listeners.open.push(handed_over.swap_remove(at)),
                None => listeners.add(*address)?,
            }
        }
        Ok(listeners)
    }

    /// Listens at one address more.
    pub fn add(&mut self, address: SocketAddr) -> Result<(), ServeError> {
        let failed = |source| ServeError::Listen { address, source };
        let inherited = handed_over().into_iter().find(|(_, bound)| *bound == address);
        let (socket, bound) = match inherited {
            Some(found) => found,
            None => {
                let socket = Socket::bind(address).map_err(failed)?;
                // As many may wait as the kernel allows: for calls that come at once, and for a hand-over.
                rustix::net::listen(&socket, QUEUE).map_err(|error| failed(error.into()))?;
                let bound = socket.local_addr().map_err(failed)?;
                (socket, bound)
            }
        };
        self.open.push((socket, bound));
        Ok(())
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|(_, address)| *address).collect()
    }

    /// The same sockets, to be served from. They stay open until both are dropped.
    pub fn serving(&self) -> io::Result<Vec<(TcpListener, SocketAddr)>> {
        let each = self.open.iter().map(|(socket, address)| {
            let socket = socket.try_clone()?;
            socket.set_nonblocking(true)?;
            Ok((TcpListener::from_std(socket)?, *address))
        });
        each.collect()
    }

    /// Lets a program that is started in this process's place take them over.
    pub fn hand_over(&self, command: &mut Command) -> io::Result<()> {
        for (socket, _) in &self.open {
            fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let numbers: Vec<String> =
            self.open.iter().map(|(socket, _)| socket.as_raw_fd().to_string()).collect();
        command.env(HANDED_OVER, numbers.join(","));
        Ok(())
    }
}

/// Whether the address leaves the port to the system, as the bound one's was.
fn free(wanted: &SocketAddr, bound: &SocketAddr) -> bool {
    wanted.port() == 0 && wanted.ip() == bound.ip()
}

/// Copies of the sockets that were handed over, closed where a program is executed next.
fn handed_over() -> Vec<(Socket, SocketAddr)> {
    let numbers = std::env::var(HANDED_OVER).unwrap_or_default();
    let Ok(process) = pidfd_open(getpid(), PidfdFlags::empty()) else { return Vec::new() };
    let sockets = numbers.split(',').filter_map(|number| {
        // A number out of the environment may be anybody's: it is copied, and only a listening socket is taken.
        let copy = pidfd_getfd(&process, number.parse().ok()?, PidfdGetfdFlags::empty()).ok()?;
        let socket = Socket::from(copy);
        let address = socket.local_addr().ok()?;
        Some((socket, address))
    });
    sockets.collect()
}

/// Where the trigger listens for functions, at the gateway of their network; `None` where it does already, because it
/// listens at every address.
pub fn for_functions(addresses: &[SocketAddr], gateway: Ipv4Addr) -> Option<SocketAddr> {
    let port = addresses.first()?.port();
    let everywhere = addresses.iter().any(|address| address.ip().is_unspecified() && address.port() == port);
    (!everywhere).then(|| SocketAddr::from((gateway, port)))
}
