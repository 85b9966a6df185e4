#!/usr/bin/env python3
"""From the save to the new answer: `fnbuild run` on a function whose file is written again and again.

The time is from before the file is opened for writing until a call, made over and over on one connection, gives the new answer:
what whoever saves and looks waits for at least. Every call in between must be answered too, by the version before. Needs root
and containerd.
"""
import argparse, http.client, os, pathlib, random, signal, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from run import ROOT, TABLE, Failed

BEGIN, END = "<!-- save: written by scripts/bench save -->", "<!-- save: end -->"


class Run:
    """`fnbuild run` with a data folder and a namespace of its own, on a function in `source`."""

    def __init__(self, arguments, folder):
        self.source, self.log = folder / "hello", folder / "log"
        self.source.mkdir()
        self.save(0)
        data = folder / "data"
        data.mkdir()
        (data / "bases").symlink_to((pathlib.Path(arguments.data_dir) / "bases").resolve())
        environment = {
            **os.environ, "FNBUILD_DATA_DIR": str(data), "FNBUILD_NAMESPACE": f"fnbuild-bench-{os.getpid()}",
        }
        self.child = subprocess.Popen(
            [arguments.fnbuild, "run", self.source], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=open(self.log, "w"),
        )
        url = self.child.stdout.readline().strip()
        if not url:
            raise Failed(f"fnbuild run does not start: {self.log.read_text()[-800:]}")
        self.path = "/" + url.split("/", 3)[3]
        self.connection = http.client.HTTPConnection(url.split("/")[2], timeout=60)

    def save(self, number):
        (self.source / "func.py").write_text(f"def run():\n    return {number}\n")

    def answer(self):
        try:
            answer = self.post()
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            # It was idle, or the answer before was an error: the server has closed the connection.
            self.connection.close()
            answer = self.post()
        body = answer.read().decode()
        return int(body) if answer.status == 200 else (answer.status, body)

    def post(self):
        self.connection.request("POST", self.path, b"{}", {"Content-Type": "application/json"})
        return self.connection.getresponse()

    def until(self, number, before):
        deadline = time.monotonic() + 60
        while (answer := self.answer()) != number:
            if answer != before and before is not None:
                raise Failed(f"in between it answered {answer}")
            if time.monotonic() > deadline:
                raise Failed(f"{number} is never answered: {self.log.read_text()[-800:]}")
            time.sleep(0.002)

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        self.child.wait(60)


def measured(arguments, folder):
    run = Run(arguments, folder)
    try:
        run.until(0, None)
        took = []
        for number in range(1, arguments.saves + 1):
            # Who writes code saves every few seconds; the pause also ends at no fixed place in anybody's rhythm.
            time.sleep(arguments.pause + random.random() / 2)
            begun = time.perf_counter()
            run.save(number)
            run.until(number, number - 1)
            took.append((time.perf_counter() - begun) * 1000)
    finally:
        run.stop()
    took.sort()
    yield f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} shared cores, {arguments.note}. {len(took)} saves, {arguments.pause:.0f} s apart."
    yield ""
    yield "| from the save to the new answer | |"
    yield "|---|---|"
    yield f"| median | {statistics.median(took):.0f} ms |"
    yield f"| 95 of 100 within | {took[int(len(took) * 0.95)]:.0f} ms |"
    yield f"| slowest | {took[-1]:.0f} ms |"
    yield f"| within 300 ms | {sum(time < 300 for time in took)} of {len(took)} |"


def write(lines):
    text = TABLE.read_text()
    if BEGIN not in text:
        text = text.rstrip() + f"\n\n## From a save to the new answer\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    TABLE.write_text(head + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END, 1)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=40)
    parser.add_argument("--pause", type=float, default=2, help="seconds between two saves")
    parser.add_argument("--fnbuild", default=str(ROOT / "target/dist/fnbuild"))
    parser.add_argument("--note", default="the `dist` build", help="what is to be said of the circumstances")
    parser.add_argument("--data-dir", default=os.environ.get("FNBUILD_DATA_DIR", "/var/lib/fnbuild"), help="where the bases are")
    parser.add_argument("--print", action="store_true", help="print the table, write no file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fnbuild-bench-") as folder:
        lines = list(measured(arguments, pathlib.Path(folder)))
    if arguments.print:
        print("\n".join(lines))
    else:
        write(lines)


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"error: {failure}")
