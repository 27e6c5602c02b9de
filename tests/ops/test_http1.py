"""The HTTP/1.1 server: what it sends together, how long connections live, how it leaves."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio
import trio.testing
from structlog.testing import CapturingLogger

from wd_trio.api.asgi import Incoming, Reply, send_reply
from wd_trio.ops.http import http1
from wd_trio.ops.http.serve import KEEP_ALIVE_S, serve_http

GRACE_S = 5.0
SILENCE_S = 10.0
GET = b"GET /x?a=1 HTTP/1.1\r\nHost: test\r\n\r\n"
Handle = Callable[[Any, Any, Any], Awaitable[None]]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """The whole body, and then two pieces of an answer."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    text = b"%s %s %d" % (scope["method"].encode(), scope["raw_path"], size)
    length = [(b"content-length", b"%d" % (len(text) + 1))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": text, "more_body": True})
    await send({"type": "http.response.body", "body": b"."})


class Served:
    def __init__(self, port: int) -> None:
        self.port = port
        self.leave = trio.Event()
        self.ended = trio.Event()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@asynccontextmanager
async def serving(app: Handle) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    served = Served(listener.getsockname()[1])

    async def serve() -> None:
        descriptor = listener.detach()
        await serve_http(app, [descriptor], leave=served.leave.wait, grace_s=GRACE_S, flush_s=SILENCE_S)
        served.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield served
        served.leave.set()
        with trio.fail_after(SILENCE_S):
            await served.ended.wait()


async def until(stream: trio.SocketStream, end: bytes) -> bytes:
    data = bytearray()
    with trio.fail_after(SILENCE_S):
        while not data.endswith(end):
            piece = await stream.receive_some()
            assert piece, data
            data += piece
    return bytes(data)


async def closed(stream: trio.SocketStream) -> bool:
    with trio.fail_after(SILENCE_S):
        return await stream.receive_some() == b""


async def test_one_request_after_another() -> None:
    async with serving(answer) as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(GET)
            assert (await until(stream, b".")).partition(b"\r\n\r\n")[2] == b"GET /x 0."
        await stream.send_all(b"POST /y HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
        assert b"POST /y 5." in await until(stream, b".")
        await stream.send_all(GET + GET)
        both = await until(stream, b"GET /x 0.")
        if both.count(b"HTTP/1.1 200") < 2:
            both += await until(stream, b"GET /x 0.")
        assert both.count(b"GET /x 0.") == 2


async def test_the_head_leaves_with_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    send_all = trio.SocketStream.send_all

    async def noted(self: trio.SocketStream, data: bytes) -> None:
        sent.append(bytes(data))
        await send_all(self, data)

    monkeypatch.setattr(trio.SocketStream, "send_all", noted)
    async with serving(answer) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await until(stream, b".")
    request_, first, second = sent
    assert request_ == GET
    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\nGET /x 0")
    assert second == b"."


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"HEAD /x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", b"200"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    ],
)
async def test_answers_without_a_body(request_: bytes, status: bytes) -> None:
    async with serving(answer) as served, await served.connect() as stream:
        await stream.send_all(request_)
        head = await until(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert await closed(stream)


async def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    async with serving(answer) as served, await served.connect() as stream:
        head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await stream.send_all(head)
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"ok")
        assert b"POST / 2." in await until(stream, b".")


async def test_http_2_is_not_spoken() -> None:
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
    async with serving(answer) as served, await served.connect() as stream:
        await stream.send_all(GET[:-2] + wish)
        assert (await until(stream, b".")).startswith(b"HTTP/1.1 200")


