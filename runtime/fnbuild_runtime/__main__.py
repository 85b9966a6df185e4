"""`python3 -P -m fnbuild_runtime`: listen, load the function, answer until SIGTERM.

A plain start takes the entry point from FNBUILD_ENTRY; a warm one waits for it at a socket. From there on
both are the same.
"""

import os
import signal
import sys

from . import marks
from .listener import listen


def main():
    marks.set_up()
    port = os.environ.get("PORT", "8081")
    try:
        listener = listen(int(port))
    except (ValueError, OverflowError):
        sys.exit(f"PORT is {port!r}: not a port number")
    except OSError as error:
        sys.exit(f"cannot listen on port {port}: {os.strerror(error.errno or 0)}")
    # The port is open: now for what takes its time.
    from . import handover
    from .app import App, warm_up
    from .loading import CODE, LoadError, load
    from .server import Server, leave

    app = App()
    server = Server(listener, app)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    warm_up()
    path = handover.socket_in(CODE)
    try:
        entry = handover.receive(path) if path else os.environ.get("FNBUILD_ENTRY", "func:run")
    except handover.Refused as refused:
        print(refused, file=sys.stderr)
        # The server runs already: its threads must not see the interpreter go.
        leave(1)
    try:
        app.use(entry, load(entry))
    except LoadError as failure:
        app.fail(entry, failure)
    server.wait()
    leave(0)


main()
