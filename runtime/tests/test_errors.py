"""Whatever goes wrong is JSON, says whose it is, and is never 200."""

import pytest

ADD = "def run(x, y):\n    return x + y\n"


def refused(answer, status, error_type):
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fnbuild-error"] == "function"
    assert sorted(answer.json) == ["errorMessage", "errorType", "requestId"]
    assert answer.json["errorType"] == error_type
    assert answer.json["requestId"] == answer.headers["x-call-id"]
    return answer.json["errorMessage"]


@pytest.mark.parametrize(
    "body, part",
    [
        (b"{", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'{"x": NaN}', "NaN"),
        (b"[" * 100_000, "not JSON"),
        (b'{"x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[3, 5]", "an array"),
        (b"3", "a number"),
        (b"null", "null"),
        (b'"x"', "a string"),
    ],
)
def test_what_is_no_json_object_is_refused(serve, body, part):
    assert part in refused(serve(ADD).call(body), 400, "InvalidJSON")


@pytest.mark.parametrize(
    "signature, arguments, message",
    [
        ("x, y", {"x": 1}, "run(): missing argument 'y'"),
        ("x, y", {}, "run(): missing arguments 'x', 'y'"),
        ("x, y", None, "run(): missing arguments 'x', 'y'"),
        ("x", {"x": 1, "b": 2, "a": 3}, "run(): unexpected arguments 'b', 'a'"),
        ("x, /", {"y": 1}, "run(): missing argument 'x', unexpected argument 'y'"),
        ("*args", {"x": 1}, "run(): unexpected argument 'x'"),
        ("*, x", {}, "run(): missing argument 'x'"),
        ("x, **more", {"y": 1}, "run(): missing argument 'x'"),
    ],
)
def test_wrong_arguments_are_named(serve, signature, arguments, message):
    answer = serve(f"def run({signature}):\n    return 1\n").call(arguments)
    assert refused(answer, 400, "InvalidArguments") == message


@pytest.mark.parametrize(
    "signature, arguments, result",
    [
        ("x=1, *, y=2", {}, {"x": 1, "y": 2}),
        ("a, b=2, /, c=3", {"a": 1, "c": 4}, {"a": 1, "b": 2, "c": 4}),
        ("a=1, b=2, /", {"b": 5}, {"a": 1, "b": 5}),
        ("*args, **more", {"self": 1, "args": 2}, {"args": [], "more": {"self": 1, "args": 2}}),
    ],
)
def test_every_kind_of_parameter_can_be_filled(serve, signature, arguments, result):
    assert serve(f"def run({signature}):\n    return locals()\n").call(arguments).json == result


def test_decorated_functions_are_called_through_their_decorator(serve):
    running = serve(
        """
        import functools

        def passing(f):
            @functools.wraps(f)
            def wrapper(*args, **kwargs):
                return f(*args, **kwargs)
            return wrapper

        def injecting(f):
            @functools.wraps(f)
            def wrapper(**kwargs):
                return f(db="db", **kwargs)
            return wrapper

        @passing
        def run(x, y):
            return x + y

        @injecting
        def other(db, x):
            return [db, x]
        """
    )
    assert running.call({"x": 3, "y": 5}).json == 8
    assert refused(running.call({"x": 3}), 400, "InvalidArguments") == "run(): missing argument 'y'"
    assert refused(running.call({"x": 3, "y": "s"}), 500, "TypeError")


def test_a_decorator_may_add_arguments(serve):
    running = serve(
        """
        import functools

        def injecting(f):
            @functools.wraps(f)
            def wrapper(**kwargs):
                return f(db="db", **kwargs)
            return wrapper

        @injecting
        def run(db, x):
            return [db, x]
        """
    )
    assert running.call({"x": 1}).json == ["db", 1]


def test_an_exception_is_500_with_its_traceback_in_the_log(serve):
    running = serve(
        """
        def helper():
            raise ValueError("größe")

        def run():
            helper()
        """
    )
    answer = running.call({})
    assert refused(answer, 500, "ValueError") == "größe"
    assert 'func.py", line 6, in run' in running.log
    assert answer.json["requestId"] in running.log
    assert "fnbuild_runtime" not in running.log


@pytest.mark.parametrize("statement, name", [("sys.exit(3)", "SystemExit"), ("raise KeyboardInterrupt", "KeyboardInterrupt")])
def test_a_function_cannot_end_the_server(serve, statement, name):
    running = serve(f"import sys\ndef run(stop):\n    if stop: {statement}\n    return 1\n")
    refused(running.call({"stop": True}), 500, name)
    assert running.call({"stop": False}).json == 1


def test_an_exception_that_cannot_be_shown_is_still_an_error(serve):
    running = serve(
        """
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError

        def run():
            raise Odd
        """
    )
    refused(running.call({}), 500, "Odd")


def test_abort_is_the_functions_own_answer(serve):
    answer = serve("import flask\ndef run():\n    flask.abort(409, 'taken')\n").call({})
    assert refused(answer, 409, "Conflict") == "taken"


def test_other_paths_and_methods_are_refused(serve):
    running = serve(ADD)
    refused(running.request("POST", "/other", b"{}"), 404, "NotFound")
    answer = running.request("GET", "/")
    refused(answer, 405, "MethodNotAllowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "source, error_type, parts",
    [
        ("def run(:\n    pass\n", "SyntaxError", ["func.py, line 1"]),
        ("import os\nimport no_such_module\n", "ModuleNotFoundError", ["no_such_module", "func.py, line 2"]),
        ("\n\n1 / 0\n", "ZeroDivisionError", ["func.py, line 3"]),
        ("raise SystemExit(3)\n", "SystemExit", ["func.py, line 1"]),
        ("x = 1\n", "EntryNotFound", ["no function 'run'"]),
        ("run = 1\n", "EntryNotFound", ["int"]),
        (None, "ModuleNotFoundError", ["func"]),
    ],
)
def test_code_that_cannot_be_imported_is_the_functions_own_error(serve, source, error_type, parts):
    running = serve(source)
    message = refused(running.call({}), 500, error_type)
    assert all(part in message for part in parts), message
    assert refused(running.request("GET", "/_/health"), 500, error_type) == message
