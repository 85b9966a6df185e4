#!/usr/bin/env python3
"""The record stores: start, memory, lookups and pages with few and with many records; writes per second with one and with 64
writers, against etcd's own puts in the same run. Writes the table "records" of docs/benchmarks.md.

Needs etcd (Debian). The stores are measured by benches/records.rs, one process for each measurement, so that memory is of that
alone; the server by `fnbuild serve` itself, if --fnbuild names one and containerd runs.
"""
import argparse, json, os, pathlib, shutil, signal, socket, subprocess, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- records: written by scripts/bench records -->", "<!-- records: end -->"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def built(options):
    """The program of benches/records.rs."""
    if options.bench:
        return options.bench
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "records", "--message-format", "json"]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    made = (json.loads(line) for line in told.splitlines())
    return next(one["executable"] for one in made if one.get("executable") and one["target"]["name"] == "records")


class Etcd:
    def __init__(self, folder):
        self.url = f"http://127.0.0.1:{free_port()}"
        peer = f"http://127.0.0.1:{free_port()}"
        command = ["etcd", "--name", "bench", "--data-dir", str(folder), "--log-level", "error", "--listen-client-urls", self.url,
                   "--advertise-client-urls", self.url, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                   "--initial-cluster", f"bench={peer}", "--quota-backend-bytes", str(4 << 30)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(300):
            try:
                if b"true" in urllib.request.urlopen(self.url + "/health", timeout=1).read():
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("etcd does not start")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def server(options, data):
    """Milliseconds until `fnbuild serve` is healthy over these records, and its memory in MiB then and 5 s later."""
    port = free_port()
    common = {**os.environ, "FNBUILD_DATA_DIR": str(data), "FNBUILD_REGISTRY": f"127.0.0.1:{free_port()}",
              "FNBUILD_NAMESPACE": f"fnbuild-bench-{port}", "FNBUILD_POOL": "0"}
    begun = time.monotonic()
    process = subprocess.Popen([options.fnbuild, "serve", "--listen", f"127.0.0.1:{port}"], env=common,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5).read()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - begun > 120:
                    raise SystemExit("fnbuild serve does not start")
                time.sleep(0.005)
        started = (time.monotonic() - begun) * 1000
        time.sleep(5)
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        subprocess.run([options.fnbuild, "serve", "--clean-up"], env=common, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return started, peak


def measure(options, work):
    bench = built(options)

    def run(*arguments):
        told = subprocess.run([bench, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(told.stdout)

    few, many, nothing = work / "few", work / "many", "-"
    taken = {}
    for name, place, count in (("few", few, 100), ("many", many, options.records)):
        run("fill", place, nothing, count)
        taken[name] = run("read", place, nothing)
    for writers in (1, 64):
        taken[f"sled{writers}"] = run("write", many, nothing, writers)["per_second"]
    with Etcd(work / "etcd") as etcd:
        mirror = work / "mirror"
        run("fill", etcd.url, mirror, options.records)
        taken["etcd"] = run("read", etcd.url, mirror)
        for writers in (1, 64):
            pairs = []
            for _ in range(options.rounds):
                raw = run("raw", etcd.url, writers)["per_second"]
                pairs.append((run("write", etcd.url, mirror, writers)["per_second"], raw))
            taken[f"etcd{writers}"] = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    if shutil.which(options.fnbuild):
        data = work / "data"
        data.mkdir()
        (data / "format").write_text("1\n")
        many.rename(data / "records")
        taken["server"] = server(options, data)
    return taken


def rows(taken, records):
    few, many, etcd = taken["few"], taken["many"], taken["etcd"]
    yield f"open sled, {records:,} records", f"{many['start_ms']} ms", f"{many['start_ms'] / 2000:.2f} of 2 s", "< 1"
    yield f"open the mirror of etcd, {records:,} records", f"{etcd['start_ms']} ms", f"{etcd['start_ms'] / 2000:.2f} of 2 s", "< 1"
    yield f"peak memory, sled, {records:,} records", f"{many['peak_mib']} MiB", f"{many['peak_mib'] / 150:.2f} of 150 MiB", "< 1"
    yield f"peak memory, mirror, {records:,} records", f"{etcd['peak_mib']} MiB", f"{etcd['peak_mib'] / 150:.2f} of 150 MiB", "< 1"
    if "server" in taken:
        started, peak = taken["server"]
        yield f"`fnbuild serve` until it answers, {records:,} records", f"{started:.0f} ms", f"{started / 2000:.2f} of 2 s", "< 1"
        yield f"`fnbuild serve`, peak memory, {records:,} records", f"{peak:.0f} MiB", f"{peak / 150:.2f} of 150 MiB", "< 1"
    ratio = many["lookup_us"] / few["lookup_us"]
    yield f"a lookup among {records:,}, against 100", f"{many['lookup_us']:.1f} µs", f"{ratio:.2f} of {few['lookup_us']:.1f} µs", "≈ 1"
    ratio = etcd["lookup_us"] / few["lookup_us"]
    yield "the same in the mirror of etcd", f"{etcd['lookup_us']:.1f} µs", f"{ratio:.2f} of {few['lookup_us']:.1f} µs", "≈ 1"
    yield f"all pages of {records:,}", f"{many['list_ms']} ms", "", ""
    for writers in (1, 64):
        yield f"sled, compare-and-swap writes, writers: {writers}", f"{taken[f'sled{writers}']:,.0f}/s", "", ""
    for writers, goal in ((1, ""), (64, "≥ 0.8")):
        ours, raw = taken[f"etcd{writers}"]
        yield (f"etcd, compare-and-swap writes, writers: {writers}", f"{ours:,.0f}/s",
               f"{ours / raw:.2f} of raw puts, {raw:,.0f}/s", goal)


def write(lines, about):
    page = TABLE.read_text()
    if BEGIN not in page:
        page = page.rstrip() + f"\n\n## Records\n\n{BEGIN}\n{END}\n"
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    TABLE.write_text(head + BEGIN + "\n" + about + "\n\n" + "\n".join(lines) + "\n" + END + tail)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison with raw puts; the median counts")
    parser.add_argument("--bench", help="benches/records.rs, built already")
    parser.add_argument("--fnbuild", default=str(ROOT / "target/release/fnbuild"))
    parser.add_argument("--machine", default="two shared cores")
    parser.add_argument("--dry", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fnbuild-bench.") as work:
        taken = measure(options, pathlib.Path(work))
    lines = ["| what | figure | ratio | to reach |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(taken, options.records)]
    print("\n".join(lines))
    if not options.dry:
        write(lines, f"{options.machine.capitalize()}, {time.strftime('%Y-%m-%d')}.")


if __name__ == "__main__":
    main()
