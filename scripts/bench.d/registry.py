#!/usr/bin/env python3
"""The embedded registry beside docker-registry, in one run: the figures of docs/benchmarks.md, part "registry".

Both registries get the same requests, one after the other, on loopback and on the same disk; large blobs in turn. The load
comes from processes of this script that send prepared bytes over raw sockets; medians are compared. Needs docker-registry
(Debian) and the program of scripts/dist; for the push also a data folder with the default base.
"""
import argparse, hashlib, json, multiprocessing, os, pathlib, re, shutil, socket, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from build import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- registry: written by scripts/bench registry -->", "<!-- registry: end -->"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Connection:
    """HTTP/1.1 over one socket: little enough that the server is what is measured."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def send(self, method, path, body=b"", headers=""):
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        if len(body) < 65536:
            self.socket.sendall(head.encode() + body)
        else:
            self.socket.sendall(head.encode())
            self.socket.sendall(body)
        return self.answer(method)

    def answer(self, method, keep=True):
        data = self.rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed")
            data += more
        head, data = data[:end].decode("latin-1"), data[end + 4:]
        lines = head.split("\r\n")
        status = int(lines[0].split()[1])
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
        length = int(headers.get("content-length", 0)) if method != "HEAD" and status not in (204, 304) else 0
        if headers.get("transfer-encoding") == "chunked":
            raise ValueError("a chunked answer")
        taken = len(data)
        body = [data] if keep else []
        if not hasattr(self, "buffer"):
            self.buffer = bytearray(1 << 20)
        while taken < length:
            n = self.socket.recv_into(self.buffer, min(len(self.buffer), length - taken))
            if not n:
                raise ConnectionError("closed")
            taken += n
            if keep:
                body.append(bytes(self.buffer[:n]))
        joined = b"".join(body)
        self.rest = joined[length:] if keep else b""
        return status, headers, joined[:length]

    def drop(self, path):
        """A GET whose body is thrown away."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        return self.answer("GET", keep=False)

    def push_blob(self, name, content, digest):
        status, headers, _ = self.send("POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202, status
        location = re.sub(r"^https?://[^/]+", "", headers["location"])
        location += ("&" if "?" in location else "?") + "digest=" + digest
        status, _, body = self.send("PUT", location, content, "Content-Type: application/octet-stream\r\n")
        assert status == 201, (status, body)

    def push_manifest(self, name, tag, content):
        status, _, body = self.send("PUT", f"/v2/{name}/manifests/{tag}", content, f"Content-Type: {MANIFEST}\r\n")
        assert status == 201, (status, body)


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest(config, layer):
    part = lambda kind, content: {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(content), "size": len(content)}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": part("config.v1+json", config),
                       "layers": [part("layer.v1.tar", layer)]}).encode()


