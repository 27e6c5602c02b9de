"""The updates of a user as Server-Sent Events, and the same as a WebSocket.

Each event is one JSON object; the position after it, where it has one, is the event's `id`. A client that comes
again with the last id it saw (header Last-Event-ID, or `lastEventId` in the query) goes on from there, on any server;
without one it hears what happens from now on. As Server-Sent Events the id stands in its own line, as a browser's
EventSource wants it; on a WebSocket it is the key `id` of the message.

Nothing is queued: the next batch is made when the last one was taken, so a client that reads slowly hears later, and
one that does not read at all holds up nobody. Ways to end: the client goes, nothing happens for half an hour, the
user is logged out or gets another password, the token is no longer valid, the server leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
import structlog
import trio
from msgspec import Meta
from quart import websocket

from wd_trio.api.asgi import NO_STORE, Reply
from wd_trio.api.auth import OWN, Caller, verify_again
from wd_trio.api.errors import BadToken
from wd_trio.api.fields import Id
from wd_trio.api.routing import Routes
from wd_trio.api.schema import Request
from wd_trio.api.services import ApiServices
from wd_trio.errors import WdError
from wd_trio.service.steps import Steps
from wd_trio.service.updates import POSITION_BYTES, Batch, Feed

log = structlog.get_logger()

routes: Final = Routes("Updates")

CHUNK_BYTES: Final = 64 << 10
RETRY_MS: Final = 2000
VERIFY_S: Final = 60.0
LAST_EVENT_ID: Final = b"last-event-id"
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
async def stream_updates(request: FollowUpdates, caller: Caller, services: ApiServices) -> Reply:
    """Follow what happens in a user's mailboxes, as Server-Sent Events"""
    feed = await _open(request, caller, services)
    headers = (NO_STORE, (b"x-accel-buffering", b"no"))  # nginx would hold events back
    told = _Followed(feed, caller, services)
    return Reply(_chunks(told), media=EVENT_STREAM, headers=headers, held=feed)


@routes.websocket("/users/{user}/updates/ws", request=FollowUpdates)
async def follow_updates(request: FollowUpdates, caller: Caller, services: ApiServices) -> None:
    """Follow what happens in a user's mailboxes, as a WebSocket"""
    with await _open(request, caller, services) as feed:
        await websocket.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_ignore_client)
            code = await _tell(_Followed(feed, caller, services))
            nursery.cancel_scope.cancel()
    await websocket.close(code)


async def _open(request: FollowUpdates, caller: Caller, services: ApiServices) -> Feed:
    """The feed that is asked for, its place taken. NotFound for the user, Limited, Unavailable."""
    with trio.fail_after(services.options.request_s):
        await services.users.get(request.user)
    return services.updates.feed(request.user, request.last_event_id or caller.sent.header(LAST_EVENT_ID))


class _Followed:
    """A feed, as long as its caller may follow it. `failed` says that it ended by an error."""

    def __init__(self, feed: Feed, caller: Caller, services: ApiServices) -> None:
        self._feed = feed
        self._caller = caller
        self._services = services
        self._verify_at = trio.current_time() + VERIFY_S
        self.failed = False

    async def next(self) -> Batch | None:
        """The next batch, None at the end."""
        try:
            batch = await self._feed.next()
            if batch is not None and trio.current_time() >= self._verify_at:
                with trio.fail_after(self._services.options.request_s):
                    await verify_again(self._services, self._caller)
                self._verify_at = trio.current_time() + VERIFY_S
        except BadToken:
            return None
        except (WdError, trio.TooSlowError) as error:
            log.warning("updates ended", error=str(error), what=getattr(error, "what", ""))
            self.failed = True
            return None
        return batch


# -- as a WebSocket


async def _tell(told: _Followed) -> int:
    """Send what the feed has until it ends; the code to close with."""
    while (batch := await told.next()) is not None:
        for message in _messages(batch):
            await websocket.send(message)
    return TRY_AGAIN if told.failed else GOING_AWAY


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


def _chunks(told: _Followed) -> Steps[bytes]:
    """The stream: chunks of whole events, of at most about CHUNK_BYTES."""
    lines: Iterator[bytes] = iter((b"retry: %d\n\n" % RETRY_MS,))

    async def next_chunk() -> bytes | None:
        nonlocal lines
        while not (chunk := _gather(lines)):
            batch = await told.next()
            if batch is None:
                return None
            lines = _blocks(batch)
        return chunk

    return Steps(next_chunk)


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
