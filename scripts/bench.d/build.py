#!/usr/bin/env python3
"""From a source to a pushed image: fnbuild, docker, buildah, umoci + skopeo, and the protocol's floor.

Every case runs all tools in turn, round after round, so that what else the machine does hits them alike; medians are
kept. A time is that of whole processes, from exec to exit, except for the floor, which has no start-up at all: it is
the requests themselves, on open connections. The peers are given an unpacked folder; unpacking is not held against them.

Memory is the largest RssAnon seen in /proc while the process runs (for several processes, the largest of them): pages
of a mapped file, which the kernel may drop, are not in it. A daemon's own memory is not in it either. It is looked at in
a round of its own, which is not timed: who reads a process's memory every two milliseconds slows it down.
"""
import argparse, gzip, hashlib, http.client, io, json, os, pathlib, random, re, shutil, socket, statistics, subprocess
import sys, tarfile, tempfile, threading, time, zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- build: written by scripts/bench build -->", "<!-- build: end -->"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Failed(Exception):
    pass


def machine():
    """What the figures were taken on: `2 cores (Intel Xeon Processor), Linux 6.1`."""
    said = dict(line.split(":", 1) for line in open("/proc/cpuinfo").read().splitlines() if ":" in line)
    model = next(words for name, words in said.items() if name.strip() in ("model name", "CPU part")).strip()
    kernel = ".".join(os.uname().release.split(".")[:2])
    return f"{os.cpu_count()} cores ({re.sub(r'[(](R|TM)[)]', '', model)}), Linux {kernel}"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def run(*commands, watched=False):
    """Runs commands one after the other: (seconds in all, largest RssAnon in KiB where that is watched)."""
    peak, seconds = 0, 0
    for command in commands:
        words = [str(word) for word in command]
        with tempfile.TemporaryFile() as log:
            begun = time.perf_counter()
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            watcher = Watcher(child.pid) if watched else None
            status = child.wait()
            seconds += time.perf_counter() - begun
            peak = max(peak, watcher.stop() if watched else 0)
            if status:
                log.seek(0)
                raise Failed(f"{command[0]} failed: {log.read().decode(errors='replace')[-800:]}")
    return seconds, peak


class Watcher(threading.Thread):
    """Reads a process's RssAnon every two milliseconds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.peak, self.over = f"/proc/{pid}/status", 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.002):
            try:
                with open(self.path) as status:
                    found = [line for line in status if line.startswith("RssAnon")]
            except OSError:
                return
            if found:
                self.peak = max(self.peak, int(found[0].split()[1]))

    def stop(self):
        self.over.set()
        self.join()
        return self.peak


class Registry:
    """A docker-registry of the benchmark's own."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host = f"localhost:{self.port}"
        config = folder / "registry.yml"
        config.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\nhttp: {{addr: '127.0.0.1:{self.port}'}}\n"
        )
        self.child = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.01)
        raise Failed("docker-registry does not start")

    def stop(self):
        self.child.terminate()
        self.child.wait()


