//! What the kernel says of this process, under the names that every Prometheus client library gives it.

use std::fs;

use super::Text;

/// In which the kernel tells times, on every machine that fnbuild runs on (`USER_HZ`).
const TICKS_A_SECOND: f64 = 100.0;

/// What the kernel does not tell is left out.
pub fn write(text: &mut Text) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; proc(5) numbers what follows it from 3 on.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    if let (Some(user), Some(system)) = (field(14), field(15)) {
        let seconds = (user + system) as f64 / TICKS_A_SECOND;
        text.single("process_cpu_seconds_total", "counter", "Time on processors.", seconds);
    }
    if let (Some(start), Some(boot)) = (field(22), boot_time()) {
        let seconds = boot as f64 + start as f64 / TICKS_A_SECOND;
        text.single("process_start_time_seconds", "gauge", "When it was started, in Unix time.", seconds);
    }
    if let Some(bytes) = resident() {
        text.single("process_resident_memory_bytes", "gauge", "Memory in use.", bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        text.single("process_open_fds", "gauge", "Open file descriptors.", open.count());
    }
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let told = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    Some(told.trim().parse::<u64>().ok()? * 1024)
}

/// Of the machine, in Unix time.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}
