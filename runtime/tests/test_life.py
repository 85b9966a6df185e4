"""Start, end, and what is the function's own in between."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading

import pytest

from conftest import RUNTIME, wait_for


def test_health_says_what_answers(serve):
    answer = serve("def run(): pass\n").request("GET", "/_/health")
    assert answer.status == 200
    assert answer.json["status"] == "ok" and answer.json["entry"] == "func:run"


def test_another_entry_in_a_package(serve):
    files = {"a/__init__.py": "", "a/b.py": "import os\nhere = __file__\ndef go():\n    return here\n"}
    running = serve(files=files, FNBUILD_ENTRY="a.b:go")
    assert running.call({}).json.endswith("/function/a/b.py")


@pytest.mark.parametrize("name", ["json", "flask", "calendar", "app"])
def test_a_file_may_have_the_name_of_a_module_that_is_loaded(serve, name):
    running = serve(files={f"{name}.py": "def run():\n    return __name__\n"}, FNBUILD_ENTRY=f"{name}:run")
    assert running.call({}).json == name


def test_packages_beside_the_code_are_found(serve):
    files = {".fnbuild/packages/dep.py": "VALUE = 7\n"}
    assert serve("import dep\ndef run():\n    return dep.VALUE\n", files=files).call({}).json == 7


def test_sigterm_finishes_what_is_in_flight(serve):
    running = serve(
        """
        import threading
        go = threading.Event()

        def run(wait=False):
            if wait:
                print("waiting")
                go.wait(1)
            return "done"
        """
    )
    connection = running.connect()
    connection.request("POST", "/", b'{"wait": true}')
    wait_for(lambda: "waiting" in running.log, "the call")
    running.process.terminate()
    assert json.load(connection.getresponse()) == "done"
    assert running.process.wait(10) == 0


def test_sigterm_ends_streams_and_threads_that_never_end(serve):
    running = serve(
        """
        import atexit, threading, time
        atexit.register(print, "exit handler")
        threading.Thread(target=lambda: time.sleep(3600)).start()

        def run():
            return 1
        """
    )
    assert running.call({}).json == 1
    assert running.stop() == 0
    assert "exit handler" in running.log


def test_a_taken_port_is_one_clear_line(serve):
    first = serve("def run(): pass\n")
    second = serve("def run(): pass\n", ready=False, PORT=str(first.port))
    assert second.process.wait(20) == 1
    assert second.log.strip() == f"cannot listen on port {first.port}: Address already in use"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="takes root and unshare")
def test_sigterm_ends_it_as_pid_1(tmp_path):
    (tmp_path / "func.py").write_text("def run(): return __import__('os').getpid()\n")
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME), "FNBUILD_CODE": str(tmp_path), "PORT": "0"}
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-P", "-m", "fnbuild_runtime"],
        env=environment,
        stderr=subprocess.PIPE,
    )
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    inside = []

    def caught():
        inside[:] = open(children).read().split()
        if not inside:
            return False
        status = open(f"/proc/{inside[0]}/status").read()
        mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
        return mask & 1 << 14

    wait_for(caught, "the signal handler")
    os.kill(int(inside[0]), 15)
    assert process.wait(10) == 0


class Host:
    """The host's end of a hand-over, in the folder where the code will be."""

    def __init__(self, code):
        code.mkdir(exist_ok=True)
        self.path = code / ".fnbuild-pool"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(1)

    def give(self, message):
        """Gives what the runtime answered, and then waits until it has closed its end."""
        channel, _ = self.listener.accept()
        os.unlink(self.path)
        with channel, channel.makefile("rb") as lines:
            channel.sendall(message + b"\n")
            answer = json.loads(lines.readline())
            assert lines.read() == b""
            return answer


SPY = """
import os, socket, sys

def sockets():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(fd))) as copy:
                if copy.family == socket.AF_UNIX:
                    found.append(copy.getpeername())
        except OSError:
            pass
    return found

AT_IMPORT = sockets()

def run():
    env = {k: v for k, v in os.environ.items() if k not in ("PORT", "FNBUILD_ENTRY")}
    return {"env": env, "path": sys.path, "argv": sys.argv, "cwd": os.getcwd(), "file": __file__,
            "sockets": AT_IMPORT, "secret": os.environ.get("SECRET")}
"""


