"""Workers of one server, all in this process: connections go from one to the next, which leaves or is killed.

The supervisor's part is played here, by the same rules: each connection has a slot of one table and a second
descriptor. `move` drains a worker as a reload does; `kill` leaves its connections where they are at that moment: its
tasks are cancelled, but nothing that they would do on their way out reaches client, slot or engine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from wd_trio.servers import driver
from wd_trio.servers.driver import MOVED, Connection, peer_of
from wd_trio.servers.listener import ConnectionHost, Handler
from wd_trio.servers.slots import SLOT_BYTES, Phase, Slot, Slots, why_lost

DRAIN_S = 20.0


@dataclass
class Point:
    """Where an async method stands still."""

    reached: trio.Event = field(default_factory=trio.Event)


@contextmanager
def standing_still(
    patches: pytest.MonkeyPatch, target: object, name: str, when: Callable[[], bool], *, after: bool = False
) -> Iterator[Point]:
    """Let a call of an async method stand still for ever, before what it does or after it, `when` that is so."""
    whole = getattr(target, name)
    point = Point()

    async def stands_still(*arguments: Any, **options: Any) -> Any:
        stands = when()
        outcome = await whole(*arguments, **options) if after or not stands else None
        if stands:
            point.reached.set()
            await trio.sleep_forever()
        return outcome

    with patches.context() as patch:
        patch.setattr(target, name, stands_still)
        yield point


class Server:
    """Workers that follow each other. `lost` tells why connections could not outlive theirs, by number."""

    def __init__(self, protocol: str, nursery: trio.Nursery, patches: pytest.MonkeyPatch) -> None:
        self.lost: dict[int, str] = {}
        self.ended: list[int] = []
        self._protocol = protocol
        self._nursery = nursery
        self._slots = Slots.create(64)
        self._count = 0
        self._left: list[tuple[Slot, socket.socket, bytes]] = []
        self._dead: set[Connection] = set()
        self._ends = 0
        whole = Connection.end

        def end(connection: Connection, reason: str) -> None:
            if connection in self._dead:
                self._ends += 1
                trio.lowlevel.notify_closing(connection._sock)
                connection._sock.close()
            else:
                whole(connection, reason)

        patches.setattr(Connection, "end", end)
        patches.setattr(driver, "LINGER_S", 0.01)

    def begin(self, handler: Handler) -> None:
        """Another worker is the present one."""
        self.host = ConnectionHost(
            self._protocol,
            handler,
            nursery=self._nursery,
            on_end=lambda slot: self.ended.append(slot.number),
            on_leave=self._leaves,
        )

    def _leaves(self, slot: Slot, why: str, sock: socket.socket, unread: bytes) -> None:
        assert why == MOVED
        self._left.append((slot, sock, unread))

    def connect(self, ip: str = "127.0.0.1") -> socket.socket:
        """The client's end of a new connection."""
        ours, theirs = socket.socketpair()
        slot = self._slots.at(self._count)
        self._count += 1
        slot.protocol, slot.id, slot.ip, slot.port = self._protocol, self._count, ip, 25
        slot.phase = Phase.ARRIVED
        self.host.adopt(theirs, peer_of(slot), slot=slot)
        return ours

    def slot(self, number: int = 0) -> Slot:
        return self._slots.at(number)

    async def move(self, handler: Handler) -> None:
        """The present worker leaves, and another goes on with all that it had."""
        await self.start_move()
        self.finish_move(handler)

    async def start_move(self) -> None:
        cut = await self.host.drain(deadline_s=DRAIN_S, moving=True)
        assert not cut, "a connection did not leave"

    def finish_move(self, handler: Handler) -> None:
        self.begin(handler)
        left, self._left = self._left, []
        for slot, sock, unread in left:
            assert why_lost(slot) == ("input lost" if unread else "")
            self.host.adopt(sock, peer_of(slot), slot=slot, unread=unread)

    async def kill(self, handler: Handler) -> None:
        """The present worker is no more at this very moment; another goes on with what can be gone on with."""
        found: list[tuple[Slot, socket.socket, bytes]] = []
        before = self._ends
        for connection, scope in self.host._open.values():
            slot = connection.slot
            stands = bytes(slot.memory[slot.base : slot.base + SLOT_BYTES])
            found.append((slot, socket.socket(fileno=os.dup(connection._sock.fileno())), stands))
            self._dead.add(connection)
            scope.cancel()
        while self._ends - before < len(found):
            await trio.lowlevel.checkpoint()
        self.begin(handler)
        for slot, sock, stands in found:
            slot.memory[slot.base : slot.base + SLOT_BYTES] = stands
            if why := why_lost(slot):
                self.lost[slot.number] = why
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            else:
                self.host.adopt(sock, peer_of(slot), slot=slot)

    async def wait_resumed(self) -> None:
        """Wait until every connection of the present worker waits for its client."""
        while any(
            connection._receiving is None and connection._sending is None
            for connection, _ in self.host._open.values()
        ):
            await trio.lowlevel.checkpoint()

    async def wait_empty(self) -> None:
        while len(self.host):
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self._slots.close()


@asynccontextmanager
async def open_server(protocol: str) -> AsyncIterator[Server]:
    with pytest.MonkeyPatch.context() as patches:
        async with trio.open_nursery() as nursery:
            server = Server(protocol, nursery, patches)
            try:
                yield server
            finally:
                nursery.cancel_scope.cancel()
        server.close()
