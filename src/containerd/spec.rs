//! The runtime spec of a replica: runtime-spec 1.0, built from an allowlist. Nothing of the image but its command,
//! environment and working folder gets in; nothing of the host but what is listed here.
//!
//! `seccomp.json` is the profile that containerd generates by default, as `ctr run --seccomp` writes it.

use std::path::{Path, PathBuf};

use prost_types::Any;
use serde_json::{Value, json};

const SECCOMP: &str = include_str!("seccomp.json");

/// What containerd calls the types of the things that it passes on to the shim. No leading slash.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// The period that a CPU quota counts in, in microseconds: the kernel's own default.
pub const CPU_PERIOD: u64 = 100_000;

/// What a container may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    /// Its part where all want more than there is, as cgroup v1 counts: from 2 up, 1024 being the usual.
    pub cpu_shares: u64,
    pub pids: u32,
    /// Of `/tmp`. It counts against the memory too.
    pub tmp_bytes: u64,
    pub open_files: u64,
}

impl Limits {
    /// Microseconds of processor time in each [`CPU_PERIOD`].
    pub fn cpu_quota(&self) -> u64 {
        u64::from(self.cpu_millis) * CPU_PERIOD / 1000
    }
}

/// A host path inside the container: read-only, nosuid and nodev.
#[derive(Clone, Debug)]
pub struct BindMount {
    pub source: PathBuf,
    pub destination: PathBuf,
}

/// All that tells one container from another.
pub struct RuntimeSpec {
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub working_dir: String,
    pub hostname: String,
    pub uid: u32,
    pub limits: Limits,
    pub netns: PathBuf,
    pub cgroup: String,
    pub mounts: Vec<BindMount>,
}

impl RuntimeSpec {
    pub(super) fn wire(&self) -> Any {
        any(SPEC_TYPE, &self.json())
    }

    pub(super) fn wire_process(process: &Value) -> Any {
        any(PROCESS_TYPE, process)
    }

    /// The container's process: what runs in it, and the pattern for every command run beside it.
    pub fn process(&self) -> Value {
        json!({
            "terminal": false,
            "user": { "uid": self.uid, "gid": self.uid },
            "args": self.args,
            "env": self.env,
            "cwd": self.working_dir,
            // No set at all: what is not listed is dropped.
            "capabilities": {},
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": self.limits.open_files, "soft": self.limits.open_files },
                        { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 }],
            "noNewPrivileges": true,
        })
    }

    fn json(&self) -> Value {
        let namespaces = json!([
            { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            { "type": "network", "path": self.netns },
        ]);
        let seccomp: Value = serde_json::from_str(SECCOMP).unwrap_or_default();
        json!({
            "ociVersion": "1.0.2",
            "process": self.process(),
            "root": { "path": "rootfs", "readonly": true },
            "hostname": self.hostname,
            "mounts": self.mounts(),
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.cgroup,
                "resources": resources(&self.limits),
                "seccomp": seccomp,
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                // Ports below 1024 need no capability, and IPv6, which nothing filters, does not exist.
                "sysctl": {
                    "net.ipv4.ip_unprivileged_port_start": "0",
                    "net.ipv6.conf.all.disable_ipv6": "1",
                    "net.ipv6.conf.default.disable_ipv6": "1",
                },
            },
        })
    }

    fn mounts(&self) -> Vec<Value> {
        const EMPTY: [&str; 6] = ["nosuid", "noexec", "nodev", "ro", "mode=0555", "size=4k"];
        let mount = |to: &str, kind: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": kind, "options": options });
        let tmp = format!("size={}", self.limits.tmp_bytes);
        let mut mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=64k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &tmp]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/tmp", "tmpfs", &["nosuid", "nodev", "mode=1777", &tmp]),
            // Empty: a place for others to be put over.
            mount("/run/secrets", "tmpfs", &EMPTY),
            // Where OpenFaaS's functions look.
            mount("/var/openfaas/secrets", "tmpfs", &EMPTY),
        ];
        mounts.extend(self.mounts.iter().map(BindMount::json));
        mounts
    }
}

impl BindMount {
    /// A file or folder of the host at another place in the container.
    pub fn new(source: impl Into<PathBuf>, destination: impl AsRef<Path>) -> Self {
        Self { source: source.into(), destination: destination.as_ref().into() }
    }

    fn json(&self) -> Value {
        json!({
            "destination": self.destination,
            "type": "bind",
            "source": self.source,
            "options": ["rbind", "ro", "nosuid", "nodev", "rprivate"],
        })
    }
}

/// Limits as a cgroup takes them, v1 and v2 alike (runc translates).
fn resources(limits: &Limits) -> Value {
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    let device = |major: u32, minor: u32| json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rw" });
    json!({
        // Memory and swap together: the same number means no swap.
        "memory": { "limit": memory, "swap": memory },
        "cpu": { "quota": limits.cpu_quota(), "period": CPU_PERIOD, "shares": limits.cpu_shares },
        "pids": { "limit": limits.pids },
        // null, zero, full, random, urandom, tty, ptmx, and every pts.
        "devices": [
            { "allow": false, "access": "rwm" },
            device(1, 3), device(1, 5), device(1, 7), device(1, 8), device(1, 9), device(5, 0), device(5, 2),
            { "allow": true, "type": "c", "major": 136, "access": "rw" },
        ],
    })
}

fn any(type_url: &str, value: &Value) -> Any {
    Any { type_url: type_url.into(), value: value.to_string().into_bytes() }
}

/// Hidden, because they tell about the host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> RuntimeSpec {
        RuntimeSpec {
            args: vec!["/p".into()],
            env: vec!["PORT=8081".into()],
            working_dir: "/function".into(),
            hostname: "add".into(),
            uid: 200_001,
            limits: Limits {
                memory_bytes: 64 << 20,
                cpu_millis: 500,
                cpu_shares: 500,
                pids: 32,
                tmp_bytes: 8 << 20,
                open_files: 1024,
            },
            netns: "/run/netns/x".into(),
            cgroup: "/fnbuild-x/add".into(),
            mounts: vec![BindMount::new("/data/hosts", "/etc/hosts")],
        }
    }

    #[test]
    fn another_implementation_reads_the_spec_and_finds_the_walls_in_it() {
        let theirs: oci_spec::runtime::Spec = serde_json::from_value(spec().json()).unwrap();
        let process = theirs.process().as_ref().unwrap();
        assert_eq!(process.user().uid(), 200_001);
        assert_eq!(process.no_new_privileges(), Some(true));
        let capabilities = process.capabilities().as_ref().unwrap();
        assert!(capabilities.bounding().is_none() && capabilities.ambient().is_none());
        assert_eq!(theirs.root().as_ref().unwrap().readonly(), Some(true));
        let linux = theirs.linux().as_ref().unwrap();
        let syscalls = linux.seccomp().as_ref().unwrap().syscalls().as_ref().unwrap();
        assert_eq!(syscalls.iter().map(|rule| rule.names().len()).sum::<usize>(), 360);
        let resources = linux.resources().as_ref().unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(64 << 20));
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(50_000));
    }
}
