#!/usr/bin/env python3
"""Answering: first answers, warm calls, throughput, many functions, memory; beside docker, nginx and the bare container.

Each piece runs what it compares in turn, round after round, so that what else the machine does hits all alike, and only ratios
within a piece mean something. A piece takes five minutes at most. All of it has a registry, a data folder, a containerd
namespace and ports of its own, and is gone afterwards. Needs root, docker, nginx and wrk (scripts/setup --tests).
"""
import argparse, concurrent.futures, http.client, json, os, pathlib, re, shutil, signal, socket, statistics, subprocess
import sys, tempfile, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from build import Failed, Registry, machine  # the same registry as the builds' benchmark

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks.md"
HELLO = "def run(name='world'):\n    return {'hello': name}\n"
FLASKS_OWN = (
    "from flask import Flask, request, jsonify\n"
    "app = Flask('hello')\n"
    "@app.post('/')\n"
    "def hello():\n"
    "    return jsonify(hello=(request.get_json(silent=True) or {}).get('name', 'world'))\n"
    "import logging; logging.getLogger('werkzeug').disabled = True\n"
    "app.run(host='0.0.0.0', port=8081, threaded=True)\n"
)
BODY = b'{"name":"you"}'


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def output(*command, **more):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise Failed(f"{command[0]} {command[1] if len(command) > 1 else ''} failed: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout.strip()


def post(port, path, host="127.0.0.1"):
    """Connect, call, read to the last byte: (seconds, status, headers)."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(host, port, timeout=120)
    connection.request("POST", path, BODY, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - begun
    connection.close()
    return took, answer.status, answer.headers


def called(port, path, cold=None):
    took, status, headers = post(port, path)
    if status != 200:
        raise Failed(f"{path} answered {status}")
    if cold is not None and (headers.get("X-Cold-Start") == "true") != cold:
        raise Failed(f"{path} was {'not ' if cold else ''}a cold start")
    return took


class Server:
    """`fnbuild serve` with a data folder and a namespace of its own."""

    def __init__(self, fnbuild, registry, bases, *flags):
        self.fnbuild, self.port = fnbuild, free_port()
        self.data = pathlib.Path(tempfile.mkdtemp(prefix="fnbuild-bench-data-"))
        (self.data / "bases").symlink_to(bases)
        self.namespace = f"fnbuild-bench-{os.getpid()}-{self.port}"
        self.environment = {
            **os.environ, "FNBUILD_DATA_DIR": str(self.data), "FNBUILD_REGISTRY": registry.host,
            "FNBUILD_SERVER": f"http://127.0.0.1:{self.port}",
        }
        self.flags = [f"--listen=127.0.0.1:{self.port}", f"--namespace={self.namespace}", *flags]
        self.child = None

    def start(self):
        self.child = subprocess.Popen(
            [self.fnbuild, "serve", *self.flags], env=self.environment,
            stdout=subprocess.DEVNULL, stderr=open(self.data / "serve.log", "ab"),
        )
        for _ in range(3000):
            try:
                if post_get(self.port, "/readyz") == 200:
                    return self
            except OSError:
                pass
            if self.child.poll() is not None:
                break
            time.sleep(0.01)
        raise Failed(f"fnbuild serve does not start: {(self.data / 'serve.log').read_text()[-800:]}")

    def run(self, *arguments):
        return output(self.fnbuild, *arguments, env=self.environment)

    def push(self, name, *flags, code=HELLO):
        source = self.data / "func.py"
        source.write_text(code)
        return json.loads(self.run("push", source, "--name", name, "-o", "json", *flags))

    def copies(self, name, like, count):
        """Functions `name-N` of an image that is pushed; gives their paths."""
        described = json.loads(self.run("describe", like, "-o", "json"))
        repository = described["image"].split("@")[0].split("/", 1)[1]
        body = json.dumps({"repository": repository, "digest": described["digest"], "base": described["base"], "settings": {}})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for number in range(count):
            connection.request(
                "POST", f"/v1/functions/{name}-{number}/versions", body, {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            said = answer.read()
            if answer.status not in (200, 201):
                raise Failed(said.decode())
        return [f"/function/{name}-{number}" for number in range(count)]

    def replica(self, name):
        """Address, port and PID of its replica."""
        found = json.loads(self.run("describe", name, "-o", "json"))["replicas"][0]
        tasks = output("ctr", "-n", self.namespace, "tasks", "ls")
        pid = next(int(line.split()[1]) for line in tasks.splitlines() if line.split()[0] == found["container"])
        return found["address"], found["port"], pid

    def pool_is_full(self, size):
        """Waits until the pool's containers have been up for a moment."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            names = output("ctr", "-n", self.namespace, "containers", "ls").splitlines()[1:]
            # A waiting container has no image yet.
            if sum(1 for line in names if line.startswith("pool-") and "fnbuild-" not in line) >= size:
                time.sleep(1)
                return
            time.sleep(0.1)
        raise Failed("the pool does not fill")

    def stop(self):
        if self.child:
            self.child.terminate()
            self.child.wait()
            self.child = None
        output(self.fnbuild, "serve", *self.flags, "--clean-up", env=self.environment)
        # containerd collects what nothing refers to a moment after its last reference has gone.
        for _ in range(300):
            if not subprocess.run(["ctr", "namespaces", "remove", self.namespace], capture_output=True).returncode:
                break
            time.sleep(0.1)
        shutil.rmtree(self.data, ignore_errors=True)


def post_get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


class Docker:
    """The function's image as docker runs it."""

    def __init__(self, reference):
        self.reference = reference
        output("docker", "pull", "-q", reference)

    def first_answer(self):
        """From `docker run` to the last byte of the first answer; asked again every two milliseconds."""
        port = free_port()
        begun = time.perf_counter()
        child = subprocess.Popen(
            ["docker", "run", "-d", "--rm", "--cpus", "1", "--memory", "256m", "-p", f"127.0.0.1:{port}:8081", self.reference],
            stdout=subprocess.PIPE, text=True,
        )
        deadline = begun + 60
        while time.perf_counter() < deadline:
            try:
                if post(port, "/")[1] == 200:
                    break
            except (OSError, http.client.HTTPException):
                time.sleep(0.002)
        took = time.perf_counter() - begun
        self.remove(child.communicate()[0].strip())
        return took

    def run(self, *command):
        """A container that goes on: (its name, its address)."""
        name = output("docker", "run", "-d", "--rm", "--cpus", "1", "--memory", "256m", self.reference, *command)
        address = output("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name)
        for _ in range(3000):
            try:
                if post(8081, "/", address)[1] == 200:
                    return name, address
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)
        raise Failed(f"nothing answers in the container of {self.reference}")

    def remove(self, name):
        output("docker", "rm", "-f", name)

    def forget(self):
        subprocess.run(["docker", "rmi", "-f", self.reference], capture_output=True)


class Nginx:
    """nginx as a plain proxy with kept-alive connections to one container."""

    def __init__(self, work, address, port):
        self.port = free_port()
        folder = pathlib.Path(tempfile.mkdtemp(dir=work))
        (folder / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f;\n"
            "uwsgi_temp_path %s/u; scgi_temp_path %s/s; keepalive_requests 1000000000;\n"
            "upstream function { server %s:%d; keepalive 128; keepalive_requests 1000000000; }\n"
            "server { listen 127.0.0.1:%d; location / { proxy_pass http://function; proxy_http_version 1.1;\n"
            "proxy_set_header Connection ''; } } }\n" % (*[folder] * 5, address, port, self.port)
        )
        self.child = subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"])
        for _ in range(500):
            try:
                if post(self.port, "/")[1] == 200:
                    return
            except OSError:
                time.sleep(0.01)
        raise Failed("nginx does not start")

    def stop(self):
        self.child.terminate()
        self.child.wait()


def wrk(url, connections, seconds, work, paths=None):
    """{rate, p50, p99 (ms)}; with `paths` each request is for the next of them."""
    script = work / "post.lua"
    turn = "" if not paths else (
        "local paths = {%s}\nlocal at = 0\nrequest = function()\n  at = at %% #paths + 1\n"
        "  return wrk.format(nil, paths[at])\nend\n" % ",".join(f'"{path}"' for path in paths)
    )
    script.write_text(
        'wrk.method = "POST"\nwrk.body = [[%s]]\nwrk.headers["Content-Type"] = "application/json"\n%s'
        'done = function(summary, latency)\n  io.write(string.format("FOUND %%d %%d %%d %%d %%d\\n", summary.requests,'
        ' summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.read'
        ' + summary.errors.connect + summary.errors.timeout))\nend\n' % (BODY.decode(), turn)
    )
    said = output("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script, url)
    requests, duration, p50, p99, errors = map(int, re.search(r"FOUND (\d+) (\d+) (\d+) (\d+) (\d+)", said).groups())
    if errors:
        raise Failed(f"{errors} of {requests} calls of {url} failed")
    return {"rate": requests / duration * 1e6, "p50": p50 / 1e3, "p99": p99 / 1e3}


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


class Bench:
    """What the pieces share, made when first asked for."""

    def __init__(self, arguments, work):
        self.arguments, self.work = arguments, work
        self.registry, self.bases = Registry(work), (pathlib.Path(arguments.data_dir) / "bases").resolve()
        self.servers, self._docker = [], None

    def server(self, *flags):
        server = Server(self.arguments.fnbuild, self.registry, self.bases, *flags)
        self.servers.append(server)
        return server.start()

    def docker(self, pushed):
        self._docker = self._docker or Docker(pushed["reference"])
        return self._docker

    def stop(self):
        for server in self.servers:
            server.stop()
        if self._docker:
            self._docker.forget()
        self.registry.stop()


def cold(bench):
    """First answers: with a pool, without, after a death, and docker's."""
    full, none = bench.server("--pool=2", "--idle-time=1s"), bench.server("--pool=0", "--idle-time=1s")
    pushed = full.push("hello")
    none.push("hello")
    docker = bench.docker(pushed)
    paths = {server: server.copies("cold", "hello", 5) for server in (full, none)}
    full.push("mortal")
    full.run("scale", "mortal", "1")
    calls, taken = bench.arguments.calls, {"pool": [], "plain": [], "death": [], "docker": []}
    full.pool_is_full(2)
    every = max(1, calls // bench.arguments.slow_calls)
    for number in range(calls):
        begun = time.monotonic()
        taken["pool"].append(called(full.port, paths[full][number % 5], cold=True))
        if number % every == 0:
            time.sleep(max(0, begun + 2 - time.monotonic()))
            taken["plain"].append(called(none.port, paths[none][number // every % 5], cold=True))
            taken["docker"].append(docker.first_answer())
            called(full.port, "/function/mortal")
            kill(full.replica("mortal"))
            taken["death"].append(called(full.port, "/function/mortal"))
            begun = time.monotonic()
            full.pool_is_full(2)
        time.sleep(max(0, begun + 2 - time.monotonic()))
    reference = statistics.median(taken["docker"])
    titles = {"pool": "no replica, pool full", "plain": "no replica, no pool", "death": "the replica was killed a moment before",
              "docker": "`docker run` of the same image"}
    yield "| first answer, connect to last byte | calls | p50 | p99 | slowest | docker ÷ it (p50) | it ÷ docker |"
    yield "|---|---|---|---|---|---|---|"
    for name, values in taken.items():
        p50 = statistics.median(values)
        yield (f"| {titles[name]} | {len(values)} | {p50 * 1e3:.1f} ms | {percentile(values, 0.99) * 1e3:.1f} ms "
               f"| {max(values) * 1e3:.1f} ms | {reference / p50:.1f} | {p50 / reference:.2f} |")


def kill(replica):
    """SIGKILL, and nothing listens any more when this returns: what it still accepted would be a call in flight."""
    address, port, pid = replica
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            return


def burst(bench):
    """Ten functions called at once, with a pool of two."""
    server = bench.server("--pool=2", "--idle-time=1s")
    server.push("hello")
    paths = server.copies("burst", "hello", 10)
    rounds = []
    for _ in range(5):
        time.sleep(3)
        server.pool_is_full(2)
        with concurrent.futures.ThreadPoolExecutor(10) as crowd:
            rounds.append(sorted(crowd.map(lambda path: called(server.port, path), paths)))
    yield "| ten functions without a replica called at once, pool of 2 | median of 5 rounds |"
    yield "|---|---|"
    for title, at in (("the fastest answer", 0), ("the third (the pool is empty)", 2), ("the slowest", -1)):
        yield f"| {title} | {statistics.median(times[at] for times in rounds) * 1e3:.0f} ms |"


def warm(bench):
    """Warm calls through the trigger, through nginx, and of the container itself."""
    server = bench.server("--pool=0")
    server.push("hello", "--max-scale", "1", "--min-scale", "1", "--concurrency", "1000")
    called(server.port, "/function/hello")
    address, port, _ = server.replica("hello")
    nginx = Nginx(bench.work, address, port)
    urls = {"direct": f"http://{address}:{port}/", "trigger": f"http://127.0.0.1:{server.port}/function/hello",
            "nginx": f"http://127.0.0.1:{nginx.port}/"}
    try:
        found = {(name, connections): [] for name in urls for connections in (1, 8, 64)}
        wrk(urls["direct"], 8, 2, bench.work)
        for number in range(bench.arguments.rounds):
            names = list(urls)
            for connections in (1, 8, 64):
                for name in names[number % 3:] + names[:number % 3]:
                    found[name, connections].append(wrk(urls[name], connections, 3, bench.work))
    finally:
        nginx.stop()
    middle = lambda name, connections, key: statistics.median(run[key] for run in found[name, connections])
    titles = {"direct": "the container itself", "trigger": "**through fnbuild's trigger**", "nginx": "through nginx, a plain proxy"}
    yield f"| 1 connection, {bench.arguments.rounds} rounds | p50 | added | p99 | added |"
    yield "|---|---|---|---|---|"
    for name in urls:
        p50, p99 = middle(name, 1, "p50"), middle(name, 1, "p99")
        yield (f"| {titles[name]} | {p50:.3f} ms | {p50 - middle('direct', 1, 'p50'):+.3f} ms "
               f"| {p99:.3f} ms | {p99 - middle('direct', 1, 'p99'):+.3f} ms |")
    yield "\n| calls in a second | 1 connection | 8 connections | 64 connections |"
    yield "|---|---|---|---|"
    for name in urls:
        cells = []
        for connections in (1, 8, 64):
            rate = middle(name, connections, "rate")
            # Round by round: what the machine did in one round hit both.
            parts = [a["rate"] / b["rate"] for a, b in zip(found[name, connections], found["direct", connections])]
            cells.append(f"{rate:,.0f} ({statistics.median(parts):.0%})")
        yield f"| {titles[name]} | {' | '.join(cells)} |"


def flask(bench):
    """The runtime against Flask's own server, in the same container."""
    server = bench.server("--pool=0")
    docker = bench.docker(server.push("hello"))
    ours, address = docker.run()
    theirs, other = docker.run("python3", "-c", FLASKS_OWN)
    try:
        found = {"runtime": [], "flask": []}
        for _ in range(bench.arguments.rounds):
            for name, host in (("runtime", address), ("flask", other)):
                found[name].append(wrk(f"http://{host}:8081/", 8, 4, bench.work))
    finally:
        docker.remove(ours)
        docker.remove(theirs)
    middle = lambda name, key: statistics.median(run[key] for run in found[name])
    yield "| hello-JSON, 8 connections, 1 CPU | calls in a second | against Flask's own | p50 | p99 |"
    yield "|---|---|---|---|---|"
    for name, title in (("runtime", "**the runtime**"), ("flask", "Flask's own server")):
        parts = [a["rate"] / b["rate"] for a, b in zip(found[name], found["flask"])]
        yield (f"| {title} | {middle(name, 'rate'):,.0f} | {statistics.median(parts):.1f} × "
               f"| {middle(name, 'p50'):.2f} ms | {middle(name, 'p99'):.2f} ms |")


def many(bench):
    """200 functions: all at once from zero, then in turn."""
    server = bench.server("--pool=2", "--idle-time=300s")
    server.push("hello")
    count = bench.arguments.functions
    paths = server.copies("many", "hello", count)
    available = lambda: int(re.search(r"MemAvailable:\s+(\d+)", open("/proc/meminfo").read())[1]) / 2**20
    server.pool_is_full(2)
    before, least, over = available(), [available()], threading.Event()

    def watch():
        while not over.wait(0.1):
            least.append(available())

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(count) as crowd:
        times = sorted(crowd.map(lambda path: called(server.port, path), paths))
    whole = time.perf_counter() - begun
    over.set()
    watcher.join()
    yield f"| {count} functions, one call each, at once, all at zero | |"
    yield "|---|---|"
    yield f"| all answered 200 within | {whole:.1f} s |"
    yield f"| half of them within | {statistics.median(times):.1f} s |"
    yield f"| memory taken at most | {before - min(least):.1f} GiB |"
    running = len(output("ctr", "-n", server.namespace, "tasks", "ls", "-q").split())
    # Those that had to make room are started again here, not in what follows.
    kept = paths[-min(count, running, 100):]
    for path in kept:
        called(server.port, path)
    url = f"http://127.0.0.1:{server.port}"
    single, turns = [], []
    for _ in range(3):
        single.append(wrk(url + kept[0], 8, 4, bench.work)["rate"])
        turns.append(wrk(url, 8, 4, bench.work, kept)["rate"])
    parts = statistics.median(a / b for a, b in zip(turns, single))
    yield f"| {len(kept)} of them called in turn, 8 connections | {statistics.median(turns):,.0f} calls/s, {parts:.0%} of one function called alone |"


def memory(bench):
    """What a replica takes, and the server with 2,000 functions recorded and 50 replicas."""
    server = bench.server("--pool=0", "--idle-time=300s")
    server.push("hello")
    server.child.terminate()
    server.child.wait()
    exported = server.data / "records.jsonl"
    server.run("store", "export", exported)
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    ours = next(line for line in lines if "function" in line)
    copies = [{"function": {**ours["function"], "name": f"copy-{number}"}} for number in range(1999)]
    # The last line says how many there are.
    lines[-1]["end"]["lines"] += len(copies)
    exported.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1] + copies + lines[-1:]))
    server.run("store", "import", exported)
    server.start()
    resident = lambda: int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.child.pid}/status").read())[1]) / 1024
    recorded = resident()
    with concurrent.futures.ThreadPoolExecutor(4) as crowd:
        list(crowd.map(lambda number: called(server.port, f"/function/copy-{number}"), range(50)))
    tasks = output("ctr", "-n", server.namespace, "tasks", "ls").splitlines()[1:]
    shares = [share(line.split()[1]) for line in tasks]
    yield "| memory | |"
    yield "|---|---|"
    yield f"| a warm replica: proportional set size of the container's processes, median of {len(shares)} | {statistics.median(shares):.1f} MiB |"
    yield f"| the server, 2,000 functions recorded, no replica | {recorded:.1f} MiB resident |"
    yield f"| the server, 2,000 functions recorded, {len(shares)} replicas | {resident():.1f} MiB resident |"
    alone = bench.server("--pool=0", "--idle-time=1s")
    alone.push("hello")
    called(alone.port, "/function/hello")
    pid = alone.replica("hello")[2]
    yield f"| a replica alone on the machine, nobody to share pages with | {share(pid):.1f} MiB |"
    deadline = time.monotonic() + 30
    left = "?"
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = output("ctr", "-n", alone.namespace, "tasks", "ls", "-q")
    yield f"| a function scaled to zero: processes | {len(left.split())} |"


def share(pid):
    return int(re.search(r"^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read(), re.M)[1]) / 1024


PIECES = {piece.__name__: piece for piece in (cold, burst, warm, flask, many, memory)}


def write(name, lines):
    """Into the page, in the place of what this piece wrote before."""
    text = TABLE.read_text() if TABLE.exists() else "# Benchmarks\n"
    begin, end = f"<!-- run {name}: written by scripts/bench run -->", f"<!-- run {name}: end -->"
    if begin not in text:
        if "\n## Answering\n" not in text:
            text = text.rstrip() + "\n\n## Answering\n"
        text = text.rstrip() + f"\n\n{begin}\n{end}\n"
    head, rest = text.split(begin, 1)
    TABLE.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"{', '.join(PIECES)}; all of them unless named")
    parser.add_argument("--calls", type=int, default=100, help="calls of the cold piece, two seconds apart")
    parser.add_argument("--slow-calls", type=int, default=12, help="how many of its rounds also run docker and the rest")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of warm and flask")
    parser.add_argument("--functions", type=int, default=200, help="functions of the piece many")
    parser.add_argument("--fnbuild", default=str(ROOT / "target/dist/fnbuild"))
    parser.add_argument("--data-dir", default=os.environ.get("FNBUILD_DATA_DIR", "/var/lib/fnbuild"), help="where the bases are")
    parser.add_argument("--print", action="store_true", help="print the tables, write no file")
    arguments = parser.parse_args()
    unknown = set(arguments.pieces) - set(PIECES)
    if unknown:
        parser.error(f"no such piece: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
    for name in arguments.pieces or PIECES:
        with tempfile.TemporaryDirectory(prefix="fnbuild-bench-") as folder:
            bench = Bench(arguments, pathlib.Path(folder))
            try:
                lines = [f"{time.strftime('%Y-%m-%d')}, {machine()}. {PIECES[name].__doc__}", ""]
                lines += PIECES[name](bench)
            finally:
                bench.stop()
        if arguments.print:
            print("\n".join(lines), flush=True)
        else:
            write(name, lines)
            print(f"{name}: done", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