async def test_an_app_that_fails_is_answered_for(capfd: pytest.CaptureFixture[str]) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret words")

    async with serving(fail) as served, await served.connect() as stream:
        await stream.send_all(GET)
        head = await until(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500")
        assert b"secret" not in head


async def test_idle_connections_are_closed(mock_clock: trio.testing.MockClock) -> None:
    async with serving(answer) as served, await served.connect() as stream, await served.connect() as other:
        await stream.send_all(GET)
        await until(stream, b".")
        await other.send_all(GET[:20])  # half a head does not count
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(KEEP_ALIVE_S + 1)
        for each in (stream, other):
            assert await each.receive_some() == b""


async def test_a_request_under_way_is_not_idle(mock_clock: trio.testing.MockClock) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await answer(scope, receive, send)

    async with serving(slow) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await begun.wait()
        mock_clock.jump(10 * KEEP_ALIVE_S)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert b"GET /x 0." in await until(stream, b".")


async def refuse(scope: Any, receive: Any, send: Any) -> None:
    await send_reply(Reply(b"no.", 403), Incoming(scope, receive), send)


UPLOAD = b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_refused_request_whose_body_never_comes(mock_clock: trio.testing.MockClock) -> None:
    async with serving(refuse) as served, await served.connect() as stream:
        await stream.send_all(UPLOAD)
        assert (await until(stream, b"no.")).startswith(b"HTTP/1.1 403")
        assert await closed(stream)
        await stream.send_all(b"1\r\n")  # is dropped
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(http1.LINGER_S + 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(b"a\r\n")  # is answered with a reset
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"1\r\n")


async def test_what_comes_after_a_refusal_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = 0
    receive_data = h11.Connection.receive_data

    def noted(self: h11.Connection, data: bytes) -> None:
        nonlocal kept
        kept += len(data)
        receive_data(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", noted)
    async with serving(refuse) as served, await served.connect() as stream:
        await stream.send_all(UPLOAD)
        await until(stream, b"no.")
        assert await closed(stream)
        with trio.fail_after(SILENCE_S):
            await stream.send_all(b"1\r\na\r\n" * 1_000_000)
    assert kept == len(UPLOAD)


async def test_a_long_body_costs_nobody_the_answer() -> None:
    """The client reads when it has sent everything, as most do: nothing may have reset the connection by then."""
    size = 20 << 20
    async with serving(refuse) as served, await served.connect() as stream:
        await stream.send_all(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)
        with trio.fail_after(SILENCE_S):
            await stream.send_all(bytes(size))
        assert (await until(stream, b"no.")).startswith(b"HTTP/1.1 403")


async def test_leaving() -> None:
    """Idle connections close at once, the answer under way still goes out, nobody new gets in."""
    begun, go_on = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await answer(scope, receive, send)

    async with serving(slow) as served, await served.connect() as idle, await served.connect() as busy:
        await busy.send_all(GET)
        await begun.wait()
        served.leave.set()
        assert await closed(idle)
        assert not served.ended.is_set()
        go_on.set()
        assert b"GET /x 0." in await until(busy, b".")
        assert await closed(busy)
        with trio.fail_after(SILENCE_S):
            await served.ended.wait()
        with pytest.raises(OSError, match=r"refused|failed"):
            await served.connect()


async def test_who_is_not_done_in_time_is_cut_off(mock_clock: trio.testing.MockClock) -> None:
    begun = trio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await trio.sleep_forever()

    async with serving(never) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await begun.wait()
        served.leave.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not served.ended.is_set()
        mock_clock.jump(GRACE_S + 1)
        await served.ended.wait()


async def test_a_client_that_goes_is_told_to_the_app() -> None:
    told: list[str] = []
    gone = trio.Event()

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            told.append(message["type"])
        gone.set()

    async with serving(listen) as served:
        async with await served.connect() as stream:
            await stream.send_all(GET)
            while not told:
                await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(SILENCE_S):
            await gone.wait()


async def whole(scope: Any, receive: Any, send: Any) -> None:
    await send_reply(Reply(scope["raw_path"] + b"."), Incoming(scope, receive), send)


async def test_plain_requests_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """h11 is met by those alone that are not plain, whatever stands before and behind them in the pipe."""
    met: list[bytes] = []
    receive_data = h11.Connection.receive_data

    def noted(self: h11.Connection, data: bytes) -> None:
        met.append(data)
        receive_data(self, data)

    monkeypatch.setattr(h11.Connection, "receive_data", noted)
    head = GET.replace(b"GET", b"HEAD")
    folded = b"GET /z HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n"
    async with serving(whole) as served, await served.connect() as stream:
        await stream.send_all(GET)
        first = await until(stream, b".")
        assert first.startswith(b"HTTP/1.1 200 \r\n")
        assert b"content-length: 3\r\n" in first
        assert b"\r\ndate: " in first
        assert not met
        await stream.send_all(GET + head + GET + folded + GET.replace(b"/x", b"/end"))
        rest = await until(stream, b"/end.")
    assert rest.count(b"HTTP/1.1 200 \r\n") == 5
    assert [piece.partition(b"HTTP/1.1")[0] for piece in rest.split(b"\r\n\r\n")] == [
        b"",
        b"/x.",
        b"",
        b"/x.",
        b"/z.",
        b"/end.",
    ]
    assert [data.partition(b" ")[0] for data in met] == [b"HEAD", b"GET"]


async def test_the_last_answer_of_a_connection_says_so() -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        await whole(scope, receive, send)

    async with serving(slow) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await begun.wait()
        served.leave.set()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert b"connection: close" in (await until(stream, b".")).lower()
        assert await closed(stream)


async def test_a_client_that_takes_nothing_is_cut_off_in_the_middle(
    mock_clock: trio.testing.MockClock,
) -> None:
    sending = trio.Event()

    async def much(scope: Any, receive: Any, send: Any) -> None:
        sending.set()
        await send_reply(Reply(bytes(64 << 20)), Incoming(scope, receive), send)

    async with serving(much) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await sending.wait()
        served.leave.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not served.ended.is_set()
        mock_clock.jump(GRACE_S + 1)
        await served.ended.wait()


async def test_nobody_is_told_that_its_client_goes_while_the_answer_is_on_its_way() -> None:
    """Whoever is told may cancel what is being sent."""
    size, told = 16 << 20, list[object]()

    async def impatient(scope: Any, receive: Any, send: Any) -> None:
        length = [(b"content-length", b"%d" % (size + 1))]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                told.append(await receive())
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            await send({"type": "http.response.body", "body": bytes(size) + b"."})

    async with serving(impatient) as served, await served.connect() as stream:
        for _ in range(2):
            await stream.send_all(GET)
            assert (await until(stream, b".")).startswith(b"HTTP/1.1 200")
    assert told == [{"type": "http.disconnect"}] * 2


async def test_a_connection_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    said = CapturingLogger()
    monkeypatch.setattr(http1, "log", said)
    async with serving(answer) as served, await served.connect() as stream:
        await stream.send_all(GET)
        await until(stream, b".")
        await trio.testing.wait_all_tasks_blocked()  # it waits for the next one
        with monkeypatch.context() as broken:

            async def fail(*_: object) -> None:
                raise ValueError("a fault of ours")

            broken.setattr(http1.Connection, "_serve_one", fail)
            async with await served.connect() as other:
                await other.send_all(GET)
                assert await closed(other)
        await stream.send_all(GET)
        assert b"GET /x 0." in await until(stream, b".")
    assert [call.args for call in said.calls] == [("an HTTP connection failed",)]