def test_a_warm_start_is_like_a_plain_one(serve, tmp_path):
    plain = serve(SPY, SECRET="s")
    host = Host(tmp_path / "function")
    warm = serve(SPY, ready=False)
    wait_for(lambda: in_vain(warm), "the listener")
    message = json.dumps({"env": {"SECRET": "s"}, "entry": "func:run"}).encode()
    assert host.give(message) == {"ok": True}
    assert warm.call({}).json == plain.call({}).json


def test_a_call_before_the_hand_over_waits_for_it(serve, tmp_path):
    host = Host(tmp_path / "function")
    warm = serve("def run():\n    return 1\n", ready=False)
    wait_for(lambda: in_vain(warm), "the listener")
    assert warm.request("GET", "/_/health").status == 503
    early = []
    call = threading.Thread(target=lambda: early.append(warm.call({}).json))
    call.start()
    host.give(b'{"env": {}, "entry": "func:run"}')
    call.join(10)
    assert early == [1]


@pytest.mark.parametrize("message", [b"no json", b"{}", b'{"env": {"A=": "x"}, "entry": "func:run"}', b'{"env": {}, "entry": "x"}'])
def test_a_bad_hand_over_is_answered_and_ends_the_container(serve, tmp_path, message):
    host = Host(tmp_path / "function")
    warm = serve("def run():\n    return 1\n", ready=False)
    assert "error" in host.give(message)
    assert warm.process.wait(10) == 1


def in_vain(running):
    """Whether it listens: a health check is answered, with 503."""
    try:
        return running.request("GET", "/_/health").status == 503
    except ConnectionError:
        return False


TALKER = """
import asyncio, sys, threading
print("imported")

def run(how):
    print("one", end=" ")
    print("line")
    print("err", file=sys.stderr)
    if how == "thread":
        thread = threading.Thread(target=print, args=("nobody's",))
        thread.start()
        thread.join()
    if how == "raise":
        raise ValueError("no")
    if how == "stream":
        return (print(n) or str(n) for n in range(2))
    print("unfinished", end="")
"""


def test_lines_of_a_call_are_marked_where_that_is_asked_for(serve):
    marked = serve(TALKER, FNBUILD_MARK_CALLS="1")
    mark = lambda call, text: f"\x1e{call}\x1f{text}"
    marked.call({"how": "thread"}, **{"X-Call-Id": "a"})
    expected = ["imported", mark("a", "one line"), mark("a", "err"), "nobody's", mark("a", "unfinished")]
    lines = lambda: marked.log.removesuffix("\n").split("\n")
    assert lines() == expected
    marked.call({"how": "stream"}, **{"X-Call-Id": "b"})
    assert lines()[-2:] == [mark("b", "0"), mark("b", "1")]
    marked.call({"how": "raise"}, **{"X-Call-Id": "c"})
    trace = lines()[11:]
    assert trace[0] == mark("c", "call c raised") and trace[-1] == mark("c", "ValueError: no"), trace
    assert all(line.startswith("\x1ec\x1f") for line in trace)
    assert "\x1e" not in serve(TALKER).log


def test_a_line_without_an_end_is_marked_once_and_not_kept_in_memory(serve):
    code = "def run():\n    for _ in range(50):\n        print('x' * 1000, end='')\n    print()\n"
    running = serve(code, FNBUILD_MARK_CALLS="1")
    running.call({}, **{"X-Call-Id": "a"})
    assert running.log == "\x1ea\x1f" + "x" * 50_000 + "\n"


def test_a_health_check_can_wait_for_the_function(serve, tmp_path):
    host = Host(tmp_path / "function")
    warm = serve("def run():\n    return 1\n", ready=False)
    wait_for(lambda: in_vain(warm), "the listener")
    answers = []
    check = threading.Thread(target=lambda: answers.append(warm.request("GET", "/_/health?wait").status))
    check.start()
    host.give(b'{"env": {}, "entry": "func:run"}')
    check.join(10)
    assert answers == [200]
