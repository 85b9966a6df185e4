"""From a JSON object to the function and back."""

import http.client
import json

import pytest

ADD = """
def run(x, y):
    print(x, "+", y)
    return x + y
"""


def test_the_original_walk_through(serve):
    answer = serve(ADD).call({"x": 3, "y": 5})
    assert (answer.status, answer.json) == (200, 8)
    assert answer.headers["content-type"] == "application/json"


def test_print_reaches_the_log_while_the_call_runs(serve):
    running = serve(
        """
        import threading
        go = threading.Event()

        def run(step):
            if step == "first":
                print("line one")
                go.wait(10)
                print("no newline", end="")
            else:
                go.set()
        """
    )
    from conftest import wait_for

    first = running.connect()
    first.request("POST", "/", json.dumps({"step": "first"}))
    wait_for(lambda: "line one\n" in running.log, "the print")
    running.call({"step": "second"})
    assert first.getresponse().status == 200
    assert "no newline" in running.log


@pytest.mark.parametrize(
    "expression, body, content_type",
    [
        ("{'a': [1, 2.5, True, None]}", b'{"a":[1,2.5,true,null]}', "application/json"),
        ("None", b"null", "application/json"),
        ("'größe'", '"größe"'.encode(), "application/json"),
        ("'\\ud800'", b'"\\ud800"', "application/json"),
        ("True", b"true", "application/json"),
        ("(1, 2, 3)", b"[1,2,3]", "application/json"),
        ("b'\\x00\\xff'", b"\x00\xff", "application/octet-stream"),
        ("bytearray(b'ab')", b"ab", "application/octet-stream"),
        ("__import__('uuid').UUID(int=0)", b'"00000000-0000-0000-0000-000000000000"', "application/json"),
        ("__import__('flask').jsonify(a=1)", b'{"a":1}\n', "application/json"),
        ("('<p>', {'Content-Type': 'text/html'})", b"<p>", "text/html"),
        ("({'a': 1}, {'Content-Type': 'application/problem+json'})", b'{"a":1}', "application/problem+json"),
        ("(c for c in 'abc')", b"abc", "text/plain; charset=utf-8"),
    ],
)
def test_each_kind_of_value_is_answered_rightly(serve, expression, body, content_type):
    answer = serve(f"def run():\n    return {expression}\n").call({})
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == content_type


def test_status_and_headers_can_be_given(serve):
    running = serve(
        """
        import flask

        def run(kind):
            return {
                "both": ("made", 201, {"X-A": "b"}),
                "list": ({}, 202, [("X-A", "b"), ("X-A", "c")]),
                "status": ("gone", 410),
                "nothing": (None, 204),
                "response": flask.Response("tea", status=418, headers={"X-A": "b"}),
                "changed": (flask.Response("x"), 203, {"X-A": "b"}),
            }[kind]
        """
    )
    both = running.call({"kind": "both"})
    assert (both.status, both.json, both.headers["x-a"]) == (201, "made", "b")
    assert running.call({"kind": "list"}).all("x-a") == ["b", "c"]
    assert running.call({"kind": "status"}).status == 410
    nothing = running.call({"kind": "nothing"})
    assert (nothing.status, nothing.body) == (204, b"")
    response = running.call({"kind": "response"})
    assert (response.status, response.body, response.headers["x-a"]) == (418, b"tea", "b")
    changed = running.call({"kind": "changed"})
    assert (changed.status, changed.headers["x-a"]) == (203, "b")


def test_a_value_that_is_no_json_is_an_error_that_names_its_type(serve):
    running = serve(
        """
        class Thing: pass

        def run(kind):
            loop = []
            loop.append(loop)
            return {"thing": Thing(), "inside": {"a": {1, 2}}, "nan": float("nan"), "loop": loop}[kind]
        """
    )
    for kind, name in [("thing", "Thing"), ("inside", "set"), ("nan", "float"), ("loop", "list")]:
        answer = running.call({"kind": kind})
        assert answer.status == 500
        assert answer.json["errorType"] == "UnserializableResult"
        assert name in answer.json["errorMessage"], answer.body


