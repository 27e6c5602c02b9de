"""Requests and answers at the ASGI side, without what a framework puts around them.

Routes of our own table are served here: what Quart does for a request costs more than all else that we do for one
(docs/performance.md). Whatever is not in the table, the probes among it, is Quart's; so are WebSockets.

A body is received only as fast as its handler asks for it, so that what nobody reads is not taken from the socket:
the server keeps a few pieces at most and then stops reading. When an answer goes out before its request was received
whole, the rest is dropped meanwhile, else the server would wait for room and never come to the end of either.

An answer at hand is two messages, head and whole body. A stream is sent piece by piece, each when the last one was
taken, and ends when its client goes. A stream that fails is broken off, so that nobody takes it for whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import structlog
import trio
from werkzeug.exceptions import RequestEntityTooLarge

log = structlog.get_logger()

Header: TypeAlias = tuple[bytes, bytes]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

JSON_TYPE: Final = "application/json"
NO_STORE: Final[Header] = (b"cache-control", b"no-store")
_NO_BODY: Final = ("GET", "HEAD")
_OF_BODIES: Final = (b"content-length", b"transfer-encoding")


class ClientGone(Exception):
    """The client went before its request was whole: there is nobody to answer."""


class Incoming:
    """One request, or the handshake of a WebSocket. `ip` is the address of the connection's other end, "" for a Unix
    socket's."""

    __slots__ = ("_headers", "_receive", "_received_bytes", "ip", "method", "query", "whole")

    def __init__(self, scope: Any, receive: Receive) -> None:
        self._headers: Sequence[Header] = scope["headers"]
        self._receive = receive
        self._received_bytes = 0
        self.method: str = scope.get("method", "GET")
        self.query: bytes = scope["query_string"]
        client = scope.get("client")
        self.ip: str = client[0] if client else ""
        self.whole = self.method in _NO_BODY and not any(name in _OF_BODIES for name, _ in self._headers)

    def header(self, name: bytes) -> str:
        """The first header of that lower-case name; "" when there is none."""
        for each, value in self._headers:
            if each == name:
                return value.decode("latin-1")
        return ""

    @property
    def media(self) -> str:
        """The content type of the body in lower case, without parameters."""
        return self.header(b"content-type").partition(";")[0].strip().lower()

    async def chunk(self, most: int) -> bytes | None:
        """The next piece of the body, None at its end. RequestEntityTooLarge when it has, or announces, more than
        `most` bytes; ClientGone."""
        if not self._received_bytes:
            announced = self.header(b"content-length")
            if announced.isdecimal() and int(announced) > most:
                raise RequestEntityTooLarge
        while not self.whole:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.whole = not message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            self._received_bytes += len(piece)
            if self._received_bytes > most:
                raise RequestEntityTooLarge
            if piece:
                return piece
        return None

    async def wait_gone(self) -> None:
        """Drop what comes until the client goes."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: bytes, or a stream of them that needs no closing (no generator then, but Steps). `held` is entered
    while a stream is sent."""

    body: bytes | AsyncIterator[bytes]
    status: int = 200
    media: str = JSON_TYPE
    headers: tuple[Header, ...] = (NO_STORE,)
    held: AbstractContextManager[object] = field(default_factory=nullcontext)


async def send_reply(reply: Reply, incoming: Incoming, send: Send) -> None:
    """Send an answer whole, or until its client goes."""
    body = reply.body
    headers = [(b"content-type", reply.media.encode("latin-1")), *reply.headers]
    head = {"type": "http.response.start", "status": reply.status, "headers": headers}
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
        last = {"type": "http.response.body", "body": body, "more_body": False}
        if incoming.whole:
            await send(head)
            await send(last)
            return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, incoming, nursery.cancel_scope)
        if isinstance(body, bytes):
            await send(head)
            await send(last)
        else:
            await _send_stream(head, reply, body if incoming.method != "HEAD" else _nothing(), send)
        nursery.cancel_scope.cancel()


async def _send_stream(head: Any, reply: Reply, pieces: AsyncIterator[bytes], send: Send) -> None:
    with reply.held:
        await send(head)
        try:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Exception:
            log.exception("a stream broke off", media=reply.media)
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _cancel_when_gone(incoming: Incoming, scope: trio.CancelScope) -> None:
    await incoming.wait_gone()
    scope.cancel()
