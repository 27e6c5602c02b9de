"""The API over TLS that ends in the worker."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from certificates import Pair

from wd_trio.ops.http.https import HANDSHAKE_S
from wd_trio.ops.http.serve import serve_http
from wd_trio.servers.tls import server_context

GRACE_S = 5.0
FLUSH_S = 10.0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """How long the body was, and from where."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = json.dumps([scope["method"], scope["path"], size, scope["client"][0]]).encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(pair: Pair) -> AsyncIterator[tuple[int, trio.Event, trio.Event]]:
    """The port, what makes it leave, and what tells that it has left."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    leave, left = trio.Event(), trio.Event()

    async def serve() -> None:
        await serve_http(
            echo,
            [],
            leave=leave.wait,
            grace_s=GRACE_S,
            flush_s=FLUSH_S,
            tls_descriptors=[listener.detach()],
            tls=server_context(pair.certificate, pair.key),
        )
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield port, leave, left
        leave.set()


def ask_twice(port: int, certificate: str) -> list[Any]:
    """Two requests on one connection, by a client that verifies."""
    context = ssl.create_default_context(cafile=certificate)
    client = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    answers = []
    for body in (b"", bytes(300_000)):
        client.request("POST", "/x", body)
        answers.append(json.loads(client.getresponse().read()))
    client.close()
    return answers


async def test_requests_over_tls(pair: Pair) -> None:
    async with serving(pair) as (port, leave, left):
        answers = await trio.to_thread.run_sync(ask_twice, port, pair.certificate)
        assert answers == [["POST", "/x", 0, "127.0.0.1"], ["POST", "/x", 300_000, "127.0.0.1"]]
        leave.set()
        await left.wait()


async def test_what_is_no_handshake_ends_without_an_answer(pair: Pair) -> None:
    async with serving(pair) as (port, _, _):
        got = bytearray()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in stream:
                    got += data
        assert b"HTTP/1.1" not in got
        await trio.to_thread.run_sync(ask_twice, port, pair.certificate)


async def test_a_silent_client_is_given_up(pair: Pair, autojump_clock: trio.testing.MockClock) -> None:
    async with serving(pair) as (port, _, _):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            begun = trio.current_time()
            assert await stream.receive_some() == b""
        assert trio.current_time() - begun >= HANDSHAKE_S