class Registry:
    """A registry of its own folder and port, ended with the block."""

    def __init__(self, kind, program):
        self.kind, self.program = kind, program

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="bench-registry-", dir=os.environ.get("BENCH_DIR"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self.kind == "fnbuild":
            command = [self.program, "registry", "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", self.folder]
        else:
            config = os.path.join(self.folder, "config.yml")
            with open(config, "w") as file:
                file.write(f"version: 0.1\nlog: {{accesslog: {{disabled: false}}, level: info}}\n"
                           f"storage: {{filesystem: {{rootdirectory: {self.folder}/data}}, delete: {{enabled: true}}}}\n"
                           f"http: {{addr: \"127.0.0.1:{self.port}\"}}\n")
            command = ["docker-registry", "serve", config]
        self.log = open(os.path.join(self.folder, "log"), "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                time.sleep(0.02)
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def memory(self, field="VmRSS"):
        """MiB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(rf"{field}:\s+(\d+)", file.read()).group(1)) / 1024

    def reset_peak(self):
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def stay_on(self, processor):
        """From here on it runs on this one alone, threads that it makes later included."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            os.sched_setaffinity(int(thread), [processor])

    def cpu(self):
        """Seconds."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_client(registry, rounds):
    connection, config = Connection(registry.port), b"{}"
    connection.push_blob("one/client", config, digest(config))
    blobs, manifests = [], []
    for _ in range(rounds):
        layer = os.urandom(1024)
        name, content = digest(layer), manifest(config, layer)
        blobs.append(timed(lambda: connection.push_blob("one/client", layer, name)))
        manifests.append(timed(lambda: connection.push_manifest("one/client", "t", content)))
    return statistics.median(blobs) * 1e3, statistics.median(manifests) * 1e3


def pusher(port, number, images, barrier, done):
    connection, config = Connection(port), b"{}"
    prepared = []
    for image in range(images):
        layer = os.urandom(2048)
        prepared.append((f"many/{number}-{image}", layer, digest(layer), manifest(config, layer)))
    barrier.wait()
    errors = 0
    for name, layer, layer_digest, content in prepared:
        try:
            connection.push_blob(name, config, digest(config))
            connection.push_blob(name, layer, layer_digest)
            connection.push_manifest(name, "latest", content)
        except (AssertionError, OSError) as error:
            errors += 1
            connection = Connection(port)
            print("a push failed:", error, file=sys.stderr)
    done.put(errors)


def many_clients(registry, images):
    """Images a second by 64 clients; nobody may see an error."""
    barrier, done = multiprocessing.Barrier(65), multiprocessing.Queue()
    clients = [multiprocessing.Process(target=pusher, args=(registry.port, n, images, barrier, done)) for n in range(64)]
    [client.start() for client in clients]
    barrier.wait()
    start = time.perf_counter()
    errors = sum(done.get() for _ in clients)
    took = time.perf_counter() - start
    [client.join() for client in clients]
    assert errors == 0, f"{errors} pushes failed"
    return 64 * images / took


def large(registries, options):
    """PUT and GET of 1 GB: MB/s and MiB, then wall and CPU seconds by number of clients; of each registry, in turn."""
    size, rounds = (64, 1) if options.quick else (1000, 3)
    found, puts = [{} for _ in registries], [[] for _ in registries]
    for registry in registries:
        registry.reset_peak()
    for _ in range(rounds):
        content = os.urandom(1_000_000) * size
        name = digest(content)
        for registry, rates in zip(registries, puts):
            # What the one before has written is not this one's to wait for.
            os.sync()
            time.sleep(3)
            rates.append(len(content) / timed(lambda: Connection(registry.port).push_blob("large/put", content, name)) / 1e6)
    del content
    for registry, figures, rates in zip(registries, found, puts):
        figures["put"], figures["put memory"] = statistics.median(rates), registry.memory("VmHWM")
    for clients, rounds in ((1, 11), (16, 5)):
        taken = [[large_get(registry, name, clients) for registry in registries] for _ in range(1 if options.quick else rounds)]
        for figures, rows in zip(found, zip(*taken)):
            walls, cpus = zip(*rows)
            figures[f"get {clients}"], figures[f"get cpu {clients}"] = statistics.median(walls), statistics.median(cpus)
    return found


def getter(port, path, begin, done):
    connection = Connection(port)
    begin.wait()
    status, _, _ = connection.drop(path)
    done.put(status)


def large_get(registry, name, clients):
    """Wall seconds and CPU seconds, from when all clients are there."""
    path = f"/v2/large/put/blobs/{name}"
    begin, done = multiprocessing.Barrier(clients + 1), multiprocessing.Queue()
    readers = [multiprocessing.Process(target=getter, args=(registry.port, path, begin, done)) for _ in range(clients)]
    [reader.start() for reader in readers]
    begin.wait()
    before, start = registry.cpu(), time.perf_counter()
    assert all(done.get() == 200 for _ in readers)
    wall, cpu = time.perf_counter() - start, registry.cpu() - before
    [reader.join() for reader in readers]
    return wall, cpu


def filler(port, numbers):
    connection, config = Connection(port), b"{}"
    name, content = digest(config), manifest(config, config)
    for number in numbers:
        repository = f"fill/{number:05}"
        status, _, _ = connection.send("POST", f"/v2/{repository}/blobs/uploads/?mount={name}&from=fill/seed")
        assert status == 201, status
        for tag in ("1", "2", "latest"):
            connection.push_manifest(repository, tag, content)


def fill(registry, count):
    """So many repositories with three tags each."""
    Connection(registry.port).push_blob("fill/seed", b"{}", digest(b"{}"))
    numbers = list(range(count))
    if registry.kind != "fnbuild":
        # A repository of docker-registry is a folder of links that does not know its own name. Pushing so many takes it
        # a quarter of an hour; what it answers afterwards is the same.
        filler(registry.port, numbers[:1])
        folder = pathlib.Path(registry.folder, "data/docker/registry/v2/repositories/fill")
        for number in numbers[1:]:
            shutil.copytree(folder / "00000", folder / f"{number:05}", copy_function=os.link)
        return
    fillers = [multiprocessing.Process(target=filler, args=(registry.port, numbers[n::16])) for n in range(16)]
    [process.start() for process in fillers]
    [process.join() for process in fillers]
    assert all(process.exitcode == 0 for process in fillers)


def repositories(kind, options):
    """Milliseconds of three questions to a registry with 20 repositories and to one with 20,000, asked in turn.

    Each answer is some 40 microseconds of work and two wake-ups, which take twice as long where they cross from one
    processor to the other. Which threads share one is a habit that the scheduler keeps for a whole run; so it is told:
    the client on the first, both servers on the last."""
    questions = (("GET", "/v2/fill/00010/tags/list"), ("GET", "/v2/_catalog?n=10"), ("HEAD", "/v2/fill/00010/manifests/latest"))
    with Registry(kind, options.fnbuild) as small, Registry(kind, options.fnbuild) as full:
        fill(small, 20)
        fill(full, 500 if options.quick else 20_000)
        processors = sorted(os.sched_getaffinity(0))
        small.stay_on(processors[-1])
        full.stay_on(processors[-1])
        os.sched_setaffinity(0, processors[:1])
        try:
            connections = [Connection(small.port), Connection(full.port)]
            taken = {(question, place): [] for question in questions for place in (0, 1)}
            for number in range(20 if options.quick else 500):
                for question in questions:
                    for place in (number % 2, 1 - number % 2):
                        start = time.perf_counter()
                        status, _, _ = connections[place].send(*question, b"", f"Accept: {MANIFEST}\r\n")
                        taken[question, place].append(time.perf_counter() - start)
                        assert status == 200, (question, status)
        finally:
            os.sched_setaffinity(0, processors)
        middle = [[statistics.median(taken[question, place]) * 1e3 for question in questions] for place in (0, 1)]
        return {"few": middle[0], "lots": middle[1], "filled": full.memory()}


def small(registry, options):
    time.sleep(2)
    found = {"idle": registry.memory()}
    found["blob"], found["manifest"] = one_client(registry, 50 if options.quick else 300)
    found["many"] = many_clients(registry, 4 if options.quick else 20)
    return found


def push(registry, options):
    """Milliseconds of `fnbuild push` as a whole process, after a change of 1 KB."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "func.py"
        command = [options.fnbuild, "push", source, "--image-only", "--registry", f"127.0.0.1:{registry.port}",
                   "--data-dir", options.data_dir, "--quiet"]

        def change():
            source.write_text(f"STAMP = '{os.urandom(16).hex()}'\ndef run(x, y):\n    return x + y\n" + "#" * 900 + "\n")
            return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))

        change()
        return {"push": statistics.median(change() for _ in range(10 if options.quick else 50)) * 1e3}


