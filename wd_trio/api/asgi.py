"""Requests at the ASGI side: bodies with back-pressure, so that what nobody reads is not received.

Quart takes a body in as fast as it comes, before anybody knows whether the caller may send it. Here the receiver
waits while more than `PENDING_BYTES` lie unread, so that a request costs no more memory than that until its handler
asks for more, and hypercorn stops reading from the socket in turn.

An answer that is at hand goes out in two messages, head and whole body, which is measurably cheaper than Quart's
three; streams go out as Quart sends them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers import Request, Response
from quart.wrappers.response import DataBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

PENDING_BYTES: Final = 256 << 10


class BoundedBody(TrioBody):
    """A body that says when there is room for more of it."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._room = trio.Event()
        self._wanted_whole = False

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._room.set()
        return data

    def __await__(self) -> Generator[Any, None, Any]:
        self._wanted_whole = True
        self._room.set()
        return super().__await__()

    async def wait_room(self) -> None:
        """Wait until less than PENDING_BYTES are unread, or all of it is wanted."""
        while len(self._data) >= PENDING_BYTES and not self._wanted_whole:
            self._room = trio.Event()
            await self._room.wait()


class BoundedRequest(TrioRequest):
    body_class = BoundedBody


class BoundedConnection(TrioASGIHTTPConnection):
    """One request: its receiver follows the pace of its handler."""

    async def handle_messages(  # type: ignore[override]  # quart-trio passes its nursery first, its base does not
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        body = cast(BoundedBody, request.body)
        while True:
            message = await receive()
            if message["type"] == "http.request":
                body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    body.set_complete()
                await body.wait_room()
            elif message["type"] == "http.disconnect":
                break
        nursery.cancel_scope.cancel()

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        if not (isinstance(response, Response) and isinstance(response.response, DataBody)):
            await super()._send_response(send, response)
            return
        head = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
        body = response.response
        await send(cast(Any, head))
        await send(
            {"type": "http.response.body", "body": body.data[body.begin : body.end], "more_body": False}
        )
