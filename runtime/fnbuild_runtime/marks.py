"""Which call a printed line belongs to.

Where whoever started the container asks for it (FNBUILD_MARK_CALLS), a line that is printed during a call begins with that
call's ID between two control characters; the host's log writer takes them off again. Nobody else sees them: a container
that is started by hand prints what the function prints.
"""

import contextvars
import io
import os
import sys

_BEGIN, _END = "\x1e", "\x1f"
# Of one line: what is longer is written in pieces.
_LONGEST = 8192
_current = contextvars.ContextVar("call", default=None)


class Call:
    """One call, while lines are marked for it: `with Call(id): …`."""

    def __init__(self, call_id):
        self.id = call_id
        self.mark = f"{_BEGIN}{call_id}{_END}"
        # By stream: the text of a line that has not ended, and whether its beginning is written already.
        self.lines = {}

    def __enter__(self):
        self._before = _current.set(self)
        return self

    def __exit__(self, *_):
        _current.reset(self._before)
        # A line belongs to one call: what was printed without an end ends here.
        for stream, (text, begun) in self.lines.items():
            if text or begun:
                stream.put(("" if begun else self.mark) + text + "\n")
        self.lines.clear()

    def around(self, pieces):
        """An iterator whose every step belongs to this call."""
        return _Around(self, pieces)


class _Around:
    def __init__(self, call, pieces):
        self._call, self._pieces = call, pieces

    def __iter__(self):
        return self

    def __next__(self):
        with self._call:
            return next(self._pieces)

    def close(self):
        with self._call:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()


class _Marked(io.TextIOWrapper):
    """A stream that marks the lines of calls, and writes each of them in one piece."""

    def put(self, text):
        super().write(text)
        super().flush()

    def write(self, text):
        call = _current.get()
        if call is None or not isinstance(text, str):
            return super().write(text)
        before, begun = call.lines.get(self, ("", False))
        *whole, rest = (before + text).split("\n")
        out = []
        for line in whole:
            out += ("" if begun else call.mark, line, "\n")
            begun = False
        if len(rest) > _LONGEST:
            out += ("" if begun else call.mark, rest)
            rest, begun = "", True
        call.lines[self] = rest, begun
        if out:
            super().write("".join(out))
            super().flush()
        return len(text)


def set_up():
    """Makes the streams whole lines', and marks them where that is asked for."""
    wanted = os.environ.pop("FNBUILD_MARK_CALLS", "")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if wanted:
            stream = _Marked(stream.detach(), encoding="utf-8", errors="backslashreplace", line_buffering=True)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        else:
            stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")
