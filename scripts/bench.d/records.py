#!/usr/bin/env python3
"""The record stores, and how fast several nodes follow them. Writes the tables "records" of docs/benchmarks.md.

- stores: start, memory, lookups and pages with few and with many records; writes per second with one and with 64 writers, against
  etcd's own puts in the same run. Measured by benches/records.rs, one process for each measurement, so that memory is of that alone;
  start and memory of the server by `fnbuild serve` itself.
- nodes: three nodes over three members of etcd and one registry, all on this machine. After each push or rollback, from its
  acknowledgement until a call at the slowest node answers with the new version.

Needs root, etcd, docker-registry and containerd; the program is --fnbuild, or FNBUILD_BENCH_PROGRAM.
"""
import argparse, concurrent.futures, http.client, json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from build import Registry
from run import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks.md"


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
    """So many members, on ports of their own."""

    def __init__(self, folder, members=1):
        clients, peers = ([f"http://127.0.0.1:{free_port()}" for _ in range(members)] for _ in range(2))
        cluster = ",".join(f"m{at}={peer}" for at, peer in enumerate(peers))
        self.urls, self.processes = clients, []
        for at, (client, peer) in enumerate(zip(clients, peers)):
            command = ["etcd", "--name", f"m{at}", "--data-dir", str(folder / f"m{at}"), "--log-level", "error", "--listen-client-urls", client,
                       "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                       "--initial-cluster", cluster, "--quota-backend-bytes", str(4 << 30)]
            self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def __enter__(self):
        for _ in range(300):
            try:
                if all(b"true" in urllib.request.urlopen(url + "/health", timeout=1).read() for url in self.urls):
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("etcd does not start")

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def described(port, records):
    """Microseconds for a function's record over HTTP, on one connection: the median of 3,000 records here and there."""
    connection, times = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    for lookup in range(3000):
        begun = time.perf_counter()
        connection.request("GET", f"/system/function/f-{lookup * 7919 % records:06}")
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - begun) * 1e6)
        if answer.status != 200:
            raise SystemExit(f"a function is not described: {answer.status}")
    return sorted(times)[len(times) // 2]


def server(options, data, records, *flags):
    """Milliseconds until `fnbuild serve` is healthy over these records, the most memory that it had by 5 s later and some lookups, in
    MiB, and microseconds for each of these."""
    port = free_port()
    common = {**os.environ, "FNBUILD_DATA_DIR": str(data), "FNBUILD_REGISTRY": f"127.0.0.1:{free_port()}",
              "FNBUILD_NAMESPACE": f"fnbuild-bench-{port}", "FNBUILD_POOL": "0"}
    begun = time.monotonic()
    process = subprocess.Popen([options.fnbuild, "serve", "--listen", f"127.0.0.1:{port}", *flags], env=common,
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
        lookup = described(port, records)
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        subprocess.run([options.fnbuild, "serve", "--clean-up"], env=common, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return started, peak, lookup


def stores(options, work):
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
        url, mirror = etcd.urls[0], work / "mirror"
        run("fill", url, mirror, options.records)
        taken["etcd"] = run("read", url, mirror)
        for writers in (1, 64):
            pairs = []
            for _ in range(options.rounds):
                raw = run("raw", url, writers)["per_second"]
                pairs.append((run("write", url, mirror, writers)["per_second"], raw))
            taken[f"etcd{writers}"] = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
        taken["server of etcd"] = server(options, folder(work / "node", mirror, "mirror"), options.records, "--etcd", url)
        shutil.rmtree(work / "node/mirror")
        taken["first start"] = server(options, work / "node", options.records, "--etcd", url)
    taken["server of sled"] = server(options, folder(work / "alone", many, "records"), options.records)
    taken["server of few"] = server(options, folder(work / "little", few, "records"), 100)
    return taken


def folder(data, store, name):
    """A data folder that a server has used, with this store in it."""
    data.mkdir()
    (data / "format").write_text("1\n")
    store.rename(data / name)
    return data


def rows(taken, records):
    few, many, etcd = taken["few"], taken["many"], taken["etcd"]
    yield f"open sled, {records:,} records", f"{many['start_ms']} ms", f"{many['start_ms'] / 2000:.2f} of 2 s", "< 1"
    yield f"open the mirror of etcd, {records:,} records", f"{etcd['start_ms']} ms", f"{etcd['start_ms'] / 2000:.2f} of 2 s", "< 1"
    yield f"peak memory, sled, {records:,} records", f"{many['peak_mib']} MiB", f"{many['peak_mib'] / 150:.2f} of 150 MiB", "< 1"
    yield f"peak memory, mirror, {records:,} records", f"{etcd['peak_mib']} MiB", f"{etcd['peak_mib'] / 150:.2f} of 150 MiB", "< 1"
    for kind in ("sled", "etcd"):
        started, peak, _ = taken[f"server of {kind}"]
        yield f"`fnbuild serve` over {kind} until it answers, {records:,} records", f"{started:.0f} ms", f"{started / 2000:.2f} of 2 s", "< 1"
        yield f"`fnbuild serve` over {kind}, peak memory, {records:,} records", f"{peak:.0f} MiB", f"{peak / 150:.2f} of 150 MiB", "< 1"
    started, peak, _ = taken["first start"]
    yield f"a node that joins, until it answers: it copies {records:,} records", f"{started:.0f} ms, {peak:.0f} MiB", "", ""
    ratio = many["lookup_us"] / few["lookup_us"]
    yield f"a lookup among {records:,}, against 100", f"{many['lookup_us']:.1f} µs", f"{ratio:.2f} of {few['lookup_us']:.1f} µs", "≈ 1"
    ratio = etcd["lookup_us"] / few["lookup_us"]
    yield "the same in the mirror of etcd", f"{etcd['lookup_us']:.1f} µs", f"{ratio:.2f} of {few['lookup_us']:.1f} µs", "≈ 1"
    *_, least = taken["server of few"]
    for kind in ("sled", "etcd"):
        *_, lookup = taken[f"server of {kind}"]
        yield (f"`GET /system/function/NAME` over {kind}, among {records:,}, against 100", f"{lookup:.0f} µs",
               f"{lookup / least:.2f} of {least:.0f} µs", "≈ 1")
    yield f"all pages of {records:,}", f"{many['list_ms']} ms", "", ""
    for writers in (1, 64):
        yield f"sled, compare-and-swap writes, writers: {writers}", f"{taken[f'sled{writers}']:,.0f}/s", "", ""
    for writers, goal in ((1, ""), (64, "≥ 0.8")):
        ours, raw = taken[f"etcd{writers}"]
        yield (f"etcd, compare-and-swap writes, writers: {writers}", f"{ours:,.0f}/s",
               f"{ours / raw:.2f} of raw puts, {raw:,.0f}/s", goal)


def call(port, method, path, body=None, kind="application/json"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": kind} if body else {})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    return answer.status, said.decode()


def change(port, name, code=None):
    """A push of this code, or a rollback to the version before; gives the moment at which it is acknowledged."""
    if code is None:
        status, said = call(port, "POST", f"/v1/functions/{name}/rollback", "{}")
    else:
        status, said = call(port, "PUT", f"/v1/functions/{name}?filename=func.py", code, "text/x-python")
    acknowledged = time.perf_counter()
    if status not in (200, 201):
        raise SystemExit(f"a change was refused: {status} {said}")
    return acknowledged


def answers(port, name, wanted):
    """The moment at which a call there has been answered so."""
    while True:
        answered = call(port, "POST", f"/function/{name}", "{}")
        if answered == (200, wanted):
            return time.perf_counter()
        if answered[0] != 200:
            raise SystemExit(f"a call failed: {answered}")


def nodes(options, work):
    """For pushes and for rollbacks: milliseconds from the acknowledgement until the slowest node answers with the new version."""
    code = "def run():\n    return {}\n".format
    registry, servers = Registry(work), []
    taken = {"push": [], "rollback": []}
    try:
        with Etcd(work, 3) as etcd, concurrent.futures.ThreadPoolExecutor(3) as threads:
            try:
                for _ in range(3):
                    flags = [f"--etcd={','.join(etcd.urls)}", f"--secret-key-file={work / 'key'}", "--notice=0s"]
                    servers.append(Server(options.fnbuild, registry, pathlib.Path(options.data_dir) / "bases", *flags))
                    servers[-1].start()
                ports = [server.port for server in servers]
                servers[0].push("f", "--min-scale", "3", "--max-scale", "6", code=code(0))
                for port in ports:
                    answers(port, "f", "0")
                for turn in range(options.changes):
                    # Not faster than people do it, and each time at another node.
                    time.sleep(options.pause)
                    kind = "rollback" if turn % 2 else "push"
                    number = turn // 2 + 1
                    wanted = str(number - 1 if turn % 2 else number)
                    acknowledged = change(ports[turn % 3], "f", None if turn % 2 else code(number))
                    there = threads.map(lambda port: answers(port, "f", wanted), ports)
                    taken[kind].append((max(there) - acknowledged) * 1000)
            finally:
                for server in servers:
                    server.stop()
    finally:
        registry.stop()
    return taken


def rows_of_nodes(taken, _):
    def percentile(times, share):
        return sorted(times)[min(len(times) - 1, int(len(times) * share))]

    both = taken["push"] + taken["rollback"]
    for name, times, goal in (("pushes", taken["push"], ""), ("rollbacks", taken["rollback"], ""), ("both", both, "p95 < 200 ms")):
        figures = [f"{percentile(times, share):.0f} ms" for share in (0.5, 0.95)]
        yield f"{len(times)} {name}", *figures, f"{max(times):.0f} ms", goal


PARTS = {
    "stores": (stores, rows, "| what | figure | ratio | to reach |"),
    "nodes": (nodes, rows_of_nodes, "| served by all of three nodes after | p50 | p95 | slowest | to reach |"),
}


def write(part, lines, about):
    begin, end = f"<!-- records {part}: written by scripts/bench records -->", f"<!-- records {part}: end -->"
    page = TABLE.read_text()
    if "\n## Records\n" not in page:
        page = page.rstrip() + "\n\n## Records\n"
    if begin not in page:
        page = page.rstrip() + f"\n\n{begin}\n{end}\n"
    head, rest = page.split(begin, 1)
    tail = rest.split(end, 1)[1]
    TABLE.write_text(head + begin + "\n" + about + "\n\n" + "\n".join(lines) + "\n" + end + tail)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="stores,nodes", help="which of them, with commas between")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison with raw puts; the median counts")
    parser.add_argument("--changes", type=int, default=50, help="pushes and rollbacks, by turns")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two of them")
    parser.add_argument("--bench", default=os.environ.get("FNBUILD_BENCH_RECORDS"), help="benches/records.rs, built already")
    default = os.environ.get("FNBUILD_BENCH_PROGRAM", str(ROOT / "target/release/fnbuild"))
    parser.add_argument("--fnbuild", default=default)
    parser.add_argument("--data-dir", default=os.environ.get("FNBUILD_DATA_DIR", "/var/lib/fnbuild"), help="where the bases are")
    parser.add_argument("--machine", default="two shared cores")
    parser.add_argument("--dry", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    for part in options.parts.split(","):
        measure, table, heading = PARTS[part]
        with tempfile.TemporaryDirectory(prefix="fnbuild-bench.") as work:
            taken = measure(options, pathlib.Path(work))
        lines = [heading, "|" + "---|" * (heading.count("|") - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in table(taken, options.records)]
        print("\n".join(lines), flush=True)
        if not options.dry:
            write(part, lines, f"{options.machine.capitalize()}, {time.strftime('%Y-%m-%d')}.")


if __name__ == "__main__":
    main()