def test_async_functions_share_one_event_loop_and_flasks_request(serve):
    running = serve(
        """
        import asyncio, flask
        lock = asyncio.Lock()
        loops = set()

        async def run(x):
            async with lock:
                await asyncio.sleep(0)
            loops.add(id(asyncio.get_running_loop()))
            return [x, len(loops), flask.request.method]
        """
    )
    assert running.call({"x": 1}).json == [1, 1, "POST"]
    assert running.call({"x": 2}).json == [2, 1, "POST"]


def test_pieces_are_sent_as_they_come(serve):
    running = serve(
        """
        import threading
        go = threading.Event()

        def run(go_on=False):
            if go_on:
                go.set()
                return
            def events():
                yield "data: 1\\n\\n"
                go.wait(10)
                yield "data: 2\\n\\n"
            return events(), {"Content-Type": "text/event-stream"}
        """
    )
    connection = running.connect()
    connection.request("POST", "/", b"{}")
    response = connection.getresponse()
    assert response.read(9) == b"data: 1\n\n"
    running.call({"go_on": True})
    assert response.read() == b"data: 2\n\n"


def test_an_async_generator_is_streamed(serve):
    running = serve("async def run():\n    yield 'a'\n    yield 'b'\n")
    assert running.call({}).body == b"ab"


def test_a_stream_that_raises_ends_and_the_log_says_why(serve):
    running = serve("def run():\n    yield 'a'\n    raise ValueError('late')\n")
    assert running.call({}).body == b"a"
    assert "ValueError: late" in running.log


def test_a_function_of_request_gets_every_method_and_path(serve):
    running = serve(
        """
        def run(request):
            return [request.method, request.path, request.args.get("q"), request.get_data(as_text=True)]
        """
    )
    assert running.request("PUT", "/a/b?q=1", b"not json").json == ["PUT", "/a/b", "1", "not json"]
    assert running.request("GET", "/").json == ["GET", "/", None, ""]


def test_eight_calls_are_in_flight_at_once(serve):
    running = serve(
        """
        import threading
        together = threading.Barrier(8)

        def run():
            together.wait(10)
            return True
        """
    )
    connections = [running.connect() for _ in range(8)]
    for connection in connections:
        connection.request("POST", "/", b"{}")
    assert [connection.getresponse().status for connection in connections] == [200] * 8


def test_bodies_in_chunks_and_large_ones_arrive_whole(serve):
    running = serve("def run(text):\n    return len(text)\n")
    body = json.dumps({"text": "x" * 3_000_000}).encode()
    connection = running.connect()
    connection.request("POST", "/", iter([body[:7], body[7:]]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert json.load(connection.getresponse()) == 3_000_000
    assert running.call(body).json == 3_000_000


def test_connections_are_kept(serve):
    connection = serve(ADD).connect()
    for x in range(3):
        connection.request("POST", "/", json.dumps({"x": x, "y": 1}))
        assert json.load(connection.getresponse()) == x + 1
        assert connection.sock is not None


def test_the_call_id_is_kept_if_it_is_sane(serve):
    running = serve(ADD)
    assert running.call({"x": 1, "y": 2}, **{"X-Call-Id": "abc-1"}).headers["x-call-id"] == "abc-1"
    for bad in ["a b", "x" * 129, "ä"]:
        connection = running.connect()
        connection.putrequest("POST", "/")
        connection.putheader("X-Call-Id", bad.encode("utf-8"))
        connection.endheaders()
        made = connection.getresponse().headers["x-call-id"]
        assert len(made) == 32 and made != bad


def test_ipv6_is_answered_where_there_is_any(serve):
    running = serve(ADD)
    connection = http.client.HTTPConnection("::1", running.port, timeout=10)
    try:
        connection.connect()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    connection.request("POST", "/", b'{"x": 1, "y": 2}')
    assert json.load(connection.getresponse()) == 3
