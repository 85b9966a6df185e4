//! Callers that call again and again while something happens, and remember what was not answered as it should be; and
//! one whose call lasts as long as a test wants.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_until;

pub struct Callers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Default)]
struct Shared {
    done: AtomicBool,
    calls: AtomicU32,
}

impl Callers {
    /// One for each URL; every answer is to be 200 with one of these bodies.
    pub fn start(urls: &[String], bodies: &[&str]) -> Self {
        let shared = Arc::new(Shared::default());
        let wanted: Vec<String> = bodies.iter().map(|body| format!("{body} 200")).collect();
        let thread = |url: &String| {
            let (shared, url, wanted) = (Arc::clone(&shared), url.clone(), wanted.clone());
            std::thread::spawn(move || shared.call(&url, &wanted))
        };
        let threads = urls.iter().map(thread).collect();
        Self { shared, threads }
    }

    /// Waits until so many more calls were answered.
    #[track_caller]
    pub fn wait_for(&self, more: u32) {
        let goal = self.shared.calls.load(Ordering::Relaxed) + more;
        wait_until("more calls", Duration::from_secs(60), || {
            self.shared.calls.load(Ordering::Relaxed) >= goal
                || self.threads.iter().any(JoinHandle::is_finished)
        });
    }

    /// Ends them. Not one call may have gone wrong.
    #[track_caller]
    pub fn finish(self) {
        self.shared.done.store(true, Ordering::Relaxed);
        let failed: Vec<String> =
            self.threads.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        let calls = self.shared.calls.load(Ordering::Relaxed);
        assert!(failed.is_empty(), "{} of {calls} calls: {failed:?}", failed.len());
        assert!(calls > 0);
    }
}

/// A call that a replica has begun to receive, and that ends when it is let go.
pub struct HeldCall(Child);

impl HeldCall {
    pub fn begin(url: &str) -> Self {
        let mut curl = Command::new("curl");
        // A body as it comes from stdin: the function has to wait for its end.
        curl.args(["-sS", "--max-time", "300", "-w", " %{http_code}", "-X", "POST", "-T", "-", url]);
        Self(curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Body and status of the answer.
    pub fn let_go(mut self) -> String {
        drop(self.0.stdin.take());
        String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap()
    }
}

impl Shared {
    fn call(&self, url: &str, wanted: &[String]) -> Vec<String> {
        let mut failed = Vec::new();
        while !self.done.load(Ordering::Relaxed) {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "--max-time", "60", "-w", " %{http_code}", "-d", "{}", url]);
            let answer = curl.output().unwrap();
            let text = String::from_utf8_lossy(&answer.stdout).into_owned();
            self.calls.fetch_add(1, Ordering::Relaxed);
            if !wanted.contains(&text) {
                failed.push(format!("{url}: {text} {}", String::from_utf8_lossy(&answer.stderr)));
            }
        }
        failed
    }
}