def measure(options):
    """What was found of docker-registry, and of ours."""
    kinds = ("docker-registry", "fnbuild")
    found = [{} for _ in kinds]
    for part, work in (("small", small), ("push", push)):
        if part in options.only:
            for kind, figures in zip(kinds, found):
                with Registry(kind, options.fnbuild) as registry:
                    figures.update(work(registry, options))
    if "large" in options.only:
        with Registry(kinds[0], options.fnbuild) as theirs, Registry(kinds[1], options.fnbuild) as ours:
            for figures, more in zip(found, large((theirs, ours), options)):
                figures.update(more)
    if "repositories" in options.only:
        for kind, figures in zip(kinds, found):
            figures.update(repositories(kind, options))
    return found


def rows(ours, theirs):
    """What was measured, as rows of the table."""

    def row(label, name, shown, goal, other=None):
        if name in ours:
            ratio = f"{ours[name] / max(theirs[name], 0.01):.2f}" if other is None else other
            yield label, shown(ours[name]), shown(theirs[name]), ratio, goal

    milliseconds, seconds = (lambda value: f"{value:.2f} ms"), (lambda value: f"{value:.2f} s")
    mebibytes = lambda value: f"{value:.1f} MiB"
    yield from row("POST + PUT of 1 KB, one client", "blob", milliseconds, "≤ 0.5")
    yield from row("manifest PUT, one client", "manifest", milliseconds, "≤ 0.5")
    yield from row("64 clients pushing small images", "many", lambda value: f"{value:.0f}/s", "≥ 3")
    yield from row("PUT of 1 GB", "put", lambda value: f"{value:.0f} MB/s", "≥ 1.3")
    yield from row("… resident memory at most", "put memory", mebibytes, "< 40 MiB", "")
    for clients in (1, 16):
        label = f"GET of 1 GB, {clients} client{'s' if clients > 1 else ''}"
        yield from row(label, f"get {clients}", seconds, "≤ 1")
        yield from row(f"{label}: CPU time", f"get cpu {clients}", seconds, "≤ 1.15")
    for place, what in enumerate(("tag list", "catalog page", "HEAD") if "lots" in ours else ()):
        shown = lambda found: f"{found['lots'][place]:.2f} ms = {found['lots'][place] / found['few'][place]:.2f} ×"
        yield (f"{what}: 20,000 repositories against 20", shown(ours), shown(theirs),
               f"{ours['lots'][place] / theirs['lots'][place]:.2f}", "1 ×")
    yield from row("idle resident memory", "idle", mebibytes, "≤ 0.5")
    yield from row("resident memory with 20,000 repositories", "filled", mebibytes, "")
    yield from row("`fnbuild push` of a 1 KB change, whole process", "push", milliseconds, "≤ 8 ms")


