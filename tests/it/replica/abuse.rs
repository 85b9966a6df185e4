//! Functions that take all they can get: they suffer, their neighbours do not.

use std::time::Duration;

use fnbuild::function::{Memory, Settings};
use fnbuild::replica::LogQuery;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pool::call;
use super::{HTTPD, Site, acquire, function, inside};

/// Takes of each thing as much as it is given, and says how much that was.
const GREEDY: &str = r#"
import ctypes, os, socket

KEPT = []

def count(make, most):
    for number in range(most):
        try:
            KEPT.append(make())
        except OSError:
            return number
    return most

def inotify():
    fd = ctypes.CDLL(None, use_errno=True).inotify_init()
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init")
    return fd

def run(what, most):
    return count({"sockets": socket.socket, "pipes": os.pipe, "inotify": inotify}[what], most)
"#;

#[tokio::test]
async fn sockets_pipes_and_watches_of_one_function_are_not_anothers() {
    let site = Site::new().with_python("greedy", GREEDY, Settings::default()).with_python(
        "modest",
        GREEDY,
        Settings::default(),
    );
    let replicas = site.start().await;
    let (greedy, modest) = (acquire(&replicas, "greedy").await, acquire(&replicas, "modest").await);
    let take = async |lease, what: &str, most: u64| {
        let (status, got) = call(lease, json!({ "what": what, "most": most })).await;
        assert_eq!(status, 200, "{got}");
        got.as_u64().unwrap()
    };
    // The kernel counts watches and pipes by user: whoever has used its own up has used nobody else's.
    let watches = take(&greedy, "inotify", 100_000).await;
    assert!(watches < 100_000);
    assert!(take(&greedy, "sockets", 10_000).await == 10_000);
    assert!(take(&greedy, "pipes", 100_000).await < 100_000);
    assert_eq!(take(&modest, "inotify", watches.min(50)).await, watches.min(50));
    assert_eq!(take(&modest, "sockets", 100).await, 100);
    assert_eq!(take(&modest, "pipes", 500).await, 500);
    drop((greedy, modest));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_fork_bomb_hits_its_own_limit_and_is_told() {
    let settings = Settings { pids: 40, ..Settings::default() };
    let site = Site::new().with("bomb", HTTPD, settings).with("neighbour", HTTPD, Settings::default());
    let replicas = site.start().await;
    let (bomb, neighbour) = (acquire(&replicas, "bomb").await, acquire(&replicas, "neighbour").await);
    let script = "i=0; while [ $i -lt 200 ]; do (sleep 20 >/dev/null 2>&1 &) 2>/dev/null; i=$((i+1)); done";
    let mut stream = TcpStream::connect(bomb.replica().address).await.unwrap();
    let request = format!("POST /cgi-bin/run HTTP/1.0\r\nContent-Length: {}\r\n\r\n{script}", script.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let refused = async {
        while replicas.list(&function("bomb")).first().is_some_and(|replica| replica.out_of_pids == 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), refused).await.expect("the kernel refuses processes");
    assert_eq!(inside(&neighbour, "(echo a; echo b) | cat | grep b").await, "b");
    drop((bomb, neighbour, stream));
    site.close(replicas).await;
}

#[tokio::test]
async fn who_asks_for_ten_gigabytes_dies_alone_and_describe_says_of_what() {
    let code = "def run():\n    return len(b'x' * (10 << 30))\n";
    let settings = Settings { memory: Memory(96 << 20), ..Settings::default() };
    let site =
        Site::new().with_python("greedy", code, settings).with("neighbour", HTTPD, Settings::default());
    let replicas = site.start().await;
    let (greedy, neighbour) = (acquire(&replicas, "greedy").await, acquire(&replicas, "neighbour").await);
    let replica = greedy.replica().clone();
    let mut stream = TcpStream::connect(replica.address).await.unwrap();
    let request =
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(replica.fate(Duration::from_secs(60)).await.unwrap().out_of_memory);
    assert_eq!(inside(&neighbour, "echo well").await, "well");
    let death = replicas.last_mishaps(&function("greedy")).death.unwrap();
    assert_eq!(
        (death.replica, death.cause.as_str()),
        (replica.id.clone(), "it was out of memory (the limit is 96Mi)")
    );
    drop((greedy, neighbour));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_full_tmp_is_its_own_functions() {
    let site =
        Site::new().with("hoarder", HTTPD, Settings::default()).with("neighbour", HTTPD, Settings::default());
    let replicas = site.start().await;
    let (hoarder, neighbour) = (acquire(&replicas, "hoarder").await, acquire(&replicas, "neighbour").await);
    let script = "busybox cat /dev/zero 2>/tmp/why >/tmp/full; busybox df /tmp | busybox grep -c 100%";
    assert_eq!(inside(&hoarder, script).await, "1");
    assert_eq!(inside(&neighbour, "echo well >/tmp/note && cat /tmp/note").await, "well");
    assert_eq!(
        inside(&hoarder, "busybox rm /tmp/full && echo well >/tmp/note && cat /tmp/note").await,
        "well"
    );
    drop((hoarder, neighbour));
    site.close(replicas).await;
}

#[tokio::test]
async fn a_log_without_end_is_bounded_and_slows_nobody() {
    let site =
        Site::new().with("chatty", HTTPD, Settings::default()).with("neighbour", HTTPD, Settings::default());
    let mut config = site.config();
    config.walls.log_bytes = 1 << 20;
    let replicas = site.start_with(config).await;
    let (chatty, neighbour) = (acquire(&replicas, "chatty").await, acquire(&replicas, "neighbour").await);
    // The script's own output is the answer; process 1's is the log.
    inside(&chatty, "busybox yes 'so much to say' | busybox head -c 30000000 >/proc/1/fd/1").await;
    assert_eq!(inside(&neighbour, "echo well").await, "well");
    let mut size = 0;
    for file in std::fs::read_dir(site.data.path().join("logs/chatty")).unwrap().flatten() {
        size += file.metadata().unwrap().len();
    }
    assert!(size <= 2 << 20, "{size}");
    let mut lines = replicas.logs(&function("chatty"), LogQuery { tail: Some(1), ..LogQuery::default() });
    assert!(lines.recv().await.is_some());
    drop((chatty, neighbour));
    site.close(replicas).await;
}

#[tokio::test]
async fn an_answer_without_end_keeps_neither_memory_nor_others() {
    let site =
        Site::new().with("endless", HTTPD, Settings::default()).with("neighbour", HTTPD, Settings::default());
    let replicas = site.start().await;
    let (endless, neighbour) = (acquire(&replicas, "endless").await, acquire(&replicas, "neighbour").await);
    let mut stream = TcpStream::connect(endless.replica().address).await.unwrap();
    let script = "cat /dev/zero";
    let request = format!("POST /cgi-bin/run HTTP/1.0\r\nContent-Length: {}\r\n\r\n{script}", script.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = vec![0; 1 << 20];
    for _ in 0..32 {
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(inside(&neighbour, "echo well").await, "well");
    }
    drop(stream);
    assert_eq!(inside(&endless, "echo still here").await, "still here");
    drop((endless, neighbour));
    site.close(replicas).await;
}
