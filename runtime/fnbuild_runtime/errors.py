"""Errors as the caller sees them: JSON, never 200, and marked with whose they are."""

import json
import sys
import traceback
from pathlib import Path

FUNCTION = "function"
PLATFORM = "platform"

_OURS = str(Path(__file__).parent)


class CallError(Exception):
    """A call that ends without an answer of the function's own."""

    def __init__(self, status, error_type, message, origin=FUNCTION, headers=()):
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.origin = origin
        self.headers = headers

    def answer(self, call_id):
        """Status, headers and body of the response."""
        headers = [
            ("Content-Type", "application/json"),
            ("X-Fnbuild-Error", self.origin),
            *self.headers,
        ]
        return self.status, headers, body(self.error_type, self.message, call_id)


def body(error_type, message, call_id):
    text = {"errorType": error_type, "errorMessage": message, "requestId": call_id}
    # ASCII: a lone surrogate in a message cannot be written as UTF-8.
    return json.dumps(text).encode("ascii")


def message_of(error):
    """The text of an exception, even of one whose `__str__` raises."""
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} whose text cannot be shown>"


def raised(error, call_id):
    """What the caller is told of an exception in the user's code; the log gets the traceback."""
    log(error, f"call {call_id} raised")
    return CallError(500, type(error).__name__, message_of(error))


def log(error, title):
    """Writes an exception to the log in one piece, without the frames of this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:
        lines = [f"{type(error).__name__}: {message_of(error)}\n"]
    sys.stderr.write(f"{title}\n{''.join(lines)}")
    sys.stderr.flush()
