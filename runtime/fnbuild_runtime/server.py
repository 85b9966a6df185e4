"""HTTP for a WSGI application: granian's worker, in this process.

granian's own command starts a process for each worker and one more above them. A container has one function and one
interpreter, so its worker is used alone: one process, less memory, and the process that answers is the one that loads.
"""

import asyncio
import os
import sys
import threading

from granian._futures import _new_cbscheduler
from granian._granian import SocketHolder, WorkerSignal, WSGIWorker

from .listener import BACKLOG

# Threads are made when calls are in flight, up to this many.
THREADS = 32
_IDLE_SECONDS = 30


class Server:
    """Answers on a socket from construction until `stop`, on threads of its own."""

    def __init__(self, listener, app):
        self._listener = listener
        self._signal = WorkerSignal()
        self._stopped = threading.Event()
        self._signal.add_cb(self._stopped.set)
        self._calls = _Calls(app)
        holder = (None, SocketHolder(listener.fileno(), False, BACKLOG))
        no_tls = (False, None, None, None, "tls1.3", None, [], False)
        worker = WSGIWorker(
            1, holder, None, 1, 1, THREADS, _IDLE_SECONDS, BACKLOG, "1", None, None, None, *no_tls, (None, None)
        )
        loop = asyncio.new_event_loop()
        worker.serve_mtr(_new_cbscheduler(loop, self._calls, impl_asyncio=True), loop, self._signal)

    def stop(self, *_signal):
        """Stops accepting; fit to be a signal handler."""
        self._signal.set()

    def wait(self):
        """Until `stop` was called and what was in flight is answered."""
        self._stopped.wait()
        self._calls.wait_idle()


class _Calls:
    """granian's callback: the WSGI protocol, and a count of what is in flight."""

    def __init__(self, app):
        self._app = app
        self._in_flight = 0
        self._idle = threading.Condition()
        self._environ = {
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
            "wsgi.errors": sys.stderr,
            # The server ends the body, so Werkzeug may read one that has no length.
            "wsgi.input_terminated": True,
            "wsgi.multiprocess": False,
            "wsgi.multithread": True,
            "wsgi.run_once": False,
            "wsgi.version": (1, 0),
        }

    def __call__(self, protocol, scope):
        with self._idle:
            self._in_flight += 1
        streams = False
        try:
            started = []
            content = self._app(self._environ | scope, lambda status, headers, _=None: started.extend((status, headers)))
            status, headers = int(started[0][:3]), started[1]
            if isinstance(content, list):
                protocol.response_bytes(status, headers, b"".join(content))
            else:
                streams = True
                protocol.response_iter(status, headers, _Stream(content, self._done))
            return status
        finally:
            if not streams:
                self._done()

    def _done(self):
        with self._idle:
            self._in_flight -= 1
            self._idle.notify_all()

    def wait_idle(self):
        with self._idle:
            self._idle.wait_for(lambda: self._in_flight == 0)


class _Stream:
    """A response's pieces, for granian. Tells once when it is over, however it ends."""

    def __init__(self, content, done):
        self._content = content
        self._next = iter(content).__next__
        self._done = done

    def __next__(self):
        try:
            return self._next()
        except BaseException:
            self._finish()
            raise

    def close(self):
        try:
            close = getattr(self._content, "close", None)
            if close is not None:
                close()
        finally:
            self._finish()

    def __del__(self):
        self._finish()

    def _finish(self):
        done, self._done = self._done, None
        if done is not None:
            done()


def leave(status):
    """Ends the process: exit handlers run, but a thread of the function's that never ends is not waited for."""
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    os._exit(status)
