"""From what a function returned to a response.

| returned | answered as |
|---|---|
| dict, list, str, number, bool, None, and what Flask's JSON knows (dates, UUID, Decimal, dataclasses) | JSON |
| bytes, bytearray, memoryview | `application/octet-stream` |
| a Flask or Werkzeug response | itself |
| a generator or another iterator of str or bytes | streamed, each piece at once; `text/plain` unless a header says otherwise |
| `(body, status)`, `(body, headers)`, `(body, status, headers)` | the body as above, with that status and those headers |

A tuple of any other shape is a JSON array.
"""

import json
from collections.abc import Iterator, Mapping

from flask.json.provider import DefaultJSONProvider
from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response

from .errors import CallError, log

_JSON = ("Content-Type", "application/json")
_default = DefaultJSONProvider.default
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default
).encode
_encode_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_default).encode


def answer(value):
    """Status, headers and body of a plain value; a Werkzeug response is given back as it is.

    The body is bytes, or an iterator of bytes. Raises a 500 that names the type of what cannot be answered.
    """
    if isinstance(value, Response):
        return value
    status, extra = 200, ()
    if isinstance(value, tuple) and (parts := _response_tuple(value)):
        value, status, extra = parts
        if isinstance(value, Response):
            value.status_code = status if status is not None else value.status_code
            value.headers.extend(extra)
            return value
        status = 200 if status is None else status
    if not extra:
        content_type, body = _body(value, None)
        headers = [content_type]
    else:
        headers = list(Headers(extra).items())
        declared = next((text for name, text in headers if name.lower() == "content-type"), None)
        content_type, body = _body(value, declared)
        if declared is None:
            headers.append(content_type)
    if status in (204, 304) or 100 <= status < 200:
        headers = [(name, text) for name, text in headers if name.lower() != "content-type" or extra]
        body = b""
    return status, headers, body


def _response_tuple(value):
    """`(body, status or None, headers)` if the tuple has one of Flask's shapes."""
    if len(value) == 2 and _is_status(value[1]):
        return value[0], value[1], ()
    if len(value) == 2 and isinstance(value[1], (Mapping, Headers)):
        return value[0], None, value[1]
    if len(value) == 3 and _is_status(value[1]) and isinstance(value[2], (Mapping, Headers, list, tuple)):
        return value
    return None


def _is_status(value):
    return isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599


def _body(value, declared):
    """The default content type and the bytes of a value, given the content type that the function declared."""
    if isinstance(value, str) and declared is not None and not _is_json(declared):
        return _JSON, value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return ("Content-Type", "application/octet-stream"), bytes(value)
    if isinstance(value, Iterator):
        return ("Content-Type", "text/plain; charset=utf-8"), _pieces(value)
    try:
        return _JSON, _json(value)
    except (TypeError, ValueError, RecursionError) as error:
        name = type(value).__name__
        message = f"the returned {name} cannot be answered as JSON: {error}"
        raise CallError(500, "UnserializableResult", message) from error


def _is_json(content_type):
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _json(value):
    try:
        return _encode(value).encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()


class _pieces:
    """An iterator of str or bytes as one of bytes, which closes what it reads from."""

    def __init__(self, inner):
        self._inner = inner

    def __iter__(self):
        return self

    def __next__(self):
        try:
            piece = next(self._inner)
            return piece.encode() if isinstance(piece, str) else bytes(memoryview(piece))
        except StopIteration:
            raise
        except BaseException as error:
            # The status is sent and granian has no way to break a connection off: the log is where this can be seen.
            log(error, "a stream ended in an error")
            raise StopIteration from None

    def close(self):
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()
