"""The API's octets, counted around the app: bodies of requests and answers, and what WebSockets say.

The heads of both are http/http1.py's to read and write and are not counted; the connection servers count every octet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from wd_trio import telemetry

IN: Final = ("api", "in")
OUT: Final = ("api", "out")

Message: TypeAlias = Mapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[..., Awaitable[None]]


def metered(app: App) -> App:
    """An ASGI app that counts what goes in and out of `app`."""

    async def serve(scope: Any, receive: Receive, send: Send) -> None:
        async def received() -> Message:
            message = await receive()
            telemetry.bytes_total.add(IN, _size(message))
            return message

        async def sent(message: Message) -> None:
            telemetry.bytes_total.add(OUT, _size(message))
            await send(message)

        await app(scope, received, sent)

    return serve


def _size(message: Message) -> int:
    """Octets of payload; text of WebSockets is JSON, whose characters are taken for octets."""
    payload = message.get("body") or message.get("bytes") or message.get("text") or b""
    return len(payload)