def write(lines):
    """Puts the rows into docs/benchmarks.md; those that were not measured this time stay."""
    page = TABLE.read_text() if TABLE.exists() else "# Benchmarks\n"
    if BEGIN not in page:
        page = page.rstrip() + f"\n\n## Registry\n\n{BEGIN}\n{END}\n"
    head, rest = page.split(BEGIN, 1)
    before, tail = rest.split(END, 1)
    rows = lambda lines: {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    kept = {**rows(lines[:2]), **rows(before.splitlines()), **rows(lines)}
    TABLE.write_text(f"{head}{BEGIN}\n{machine()}.\n\n" + "\n".join(kept.values()) + "\n" + END + tail)


def main():
    parts = ("small", "large", "repositories", "push")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer rounds: a look, not a measurement")
    parser.add_argument("--dry", action="store_true", help="leave docs/benchmarks.md as it is")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--fnbuild", default=str(ROOT / "target/dist/fnbuild"))
    parser.add_argument("--data-dir", default=os.environ.get("FNBUILD_DATA_DIR", "/var/lib/fnbuild"))
    options = parser.parse_args()
    theirs, ours = measure(options)
    today = time.strftime("%Y-%m-%d")
    lines = ["| work | fnbuild registry | docker-registry 2.8.2 | ratio | to reach | measured |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join((*row, today)) + " |" for row in rows(ours, theirs)]
    print("\n".join(lines))
    if not options.quick and not options.dry:
        write(lines)


if __name__ == "__main__":
    main()
