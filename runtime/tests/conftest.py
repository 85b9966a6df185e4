"""A function in a folder, and the real runtime that serves it, as a process of its own."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

RUNTIME = Path(__file__).parent.parent


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.pairs = [(name.lower(), value) for name, value in response.getheaders()]
        self.headers = dict(self.pairs)
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    def all(self, name):
        """Every value of a header that may come several times."""
        return [value for known, value in self.pairs if known == name]


class Running:
    """One runtime."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log_path = process, port, log

    @property
    def log(self):
        return self.log_path.read_text()

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def request(self, method, path, body=None, headers=None):
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())

    def call(self, arguments=None, **headers):
        """POST / with a JSON object, or with the bytes given."""
        body = arguments if isinstance(arguments, (bytes, type(None))) else json.dumps(arguments)
        return self.request("POST", "/", body, {"Content-Type": "application/json", **headers})

    def stop(self):
        """SIGTERM; gives the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for {what}"
        time.sleep(0.01)


@pytest.fixture
def serve(tmp_path):
    """`serve(source, **env)` writes func.py, starts the runtime, and waits until it answers."""
    started = []

    def start(source=None, files=None, ready=True, **env):
        code = tmp_path / "function"
        code.mkdir(exist_ok=True)
        for name, text in {**({"func.py": source} if source is not None else {}), **(files or {})}.items():
            place = code / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(textwrap.dedent(text))
        port = free_port()
        log = tmp_path / f"log-{port}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fnbuild_runtime"],
                cwd=code,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(RUNTIME),
                    "PYTHONUNBUFFERED": "1",
                    "FNBUILD_CODE": str(code),
                    "PORT": str(port),
                    **env,
                },
            )
        running = Running(process, port, log)
        started.append(process)
        if ready:
            wait_for(lambda: answers(running), "the runtime")
        return running

    yield start
    for process in started:
        process.kill()
        process.wait()


def answers(running):
    try:
        return running.request("GET", "/_/health").status != 503
    except ConnectionError:
        assert running.process.poll() is None, running.log
        return False
