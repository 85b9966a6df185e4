//! Functions that are put into containers that wait for them, on the real base.

use std::sync::Arc;
use std::time::Duration;

use fnbuild::function::{Memory, Settings};
use fnbuild::replica::{Error, Lease, LogQuery, Replicas, ScaleSettings};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Site, acquire, ctr, function, soon};
use crate::support::wait_until;

/// Everything that a function can see of where it is, and that has no reason to differ.
const DUMP: &str = r#"
import gc, os, resource, socket, sys, threading
print("imported")

def read(path):
    with open(path) as file:
        return file.read()

SOCKETS = sorted(
    f"{thing.family.name} {thing.type.name}" for thing in gc.get_objects() if isinstance(thing, socket.socket)
)
THREADS = sorted(thread.name for thread in threading.enumerate())
MODULES = sorted(sys.modules)

def secrets():
    folder = "/run/secrets"
    kept = {}
    for name in os.listdir(folder):
        about = os.stat(os.path.join(folder, name))
        ours = (about.st_uid, about.st_gid) == (os.getuid(), os.getgid())
        kept[name] = (read(os.path.join(folder, name)), oct(about.st_mode), ours)
    mount = next(line.split() for line in read("/proc/self/mountinfo").splitlines() if line.split()[4] == folder)
    return kept, oct(os.stat(folder).st_mode), mount[5], mount[mount.index("-") + 1:]

def run():
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines())
    kept = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask")
    return {
        "file": __file__, "name": __name__, "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv,
        "orig_argv": sys.orig_argv, "flags": str(sys.flags), "env": dict(os.environ), "pid": os.getpid(),
        "status": {key: status[key].split() for key in kept if key not in ("Uid", "Gid")},
        "one_user": len(set(status["Uid"].split() + status["Gid"].split())) == 1,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIM") and name != "RLIM_INFINITY"},
        "hostname": socket.gethostname(), "hosts": [line.split()[1:] for line in read("/etc/hosts").splitlines()],
        "resolv": read("/etc/resolv.conf"), "function": sorted(os.listdir("/function")), "root": sorted(os.listdir("/")),
        "tmp": os.listdir("/tmp"), "modes": [oct(os.stat(p).st_mode) for p in ("/function", __file__, "/tmp")],
        "owners": [(os.stat(p).st_uid, os.stat(p).st_gid) for p in ("/function", __file__)],
        "writable": os.statvfs("/function").f_flag & os.ST_RDONLY, "cgroup": read("/proc/self/cgroup").splitlines()[-1],
        "cmdline": read("/proc/self/cmdline"), "sockets": SOCKETS, "threads": THREADS, "modules": MODULES,
        "umask": os.umask(0o22), "secrets": secrets(),
    }
"#;

/// Tries to write wherever it can, and to find a way back to who started it.
const BURGLAR: &str = r#"
import gc, hashlib, os, socket
SEEN = hashlib.sha256(b"".join(open(os.path.join("/function", n), "rb").read() for n in sorted(os.listdir("/function")))).hexdigest()

def attempt(action):
    try:
        action()
        return True
    except OSError:
        return False

def write(path):
    with open(path, "w") as file:
        file.write("burgled")

def run(deep=True):
    written = []
    for folder, folders, files in os.walk("/"):
        folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys")]
        if attempt(lambda: write(os.path.join(folder, ".burglar"))) or attempt(lambda: os.mkdir(os.path.join(folder, ".b"))):
            written.append(folder)
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not path.startswith("/tmp/") and not os.path.islink(path):
                if attempt(lambda: os.close(os.open(path, os.O_WRONLY))) or attempt(lambda: os.unlink(path)):
                    written.append(path)
    unix = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as copy:
                if copy.family == socket.AF_UNIX:
                    # The pairs without names are the process's own: a thread wakes another by them.
                    unix += [name for name in (copy.getsockname(), copy.getpeername()) if name]
        except OSError:
            pass
    unix += [line for line in open("/proc/net/unix").read().splitlines()[1:] if "pool" in line or "/function" in line]
    mounts = open("/proc/self/mountinfo").read()
    return {
        "written": sorted(written), "unix": unix, "slot": [l for l in mounts.splitlines() if "/slot" in l],
        "function": sorted(os.listdir("/function")), "seen": SEEN,
        "options": [l.split()[5] for l in mounts.splitlines() if l.split()[4] == "/function"],
        "left": [name for name in os.environ if "POOL" in name] + [l for l in open("/proc/self/environ").read().split("\0") if "POOL" in l],
    }
