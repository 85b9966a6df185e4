"""The socket. Apart from `server`, so that it can be open before anything large is imported: who connects meanwhile waits
for the first answer instead of being refused, and need not ask again and again."""

import socket

BACKLOG = 1024


def listen(port):
    """A socket on every address, IPv6 too where there is any."""
    dual = socket.has_dualstack_ipv6()
    family, host = (socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=dual)
    # What is accepted inherits this; without it a small answer waits 40 ms for the ACK of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener
