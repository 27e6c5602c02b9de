"""The IMAP connections of one worker: those with a task, and the parked ones (servers/parking.py), as one host."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from wd_trio.servers.driver import PARKED, Connection, DriverOptions, Peer, peer_of
from wd_trio.servers.imap.options import PROTOCOL, ImapOptions, ImapServices
from wd_trio.servers.imap.serve import serve_imap
from wd_trio.servers.listener import ConnectionHost
from wd_trio.servers.parking import Parking, ParkingOptions
from wd_trio.servers.slots import Slot, Slots


class ImapHost:
    """A ConnectionHost whose connections park. All of them have slots in one table."""

    protocol: Final = PROTOCOL

    def __init__(
        self,
        services: ImapServices,
        imap: ImapOptions,
        *,
        slots: Slots,
        nursery: trio.Nursery,
        options: DriverOptions | None = None,
        parking: ParkingOptions | None = None,
        on_end: Callable[[Slot], None],
        on_leave: Callable[[Slot, str, socket.socket, bytes], None],
        vital: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]] = lambda run: run(),
    ) -> None:
        """As a ConnectionHost. `on_leave` is told of those that go on in other processes only; `vital` runs what must
        not fail: all parked connections hang on it."""
        self._services = services
        self._imap = imap
        self._on_end = on_end
        self._on_leave = on_leave
        self.parking = Parking(
            slots,
            services=services,
            imap=imap,
            adopt=self._unparked,
            on_end=on_end,
            on_leave=on_leave,
            options=parking or ParkingOptions(),
        )
        self.awake = ConnectionHost(
            PROTOCOL,
            self._serve,
            nursery=nursery,
            options=options,
            on_end=self._ended,
            on_leave=self._left,
        )
        nursery.start_soon(vital, self.parking.run)

    def __len__(self) -> int:
        return len(self.awake) + len(self.parking)

    def adopt(self, sock: socket.socket, peer: Peer, *, slot: Slot, unread: bytes = b"") -> None:
        """Take a connected socket over: one that has nothing to do is parked at once."""
        if self.parking.fits(slot, unread):
            self.parking.take(slot, sock)
        else:
            self.awake.adopt(sock, peer, slot=slot, unread=unread)

    async def drain(self, *, deadline_s: float, moving: bool = False) -> int:
        """Tell every session to end, or to move, the parked ones first; how many had to be cut off."""
        await self.parking.drain(moving=moving)
        left = await self.awake.drain(deadline_s=deadline_s, moving=moving)
        self.parking.stop()
        return left

    async def _serve(self, connection: Connection) -> str:
        return await serve_imap(connection, self._services, self._imap, self.parking)

    def _unparked(self, sock: socket.socket, slot: Slot) -> None:
        self.awake.adopt(sock, peer_of(slot), slot=slot)

    def _ended(self, slot: Slot) -> None:
        self.parking.came_back(slot)
        self._on_end(slot)

    def _left(self, slot: Slot, why: str, sock: socket.socket, unread: bytes) -> None:
        if why == PARKED:
            self.parking.park(slot, sock)
        else:
            self.parking.came_back(slot)
            self._on_leave(slot, why, sock, unread)
