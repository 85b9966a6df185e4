"""One request to one answer: a WSGI application on top of Flask's request context.

`POST /` with a JSON object calls the function with its members as arguments. A function whose only parameter is called
`request` is given Flask's request instead, for every method, path and content type. Anything else is 404 or 405.
"""

import asyncio
import inspect
import io
import json
import re
import sys
import threading
import uuid
from http import HTTPStatus

from flask import Flask, request
from werkzeug.exceptions import HTTPException

from . import __version__
from .answers import answer
from .errors import PLATFORM, CallError, body, log, raised
from .loading import Function
from .marks import Call

MAX_BODY = 64 << 20
HEALTH = "/_/health"
_SANE_ID = re.compile(r"[A-Za-z0-9._:~+/=-]{1,128}\Z")
_STATUS = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class App:
    """Answers with whatever function it is given; until then a call waits."""

    def __init__(self):
        # Flask's context is what makes `flask.request`, `jsonify` and `abort` work inside the function.
        self._flask = Flask("fnbuild_runtime", root_path="/function", static_folder=None)
        self._loaded = threading.Event()
        self._function = None
        self._failure = None
        self._entry = None
        self._loop = None
        self._loop_lock = threading.Lock()

    def use(self, entry, function):
        """From here on calls are answered by `function`."""
        self._entry, self._function = entry, function
        self._loaded.set()

    def fail(self, entry, failure):
        """From here on calls are answered with `failure`, a LoadError."""
        self._entry, self._failure = entry, failure
        self._loaded.set()

    def __call__(self, environ, start_response):
        call_id = environ.get("HTTP_X_CALL_ID", "")
        if not _SANE_ID.match(call_id):
            call_id = uuid.uuid4().hex
        with Call(call_id) as call:
            return self._answered(environ, start_response, call)

    def _answered(self, environ, start_response, call):
        call_id = call.id
        try:
            if environ["PATH_INFO"] == HEALTH:
                status, headers, content = self._health(environ, call_id)
            else:
                result = self._answer(environ, call_id)
                if not isinstance(result, tuple):
                    result.headers.setdefault("X-Call-Id", call_id)
                    return result(environ, start_response)
                status, headers, content = result
        except CallError as error:
            status, headers, content = error.answer(call_id)
        finally:
            # What was printed without a newline belongs to this call.
            sys.stdout.flush()
        headers.append(("X-Call-Id", call_id))
        if isinstance(content, bytes):
            if status not in (204, 304):
                headers.append(("Content-Length", str(len(content))))
            content = [b""] if environ["REQUEST_METHOD"] == "HEAD" else [content]
        else:
            content = call.around(content)
        start_response(_STATUS.get(status, f"{status} Unknown"), headers)
        return content

    def _health(self, environ, call_id):
        """200 when the function answers, 500 when it cannot be loaded, 503 until then; `?wait` waits instead."""
        if environ.get("QUERY_STRING") == "wait":
            self._loaded.wait()
        if not self._loaded.is_set():
            raise CallError(503, "NotLoaded", "the function is not loaded yet", PLATFORM)
        if self._failure is not None:
            raise self._failure
        state = {"status": "ok", "entry": self._entry, "runtime": __version__}
        return 200, [("Content-Type", "application/json")], json.dumps(state).encode()

    def _answer(self, environ, call_id):
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure
        function = self._function
        if not function.raw:
            _refuse_other_than_post(environ)
        context = self._flask.request_context(environ)
        context.push()
        failure = None
        try:
            arguments, members = ((request,), {}) if function.raw else function.parameters.bind(_members(environ))
            result = self._call(function, arguments, members, call_id)
            return answer(result)
        except CallError as error:
            if error.__cause__ is not None:
                log(error.__cause__, f"call {call_id} failed")
            failure = error
            raise
        finally:
            context.pop(failure)

    def _call(self, function, arguments, members, call_id):
        try:
            result = function.target(*arguments, **members)
            if inspect.iscoroutine(result):
                result = self._await(result)
            return self._pulled(result) if inspect.isasyncgen(result) else result
        except HTTPException as error:
            # flask.abort(): an answer that the function chose.
            if error.response is not None:
                return error.response
            headers = [(k, v) for k, v in error.get_headers() if k.lower() != "content-type"]
            raise CallError(error.code or 500, type(error).__name__, error.description or "", headers=headers) from None
        except BaseException as error:
            if problem := function.refused_by_wrapper(error, members):
                raise CallError(400, "InvalidArguments", problem) from None
            raise raised(error, call_id) from None

    def _await(self, awaitable):
        """Awaits on the one event loop of this process, so that clients made there can be shared by calls."""
        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True).start()

        async def result():
            return await awaitable

        return asyncio.run_coroutine_threadsafe(result(), self._loop).result()

    def _pulled(self, pieces):
        """An asynchronous generator as a plain one."""
        try:
            while True:
                yield self._await(pieces.__anext__())
        except StopAsyncIteration:
            return
        finally:
            self._await(pieces.aclose())


def warm_up():
    """Answers a call that nobody made, so that the first real one finds loaded and made what is loaded and made late."""
    body = b'{"x": 1}'
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8081",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
    }
    app = App()
    app.use("nobody:nothing", Function(lambda x: {"x": x}))
    app(environ, lambda status, headers: None)


def _refuse_other_than_post(environ):
    if environ["PATH_INFO"] not in ("/", ""):
        raise CallError(404, "NotFound", f"no such path: {environ['PATH_INFO']}; the function answers POST /")
    if environ["REQUEST_METHOD"] != "POST":
        message = f"{environ['REQUEST_METHOD']} is not allowed; call the function with POST"
        raise CallError(405, "MethodNotAllowed", message, headers=[("Allow", "POST")])


def _members(environ):
    """The members of the JSON object in the body. No body is an object without members."""
    data = environ["wsgi.input"].read(MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise CallError(413, "BodyTooLarge", f"the request body is larger than {MAX_BODY >> 20} MiB")
    if not data.strip():
        return {}
    try:
        members = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CallError(400, "InvalidJSON", f"the request body is not JSON: {error}") from None
    if not isinstance(members, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(members), "a number")
        message = f"the request body is {kind}; expected a JSON object, whose members are the arguments"
        raise CallError(400, "InvalidJSON", message)
    return members


def _refuse_constant(name):
    raise ValueError(f"{name} is no JSON")