"#;

impl Site {
    async fn start_with_pool(&self, pool: usize) -> Arc<Replicas> {
        let mut config = self.config();
        config.scale = ScaleSettings { pool, ..config.scale };
        self.start_with(config).await
    }

    fn containers(&self) -> Vec<String> {
        let listed = ctr(&self.namespace, &["containers", "ls", "-q"]);
        listed.lines().map(str::to_string).collect()
    }
}

async fn full(replicas: &Replicas, size: usize) {
    let waited = tokio::time::timeout(Duration::from_secs(90), async {
        while replicas.warm_containers() != size {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{} of {size} containers wait", replicas.warm_containers()));
}

/// Status and body of a call with these arguments.
pub(super) async fn call(lease: &Lease, arguments: Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(lease.replica().address).await.unwrap();
    let body = arguments.to_string();
    let length = body.len();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
}

/// What the kernel holds a replica to.
fn limits(site: &Site, id: &str) -> Vec<String> {
    let files = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.shares"),
        ("pids", "pids.max"),
        ("", "memory.max"),
        ("", "memory.swap.max"),
        ("", "cpu.max"),
        ("", "cpu.weight"),
        ("", "pids.max"),
    ];
    let path = |(controller, file)| format!("/sys/fs/cgroup/{controller}/fnbuild-{}/{id}/{file}", site.id());
    let read = |place| std::fs::read_to_string(path(place)).ok();
    let limits: Vec<String> = files.into_iter().filter_map(read).collect();
    assert!(limits.len() >= 4, "{limits:?}");
    limits
}

#[tokio::test]
async fn a_function_cannot_tell_the_pool_from_a_plain_start_and_outlives_it() {
    let mut settings =
        Settings { memory: Memory(128 << 20), cpu_millis: 700, pids: 70, ..Settings::default() };
    settings.env.insert("GREETING".into(), "hello\nthere".into());
    settings.secrets.insert("api-key".into());
    let site = Site::new().with_python("dump", DUMP, settings);
    site.secrets.create(&"api-key".parse().unwrap(), b"s3cr3t").await.unwrap();
    let replicas = site.start_with_pool(2).await;
    full(&replicas, 2).await;
    let lease = acquire(&replicas, "dump").await;
    assert!(lease.cold().is_some());
    let taken = lease.replica().clone();
    assert!(taken.id.starts_with("pool-"), "{}", taken.id);
    let (status, from_pool) = call(&lease, json!({})).await;
    assert_eq!(status, 200, "{from_pool}");
    let pool_limits = limits(&site, &taken.id);
    drop(lease);
    full(&replicas, 2).await;

    // A server that stops leaves nothing generic behind, and the next finds the replica to be its function's.
    replicas.stop().await;
    assert_eq!(site.containers(), std::slice::from_ref(&taken.id));
    let replicas = site.start_with_pool(0).await;
    let lease = acquire(&replicas, "dump").await;
    assert_eq!((&lease.replica().id, lease.replica().pid), (&taken.id, taken.pid));
    drop(lease);
    let mut lines = replicas.logs(&function("dump"), LogQuery::default());
    let line = lines.recv().await.unwrap().unwrap();
    assert_eq!((line.text.as_str(), line.version, &line.replica), ("imported", 1, &taken.id));

    replicas.scale(&function("dump"), 0).await.unwrap();
    let lease = acquire(&replicas, "dump").await;
    assert!(lease.replica().id.starts_with("dump-"));
    let (_, plain) = call(&lease, json!({})).await;
    for (key, value) in plain.as_object().unwrap() {
        assert_eq!(from_pool[key], *value, "{key}");
    }
    assert_eq!(pool_limits, limits(&site, &lease.replica().id));
    drop(lease);
    site.close(replicas).await;
}

#[tokio::test]
async fn a_function_from_the_pool_finds_no_way_out_and_leaves_no_trace() {
    let settings = Settings { concurrency: 1, max_scale: 3, ..Settings::default() };
    let site = Site::new().with_python("burglar", BURGLAR, settings);
    let replicas = site.start_with_pool(2).await;
    full(&replicas, 2).await;
    let first = acquire(&replicas, "burglar").await;
    let (_, before) = call(&first, json!({})).await;
    let second = acquire(&replicas, "burglar").await;
    let ids = [&first, &second].map(|lease| lease.replica().id.clone());
    assert!(ids.iter().all(|id| id.starts_with("pool-")), "{ids:?}");
    let (_, after) = call(&second, json!({})).await;
    assert_eq!(before["seen"], after["seen"]);
    for answer in [before, after] {
        let written: Vec<&str> =
            answer["written"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        assert!(
            written
                .iter()
                .all(|path| ["/tmp", "/dev/shm", "/dev/mqueue"].iter().any(|open| path.starts_with(open))),
            "{written:?}"
        );
        for empty in ["unix", "slot", "left"] {
            assert_eq!(answer[empty], json!([]), "{empty}");
        }
        assert_eq!(answer["function"], json!(["func.py"]));
        let options = answer["options"][0].as_str().unwrap();
        assert!(
            ["ro", "nosuid", "nodev"].iter().all(|flag| options.split(',').any(|o| o == *flag)),
            "{options}"
        );
    }
    drop((first, second));
    site.close(replicas).await;
}

#[tokio::test]
async fn what_does_not_fit_the_pool_starts_the_plain_way_and_says_what_is_wrong() {
    let broken = "import nothing_like_it\n\ndef run():\n    pass\n";
    let mut alone = Settings::default();
    alone.env.insert("PYTHONHASHSEED".into(), "1".into());
    let site = Site::new()
        .with_python("broken", broken, Settings::default())
        .with_python("alone", broken, alone)
        .with("foreign", super::HTTPD, Settings::default());
    let replicas = site.start_with_pool(1).await;
    full(&replicas, 1).await;
    for (name, prefix) in [("broken", "pool-"), ("alone", "alone-"), ("foreign", "foreign-")] {
        let lease = replicas.acquire(&function(name), None, soon()).await.unwrap();
        assert!(lease.replica().id.starts_with(prefix), "{name}: {}", lease.replica().id);
        if name != "foreign" {
            let (status, error) = call(&lease, json!({})).await;
            assert_eq!((status, error["errorType"].as_str()), (500, Some("ModuleNotFoundError")));
        }
    }
    site.close(replicas).await;
}

#[tokio::test]
async fn a_function_with_less_memory_than_what_waits_has_takes_nothing_from_the_pool() {
    let small = Settings { memory: Memory(8 << 20), ..Settings::default() };
    let add = "def run(x, y):\n    return x + y\n";
    let site = Site::new().with_python("small", add, small).with_python("add", add, Settings::default());
    let replicas = site.start_with_pool(2).await;
    full(&replicas, 2).await;
    let waiting = site.containers();
    let refused = replicas.acquire(&function("small"), None, soon()).await.map(drop).unwrap_err();
    assert!(matches!(refused, Error::CannotStart { .. }), "{refused}");
    assert_eq!((site.containers(), replicas.warm_containers()), (waiting.clone(), 2));
    let lease = acquire(&replicas, "add").await;
    assert!(waiting.contains(&lease.replica().id));
    drop(lease);
    site.close(replicas).await;
}

#[test]
fn the_next_server_removes_what_waited_for_one_that_died() {
    let site = Site::new().with_python("add", "def run(x, y):\n    return x + y\n", Settings::default());
    let died = tokio::runtime::Runtime::new().unwrap();
    let replicas = died.block_on(async {
        let replicas = site.start_with_pool(1).await;
        full(&replicas, 1).await;
        replicas
    });
    // Nothing of it runs on: no destructor, no last word.
    died.shutdown_background();
    std::mem::forget(replicas);
    assert_eq!(site.containers().len(), 1);
    let next = tokio::runtime::Runtime::new().unwrap();
    next.block_on(async {
        let replicas = site.start_with_pool(0).await;
        wait_until("the container to be gone", Duration::from_secs(10), || site.containers().is_empty());
        let lease = acquire(&replicas, "add").await;
        assert_eq!(call(&lease, json!({"x": 1, "y": 2})).await, (200, json!(3)));
        drop(lease);
        site.close(replicas).await;
    });
}
