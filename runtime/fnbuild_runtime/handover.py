"""How a warm container, which was started without a function, is given one. Once.

Where the user's code would be, such a container has a folder with nothing but a unix socket in it; no layer of an image
can have one. The runtime connects and waits. The host, once it has put the code in the folder's place, writes one JSON
line, `{"env": {NAME: VALUE or null}, "entry": "module:function"}`. The runtime answers `{"ok": true}` or `{"error": TEXT}`
and closes its end before any of the user's code is imported: nothing of all this is left for a function to see.
"""

import json
import os
import socket
import stat

_NAME = ".fnbuild-pool"
_MAX_LINE = 8 << 20


class Refused(Exception):
    """What the host sent makes no sense."""


def socket_in(code):
    """The socket to wait at, or None where this is a plain start."""
    path = os.path.join(code, _NAME)
    try:
        return path if stat.S_ISSOCK(os.lstat(path).st_mode) else None
    except OSError:
        return None


def receive(path):
    """Waits for a function, puts its environment and the working folder in place, and gives its entry point.

    Raises Refused.
    """
    folder = os.getcwd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(path)
        with channel.makefile("rb") as lines:
            line = lines.readline(_MAX_LINE + 1)
        try:
            env, entry = _understood(line)
        except (ValueError, KeyError, TypeError) as error:
            channel.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
            raise Refused(f"handover: {error}") from None
        channel.sendall(b'{"ok": true}\n')
    # What the folder's name leads to is another one by now: the code.
    os.chdir(folder)
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return entry


def _understood(line):
    if not line.endswith(b"\n"):
        raise ValueError("expected one line of JSON")
    message = json.loads(line)
    env, entry = message["env"], message["entry"]
    if not isinstance(entry, str) or ":" not in entry:
        raise ValueError("entry is not module:function")
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + (value or ""):
            raise ValueError(f"env {name!r} cannot be set")
    return env, entry
