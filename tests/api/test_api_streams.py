"""Answers at the ASGI side: streams and their ends, and requests whose client goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from structlog.testing import CapturingLogger
from werkzeug.exceptions import RequestEntityTooLarge

from wd_trio.api import asgi
from wd_trio.api.asgi import ClientGone, Incoming, Reply, send_reply


class Client:
    """The other side: what it sends, in order, and what it got. After the last message it waits, or goes."""

    def __init__(self, *messages: Any, goes: bool = False) -> None:
        self._messages = list(messages)
        self.goes = trio.Event()
        if goes:
            self.goes.set()
        self.got: list[Any] = []

    def incoming(self, method: str = "GET", **headers: str) -> Incoming:
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"method": method, "headers": named, "query_string": b"", "client": ("192.0.2.1", 7)}
        return Incoming(scope, self._receive)

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        await self.goes.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.got[1:])

    @property
    def whole(self) -> bool:
        return self.got[-1].get("more_body") is False


def piece(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


class Held:
    """Says whether it is entered."""

    def __init__(self) -> None:
        self.states: list[str] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        self.states.append("entered")
        try:
            yield
        finally:
            self.states.append("left")


async def numbers(count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number


async def test_a_stream_is_sent_whole() -> None:
    client, held = Client(), Held()
    await send_reply(Reply(numbers(3), media="text/plain", held=held.held()), client.incoming(), client.send)
    assert (client.got[0]["status"], client.body, client.whole) == (200, b"012", True)
    assert held.states == ["entered", "left"]


async def test_a_stream_ends_when_its_client_goes() -> None:
    client, held = Client(), Held()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        client.goes.set()
        await trio.sleep_forever()

    await send_reply(Reply(pieces(), held=held.held()), client.incoming(), client.send)
    assert (client.body, client.whole) == (b"first", False)
    assert held.states == ["entered", "left"]


async def test_a_stream_that_fails_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    client, held, said = Client(), Held(), CapturingLogger()
    monkeypatch.setattr(asgi, "log", said)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("the disk is gone")

    await send_reply(Reply(pieces(), held=held.held()), client.incoming(), client.send)
    assert (client.body, client.whole) == (b"first", False)
    assert held.states == ["entered", "left"]
    assert [call.args for call in said.calls] == [("a stream broke off",)]


async def test_the_head_of_a_stream_alone() -> None:
    client, held = Client(), Held()
    await send_reply(Reply(numbers(3), held=held.held()), client.incoming("HEAD"), client.send)
    assert (client.body, client.whole) == (b"", True)
    assert held.states == ["entered", "left"]


async def test_what_is_left_of_a_request_is_dropped_while_the_answer_goes_out() -> None:
    """Else a server with a full queue would wait for its reader, which waits for the server."""
    room, wait_room = trio.open_memory_channel[Any](1)
    incoming = Incoming({"method": "POST", "headers": [], "query_string": b""}, wait_room.receive)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        for _ in range(3):
            await room.send(piece(b"x" * 1000))
        sent.append(message["type"])

    await send_reply(Reply(b"no"), incoming, send)
    assert sent == ["http.response.start", "http.response.body"]
    room.close()
    wait_room.close()


async def test_a_body_in_pieces() -> None:
    client = Client(piece(b"ab"), piece(b""), piece(b"cd"), piece(b"", more=False))
    incoming = client.incoming("POST", content_type="Message/RFC822; x=y")
    assert (incoming.media, incoming.ip, incoming.whole) == ("message/rfc822", "192.0.2.1", False)
    assert [await incoming.chunk(100) for _ in range(4)] == [b"ab", b"cd", None, None]
    assert incoming.whole


@pytest.mark.parametrize("announced", ["", "4"])
async def test_a_body_that_is_too_large(announced: str) -> None:
    client = Client(piece(b"ab"), piece(b"cd", more=False))
    headers = {"content_length": announced} if announced else {}
    incoming = client.incoming("POST", **headers)
    if not announced:
        assert await incoming.chunk(3) == b"ab"
    with pytest.raises(RequestEntityTooLarge):
        await incoming.chunk(3)


async def test_a_client_that_goes_within_its_body() -> None:
    client = Client(piece(b"ab"), goes=True)
    incoming = client.incoming("POST")
    assert await incoming.chunk(100) == b"ab"
    with pytest.raises(ClientGone):
        await incoming.chunk(100)


@pytest.mark.parametrize(
    ("method", "headers", "whole"),
    [
        ("GET", {}, True),
        ("HEAD", {}, True),
        ("GET", {"content_length": "3"}, False),
        ("GET", {"transfer_encoding": "chunked"}, False),
        ("DELETE", {}, False),
    ],
)
async def test_which_requests_have_bodies(method: str, headers: dict[str, str], whole: bool) -> None:
    assert Client().incoming(method, **headers).whole == whole


async def test_the_first_of_several_headers_counts() -> None:
    scope = {"headers": [(b"a", b"1"), (b"b", b"\xe9"), (b"a", b"2")], "query_string": b"", "client": None}
    incoming = Incoming(scope, Client()._receive)
    assert (incoming.header(b"a"), incoming.header(b"b"), incoming.header(b"c"), incoming.ip) == (
        "1",
        "é",
        "",
        "",
    )
