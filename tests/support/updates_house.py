"""The API on a real socket with hypercorn, and clients that follow a user's updates, as events and as WebSockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio
from api_world import ApiWorld, Caller, _healthy, _metrics, open_api_world
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from wd_trio.api.app import create_app
from wd_trio.mail.model import SEEN, FlagChange
from wd_trio.mail.numset import UidSet
from wd_trio.ops.http.serve import serve_http
from wd_trio.service.messages import Place
from wd_trio.service.updates import UpdateOptions, Updates

RAW = b"From: a@example.org\r\nSubject: small\r\n\r\nHello\r\n"
SILENCE_S = 10.0  # who hears nothing for so long never will: fail instead of hanging


@dataclass
class House:
    """The API on a real socket, and a user with a token."""

    world: ApiWorld
    user: str
    caller: Caller
    port: int

    @property
    def inbox(self) -> str:
        return self.world.services.store.find_mailbox(self.user, "INBOX").id

    async def deliver(self) -> int:
        messages = self.world.services.messages
        with messages.spool(most_bytes=1 << 20) as spool:
            await spool.write(RAW)
            appended = await messages.append(
                self.user, "INBOX", spool, flags=0, keywords="", internal_date=1, quota_bytes=None
            )
        return appended.uids[0]

    async def see(self, uid: int) -> None:
        place = Place(self.user, self.inbox)
        async for _ in self.world.services.messages.store_flags(
            place, UidSet.of([uid]), FlagChange("add", SEEN)
        ):
            pass

    @asynccontextmanager
    async def follow(self, last_id: str = "") -> AsyncIterator[WebSocketConnection]:
        """A WebSocket of the user's."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream, trio.open_nursery() as nursery:
            yield await self._upgrade(nursery, stream, self.caller.token or "", last_id)
            nursery.cancel_scope.cancel()

    async def refused(self, token: str | None) -> int:
        """With which status a WebSocket is refused."""
        statuses = []
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        try:
            async with stream, trio.open_nursery() as nursery:
                await self._upgrade(nursery, stream, token or "", "")
                nursery.cancel_scope.cancel()
        except* ConnectionRejected as group:
            statuses = [error.status_code for error in group.exceptions]
        return statuses[0] if statuses else 101

    async def _upgrade(
        self, nursery: trio.Nursery, stream: trio.SocketStream, token: str, last_id: str
    ) -> WebSocketConnection:
        headers = [(b"Authorization", f"Bearer {token}".encode())]
        if last_id:
            headers.append((b"Last-Event-ID", last_id.encode()))
        resource = f"/users/{self.user}/updates/ws"
        return await wrap_client_stream(nursery, stream, "test", resource, extra_headers=headers)

    @asynccontextmanager
    async def listen(self, last_id: str = "") -> AsyncIterator[Stream]:
        """Server-Sent Events of the user's."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        lines = [
            f"GET /users/{self.user}/updates HTTP/1.1",
            "Host: test",
            f"Authorization: Bearer {self.caller.token}",
            *([f"Last-Event-ID: {last_id}"] if last_id else []),
        ]
        async with stream:
            await stream.send_all("\r\n".join([*lines, "", ""]).encode())
            yield Stream(stream)


class Stream:
    """A reader of Server-Sent Events, chunked coding undone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._raw = b""
        self._text = ""
        self.head = b""
        self.last_id = ""

    async def block(self) -> list[str] | None:
        """The lines of the next block; None at the end of the stream."""
        while "\n\n" not in self._text:
            if not await self._chunk():
                return None
        block, _, self._text = self._text.partition("\n\n")
        return block.split("\n")

    async def event(self) -> Any:
        """The next event; signs of life are passed over."""
        while True:
            block = await self.block()
            assert block is not None, "the stream ended"
            data = None
            for line in block:
                if line.startswith("id: "):
                    self.last_id = line[4:]
                elif line.startswith("data: "):
                    data = json.loads(line[6:])
            if data is not None:
                return data

    async def begin(self) -> str:
        """The answer's head is read, and the position at which the stream begins; it."""
        while not self.last_id:
            block = await self.block()
            assert block is not None
            self.last_id = "".join(line[4:] for line in block if line.startswith("id: "))
        return self.last_id

    async def _chunk(self) -> bool:
        if not self.head:
            self.head = await self._until(b"\r\n\r\n")
        size = int(await self._until(b"\r\n"), 16)
        while len(self._raw) < size + 2:
            await self._more()
        self._text += self._raw[:size].decode()
        self._raw = self._raw[size + 2 :]
        return size > 0

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._raw:
            await self._more()
        found, _, self._raw = self._raw.partition(mark)
        return found

    async def _more(self) -> None:
        with trio.fail_after(SILENCE_S):
            data = await self._stream.receive_some()
        assert data, "the server closed within a chunk"
        self._raw += data


@asynccontextmanager
async def open_house(tmp_path: Any, **options: Any) -> AsyncIterator[House]:
    async with open_api_world(tmp_path) as world, trio.open_nursery() as nursery:
        services = world.services
        made = Updates(
            gateway=services.gateway,
            store=services.store,
            hub=services.hub,
            options=UpdateOptions(**options),
        )
        async with _served(world, made, nursery) as (app_world, port):
            user, caller = await app_world.user("alice")
            yield House(app_world, user, caller, port)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _served(
    world: ApiWorld, updates: Updates, nursery: trio.Nursery
) -> AsyncIterator[tuple[ApiWorld, int]]:
    api = replace(world.api, updates=updates)
    app = create_app(ready=_healthy, live=_healthy, metrics=_metrics, services=api)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    leave = trio.Event()
    ended = trio.Event()

    async def serve() -> None:
        await serve_http(app, [listener.detach()], leave=leave.wait, grace_s=0.2, flush_s=SILENCE_S)
        ended.set()

    nursery.start_soon(serve)
    yield ApiWorld(world.services, app, api), port
    leave.set()
    with trio.fail_after(SILENCE_S):
        await ended.wait()
