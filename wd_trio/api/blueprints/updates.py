"""The updates of a user as Server-Sent Events, and the same as a WebSocket.

Each event is one JSON object; the position after it, where it has one, is the event's `id`. A client that comes
again with the last id it saw (header Last-Event-ID, or `lastEventId` in the query) goes on from there, on any server;
without one it hears what happens from now on. As Server-Sent Events the id stands in its own line, as a browser's
EventSource wants it; on a WebSocket it is the key `id` of the message.

Nothing is queued: the next batch is made when the last one was taken, so a client that reads slowly hears later, and
one that does not read at all holds up nobody. Ways to end: the client goes, nothing happens for half an hour, the
user is logged out or gets another password, the server leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Annotated, Any, Final, Self

import msgspec
import structlog
import trio
from msgspec import Meta
from quart import Response, websocket
from quart import request as current_request
from quart.wrappers.response import ResponseBody

from wd_trio.api.auth import OWN, Caller
from wd_trio.api.fields import Id
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Request
from wd_trio.api.services import ApiServices
from wd_trio.errors import WdError
from wd_trio.service.updates import POSITION_BYTES, Batch, Feed

log = structlog.get_logger()

routes: Final = Routes("Updates")

CHUNK_BYTES: Final = 64 << 10
RETRY_MS: Final = 2000
LAST_EVENT_ID: Final = "Last-Event-ID"
EVENT_STREAM: Final = "text/event-stream"
GOING_AWAY: Final = 1001  # RFC 6455 §7.4.1
TRY_AGAIN: Final = 1013
_ENCODER: Final = msgspec.json.Encoder()


class FollowUpdates(Request, frozen=True):
    user: Id
    last_event_id: (
        Annotated[str, Meta(max_length=POSITION_BYTES, description="Go on after the event of this id")] | None
    ) = None


@routes.route(
    "GET",
    "/users/{user}/updates",
    request=FollowUpdates,
    response=None,
    access=OWN,
    media=EVENT_STREAM,
    deadline=False,
)
async def stream_updates(request: FollowUpdates, caller: Caller, services: ApiServices) -> Response:
    """Follow what happens in a user's mailboxes, as Server-Sent Events"""
    feed = await _open(request, services, current_request.headers.get(LAST_EVENT_ID, ""))
    response = Response(EventBody(feed), content_type=EVENT_STREAM)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response


@routes.websocket("/users/{user}/updates/ws", request=FollowUpdates)
async def follow_updates(request: FollowUpdates, caller: Caller, services: ApiServices) -> None:
    """Follow what happens in a user's mailboxes, as a WebSocket"""
    feed = await _open(request, services, websocket.headers.get(LAST_EVENT_ID, ""))
    await websocket.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ignore_client)
        code = await _tell(feed)
        nursery.cancel_scope.cancel()
    await websocket.close(code)


async def _open(request: FollowUpdates, services: ApiServices, header: str) -> Feed:
    """The feed that is asked for. NotFound for the user, Limited, Unavailable."""
    with trio.fail_after(services.options.request_s):
        await services.users.get(request.user)
    services.updates.require_room(request.user)
    return services.updates.feed(request.user, request.last_event_id or header)


# -- as a WebSocket


async def _tell(feed: Feed) -> int:
    """Send what the feed has until it ends; the code to close with."""
    with feed:
        while True:
            try:
                batch = await feed.next()
            except WdError as error:
                log.warning("updates ended", error=str(error), what=error.what)
                return TRY_AGAIN
            if batch is None:
                return GOING_AWAY
            for message in _messages(batch):
                await websocket.send(message)


def _messages(batch: Batch) -> Iterator[str]:
    """The messages of a batch. One without events says where the stream stands, or that it lives."""
    told = False
    for event, position in batch:
        told = True
        yield _json({**event, "id": position} if position else event)
    if not told:
        yield _json(
            {"command": "POSITION", "id": batch.position} if batch.position else {"command": "IDLING"}
        )


async def _ignore_client() -> None:
    """Take what the client says, which means nothing: what is not taken would hide that it goes."""
    while True:
        await websocket.receive()


# -- as Server-Sent Events


class EventBody(ResponseBody):
    """The stream: chunks of whole events, of at most about CHUNK_BYTES."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lines: Iterator[bytes] = iter((b"retry: %d\n\n" % RETRY_MS,))

    async def __aenter__(self) -> Self:
        self._feed.__enter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException], exc_value: BaseException, tb: TracebackType
    ) -> None:
        self._feed.__exit__(exc_type, exc_value, tb)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not (chunk := _gather(self._lines)):
            try:
                batch = await self._feed.next()
            except WdError as error:
                log.warning("updates ended", error=str(error), what=error.what)
                batch = None
            if batch is None:
                raise StopAsyncIteration
            self._lines = _blocks(batch)
        return chunk

    async def convert_to_sequence(self) -> bytes:
        return b"".join([chunk async for chunk in self])


def _gather(lines: Iterator[bytes]) -> bytes:
    pieces: list[bytes] = []
    size = 0
    for piece in lines:
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK_BYTES:
            break
    return b"".join(pieces)


def _blocks(batch: Batch) -> Iterator[bytes]:
    """The batch as a stream of blocks (HTML §9.2.6). An id alone moves the client's last id, and is no event."""
    told = False
    for event, position in batch:
        told = True
        data = b"data: %b\n\n" % _ENCODER.encode(event)
        yield b"id: %b\n%b" % (position.encode(), data) if position else data
    if not told:
        yield b"id: %b\n\n" % batch.position.encode() if batch.position else b": idling\n\n"


def _json(event: Any) -> str:
    return _ENCODER.encode(event).decode()
