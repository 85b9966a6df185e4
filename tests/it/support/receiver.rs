//! Somebody who is called back: an HTTP server that keeps what it is sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub struct Received {
    /// By their lower-case names.
    pub headers: HashMap<String, String>,
    pub body: String,
}

pub struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    refusals: Arc<AtomicU32>,
}

impl Receiver {
    /// One that refuses this many requests with 503 before it takes one.
    pub fn start(refusals: u32) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let refusals = Arc::new(AtomicU32::new(refusals));
        let (kept, left) = (Arc::clone(&received), Arc::clone(&refusals));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, left) = (Arc::clone(&kept), Arc::clone(&left));
                std::thread::spawn(move || drop(serve(stream, &kept, &left)));
            }
        });
        Self { port, received, refusals }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/answers?from=test", self.port)
    }

    /// What was taken.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// How many requests are still to be refused.
    pub fn refusals(&self) -> u32 {
        self.refusals.load(Ordering::SeqCst)
    }

    pub fn ids(&self) -> Vec<String> {
        self.received().into_iter().map(|one| one.headers["x-call-id"].clone()).collect()
    }
}

fn serve(mut stream: TcpStream, kept: &Mutex<Vec<Received>>, refusals: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut headers) = (String::new(), HashMap::new());
    reader.read_line(&mut line)?;
    let is_right = line.starts_with("POST /answers?from=test ");
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_string());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let refuses =
        refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let status = match (is_right, refuses) {
        (false, _) => "404 Not Found",
        (true, true) => "503 Service Unavailable",
        (true, false) => {
            let body = String::from_utf8_lossy(&body).into_owned();
            kept.lock().unwrap().push(Received { headers, body });
            "200 OK"
        }
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}
