//! A TCP connection's way from one program to another that a test can break: cut, or silent.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks whether a silent way speaks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Connections are accepted and kept, and nothing passes: a cable that is pulled.
    Silent,
    Ended,
}

struct Shared {
    state: Mutex<State>,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Link {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Link {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::new(State::Open), open: Mutex::default() });
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ours.state() == State::Ended {
                    return;
                }
                let ours = Arc::clone(&ours);
                std::thread::spawn(move || ours.pass(&client, target));
            }
        });
        Self { address, shared }
    }

    /// From here on nothing passes, and nobody is told.
    pub fn silence(&self) {
        *self.shared.state.lock().unwrap() = State::Silent;
    }

    /// Everything passes again. What was connected meanwhile is not: it would never be answered.
    pub fn mend(&self) {
        self.shared.cut();
        *self.shared.state.lock().unwrap() = State::Open;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        *self.shared.state.lock().unwrap() = State::Ended;
        self.shared.cut();
        // The listener looks up.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> State {
        *self.state.lock().unwrap()
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn pass(&self, client: &TcpStream, target: SocketAddr) {
        self.open.lock().unwrap().extend(client.try_clone());
        self.wait_while_silent();
        let Ok(server) = TcpStream::connect(target) else {
            let _ = client.shutdown(Shutdown::Both);
            return;
        };
        self.open.lock().unwrap().extend(server.try_clone());
        std::thread::scope(|scope| {
            scope.spawn(|| self.copy(client, &server));
            scope.spawn(|| self.copy(&server, client));
        });
    }

    fn copy(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count) = from.read(&mut buffer) {
            self.wait_while_silent();
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn wait_while_silent(&self) {
        while self.state() == State::Silent {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