class Floor:
    """What the protocol takes when everything else is free: raw requests on two open connections."""

    def __init__(self, registry, base):
        self.connections = [self.connect(registry) for _ in range(2)]
        manifest = json.loads(self.ask(0, "GET", f"/v2/fnbuild/base/manifests/{base}", headers={"Accept": MANIFEST})[2])
        self.layers = manifest["layers"]
        self.config = json.loads(self.ask(0, "GET", f"/v2/fnbuild/base/blobs/{manifest['config']['digest']}")[2])
        for layer in self.layers:
            self.ask(0, "POST", f"/v2/fn/floor/blobs/uploads/?mount={layer['digest']}&from=fnbuild/base")

    @staticmethod
    def connect(registry):
        connection = http.client.HTTPConnection("127.0.0.1", registry.port)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, which, method, path, body=None, headers=None):
        self.connections[which].request(method, path, body, headers or {})
        answer = self.connections[which].getresponse()
        return answer.status, answer.getheader("Location"), answer.read()

    def upload(self, which, blob, name):
        _, location, _ = self.ask(which, "POST", "/v2/fn/floor/blobs/uploads/")
        path = "/" + location.split("://", 1)[-1].split("/", 1)[-1]
        status, _, said = self.ask(which, "PUT", f"{path}&digest={name}", blob)
        if status != 201:
            raise Failed(said.decode())

    def change(self):
        """The three requests: POST and PUT for layer and config side by side, then the manifest."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry = tarfile.TarInfo("function/func.py")
            entry.size = 1024
            archive.addfile(entry, io.BytesIO(os.urandom(1024)))
        layer = gzip.compress(tar.getvalue(), 1)
        config = dict(self.config, rootfs=dict(self.config["rootfs"]))
        config["rootfs"]["diff_ids"] = config["rootfs"]["diff_ids"] + [digest(tar.getvalue())]
        config = json.dumps(config).encode()
        describe = lambda kind, blob: {"mediaType": kind, "digest": digest(blob), "size": len(blob)}
        begun = time.perf_counter()
        other = threading.Thread(target=self.upload, args=(1, config, digest(config)))
        other.start()
        self.upload(0, layer, digest(layer))
        other.join()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": describe("application/vnd.oci.image.config.v1+json", config),
            "layers": self.layers + [describe("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        }).encode()
        status, _, said = self.ask(0, "PUT", "/v2/fn/floor/manifests/latest", manifest, {"Content-Type": MANIFEST})
        took = time.perf_counter() - begun
        if status != 201:
            raise Failed(said.decode())
        return took, 0

    def send(self, blob):
        """One PUT of the ready blob, and its SHA-256."""
        begun = time.perf_counter()
        self.upload(0, blob, digest(blob))
        return time.perf_counter() - begun, 0

    def again(self, file):
        """SHA-256 of the file, and one HEAD."""
        begun = time.perf_counter()
        with open(file, "rb") as source:
            hashlib.file_digest(source, "sha256")
        self.ask(0, "HEAD", "/v2/fn/floor/manifests/latest", headers={"Accept": MANIFEST})
        return time.perf_counter() - begun, 0


class Tools:
    """One method for each tool: a folder (or a zip) in, an image in the registry out."""

    def __init__(self, arguments, registry, work):
        self.fnbuild, self.data, self.base = arguments.fnbuild, arguments.data_dir, arguments.base
        self.registry, self.work, self.peers = registry, work, set(arguments.peers.split(","))
        self.watched = False
        if shutil.which("umoci"):
            shutil.copytree(pathlib.Path(self.data) / "bases", work / "layout", symlinks=True)

    def names(self):
        programs = {"docker": ["docker"], "buildah": ["buildah"], "umoci_skopeo": ["umoci", "skopeo"]}
        there = [name for name, needs in programs.items() if all(map(shutil.which, needs))]
        return ["fnbuild_push"] + [name for name in there if name in self.peers]

    def fnbuild_push(self, name, archive, _folder):
        return run(
            [self.fnbuild, "push", archive, "--image-only", "--name", name, "--registry", self.registry.host,
             "--data-dir", self.data, "--base", self.base, "--max-source", "1Gi", "--max-unpacked", "1Gi"],
            watched=self.watched,
        )

    def dockerfile(self, folder):
        file = self.work / "Dockerfile"
        file.write_text(f"FROM {self.registry.host}/fnbuild/base:{self.base}\nCOPY . /function\n")
        return file

    def docker(self, name, _archive, folder):
        image = f"{self.registry.host}/peer/docker-{name}"
        return run(
            ["docker", "build", "-q", "-t", image, "-f", self.dockerfile(folder), folder], ["docker", "push", "-q", image],
            watched=self.watched,
        )

    def buildah(self, name, _archive, folder):
        image = f"{self.registry.host}/peer/buildah-{name}"
        return run(
            ["buildah", "bud", "-q", "--layers", "--isolation", "chroot", "--tls-verify=false", "-t", image,
             "-f", self.dockerfile(folder), folder],
            ["buildah", "push", "-q", "--tls-verify=false", image],
            watched=self.watched,
        )

    def umoci_skopeo(self, name, _archive, folder):
        layout = f"{self.work / 'layout'}"
        return run(
            ["umoci", "insert", "--image", f"{layout}:{self.base}", "--tag", name, folder, "/function"],
            ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{name}",
             f"docker://{self.registry.host}/peer/umoci-{name}:latest"],
            watched=self.watched,
        )


def tree(folder, files, size, rng):
    """`files` files that come to about `size` bytes and deflate to about seven tenths of that."""
    each = size // files
    for number in range(files):
        path = folder / f"package{number % 97}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.randbytes(int(each * 0.70))
        path.write_bytes(noise + b"# filler\n" * ((each - len(noise)) // 9))
    (folder / "func.py").write_text("def run(x, y):\n    return x + y\n")


def pack(folder, archive):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, path.relative_to(folder))


def change(folder, archive, number):
    """Another source than in the round before: one file more, in both forms."""
    text = f"STAMP = '{number}-{os.urandom(8).hex()}'\n"
    (folder / "stamp.py").write_text(text)
    if archive.suffix == ".py":
        archive.write_text(text + "def run(x, y):\n    return x + y\n" + "#" * 900 + "\n")
        shutil.copy(archive, folder / "func.py")
        return
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as out:
        out.writestr(f"stamps/s{number}_{os.urandom(4).hex()}.py", text)


def measure(tools, floor, case, rounds, make):
    """{tool: [(seconds, KiB)]}, the tools in turn in each round, beginning with another one each time. Memory is in the last."""
    names = ["floor"] + tools.names()
    taken = {name: [] for name in names}
    for number in range(rounds + 1):
        archive, folder = make(number)
        tools.watched = number == rounds
        for name in names[number % len(names):] + names[:number % len(names)]:
            work = (lambda: floor(archive)) if name == "floor" else (lambda: getattr(tools, name)(case, archive, folder))
            taken[name].append(work())
            time.sleep(0.05)
    tools.watched = False
    return taken


def table(title, taken):
    middle = {name: statistics.median(seconds for seconds, _ in runs[:-1]) * 1e3 for name, runs in taken.items()}
    ours = middle["fnbuild_push"]
    yield f"**{title}** ({time.strftime('%Y-%m-%d')}, {machine()}, {len(taken['floor']) - 1} rounds)\n"
    yield "| | median | fastest | slowest | against fnbuild | peak memory |"
    yield "|---|---|---|---|---|---|"
    for name, runs in taken.items():
        seconds = [second * 1e3 for second, _ in runs[:-1]]
        memory = runs[-1][1] / 1024
        shown = "–" if name == "floor" else f"{memory:.0f} MiB"
        label = {"fnbuild_push": "fnbuild push", "umoci_skopeo": "umoci + skopeo", "floor": "*floor*",
                 "docker": "docker build + push", "buildah": "buildah bud + push"}[name]
        yield (f"| {label} | {middle[name]:.1f} ms | {min(seconds):.1f} | {max(seconds):.1f} "
               f"| {middle[name] / ours:.2f} × | {shown} |")
    told = f"\nfnbuild takes {ours / middle['floor']:.2f} × the floor"
    yield told + (f"; docker takes {middle['docker'] / ours:.1f} × as long as fnbuild." if "docker" in middle else ".")


def cases(tools, floor, wanted, work):
    """(title, name, the floor's own work, what makes the next round's source), one case after the other."""
    rng = random.Random(7)

    def prepared(name, files, size):
        folder, archive = work / name, work / f"{name}.zip"
        folder.mkdir()
        tree(folder, files, size, rng)
        pack(folder, archive)
        return folder, archive

    def fresh(folder, archive):
        def make(number):
            change(folder, archive, number)
            return archive, folder
        return make

    def send(path):
        return floor.send(path.read_bytes())

    if "small" in wanted:
        small, file = work / "small", work / "func.py"
        small.mkdir()
        make = fresh(small, file)
        tools.fnbuild_push("small", *make(-1))
        yield "1 KB change", "small", lambda _: floor.change(), make
    if {"large", "again"} & wanted:
        folder, archive = prepared("large", 2851, 68 << 20)
        if "large" in wanted:
            yield "a fresh 50 MB zip", "large", send, fresh(folder, archive)
        if "again" in wanted:
            for tool in tools.names():
                getattr(tools, tool)("large", archive, folder)
            time.sleep(3)  # As long as fnbuild takes a file for too young to know it by its time.
            tools.fnbuild_push("large", archive, folder)
            yield "the same zip again", "large", floor.again, lambda _: (archive, folder)
            # A new time, the same bytes: what is left when the zip has to be hashed.
            touched = lambda _: (archive.touch(), (archive, folder))[1]
            yield "the same zip again, touched", "large", floor.again, touched
    if "many" in wanted:
        folder, archive = prepared("many", 46_000, 270 << 20)
        yield "a fresh 200 MB zip of 46,000 files", "many", send, fresh(folder, archive)


def write(lines):
    """Replaces the table of the same title, or adds one."""
    text = TABLE.read_text() if TABLE.exists() else "# Benchmarks\n"
    if BEGIN not in text:
        text = text.rstrip() + f"\n\n## Build and push\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    block, rest = rest.split(END, 1)
    title = lines[0].split("**")[1]
    tables = [table for table in ("\n" + block.strip()).split("\n**") if table.strip()]
    tables = {table.split("**")[0]: "**" + table.strip() for table in tables}
    tables[title] = "\n".join(lines)
    TABLE.write_text(head + BEGIN + "\n" + "\n\n".join(tables.values()) + "\n" + END + rest)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", default="small,large,again,many", help="of small, large, again, many")
    parser.add_argument("--peers", default="docker,buildah,umoci_skopeo", help="of docker, buildah, umoci_skopeo")
    parser.add_argument("--fnbuild", default=str(ROOT / "target/dist/fnbuild"))
    parser.add_argument("--data-dir", default=os.environ.get("FNBUILD_DATA_DIR", "/var/lib/fnbuild"))
    parser.add_argument("--base", default="python3.11-flask2.3")
    parser.add_argument("--print", action="store_true", help="print the tables, write no file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fnbuild-bench-") as folder:
        work = pathlib.Path(folder)
        registry = Registry(work)
        try:
            tools = Tools(arguments, registry, work)
            # The first push brings the base to the registry, from where the peers and the floor take it.
            (work / "first.py").write_text("def run():\n    pass\n")
            tools.fnbuild_push("first", work / "first.py", None)
            floor = Floor(registry, arguments.base)
            floor.change()
            for title, case, lowest, make in cases(tools, floor, set(arguments.cases.split(",")), work):
                lines = list(table(title, measure(tools, lowest, case, arguments.rounds, make)))
                if arguments.print:
                    print("\n".join(lines), end="\n\n", flush=True)
                else:
                    write(lines)
                    print(f"{title}: {lines[-1].strip()}", file=sys.stderr)
        finally:
            registry.stop()


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
