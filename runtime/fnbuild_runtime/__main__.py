"""`python3 -P -m fnbuild_runtime`: listen, load the function, answer until SIGTERM.

A plain start takes the entry point from FNBUILD_ENTRY; a warm one waits for it at a socket. From there on
both are the same.
"""

import os
import signal
import sys

from . import handover
from .app import App
from .loading import CODE, LoadError, load
from .server import Server, leave, listen


def main():
    # A line reaches the log in one piece, and at once.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
    port = os.environ.get("PORT", "8081")
    try:
        listener = listen(int(port))
    except (ValueError, OverflowError):
        sys.exit(f"PORT is {port!r}: not a port number")
    except OSError as error:
        sys.exit(f"cannot listen on port {port}: {os.strerror(error.errno or 0)}")
    app = App()
    server = Server(listener, app)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    path = handover.socket_in(CODE)
    entry = handover.receive(path) if path else os.environ.get("FNBUILD_ENTRY", "func:run")
    try:
        app.use(entry, load(entry))
    except LoadError as failure:
        app.fail(entry, failure)
    server.wait()
    leave(0)


main()
