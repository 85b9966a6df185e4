"""How a warm container, which was started without a function, is given one. Once.

The host makes a unix socket and names it in FNBUILD_POOL_SOCKET. The runtime connects and reads one JSON line,
`{"env": {NAME: VALUE or null}, "entry": "module:function"}`, answers `{"ok": true}` or `{"error": TEXT}`, and closes its
end before any of the user's code is imported. Secrets come as env or as files, like in a plain start.
"""

import json
import os
import socket

VARIABLE = "FNBUILD_POOL_SOCKET"
_MAX_LINE = 8 << 20


def receive(path):
    """Waits for a function, puts its environment in place, and gives its entry point."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(path)
        with channel.makefile("rb") as lines:
            line = lines.readline(_MAX_LINE + 1)
        try:
            env, entry = _understood(line)
        except (ValueError, KeyError, TypeError) as error:
            channel.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
            raise SystemExit(f"handover: {error}") from None
        channel.sendall(b'{"ok": true}\n')
    os.environ.pop(VARIABLE, None)
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
