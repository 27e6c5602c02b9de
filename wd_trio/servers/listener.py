"""The connections of one protocol in one worker: a task and a cancel scope for each.

The supervisor accepts; a worker adopts the descriptors it is handed. A handler's exception ends its own
connection and nothing else; a drain tells every session, then cancels what is left at its deadline.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
import trio

from wd_trio import telemetry
from wd_trio.servers.driver import Connection, ConnectionOver, DriverOptions, Peer
from wd_trio.servers.slots import Phase, Slot, Standing

log = structlog.get_logger()

Handler: TypeAlias = Callable[[Connection], Awaitable[str]]
"""Serves one connection to its end and returns why it ended, in a fixed word."""


class ConnectionHost:
    """Runs `handler` for every adopted connection, in a nursery its owner keeps open."""

    def __init__(
        self,
        protocol: str,
        handler: Handler,
        *,
        nursery: trio.Nursery,
        options: DriverOptions | None = None,
        on_end: Callable[[Slot], None] = lambda slot: None,
        on_leave: Callable[[Slot, str, socket.socket, bytes], None] | None = None,
    ) -> None:
        """`on_end` is told the slot of each connection once it is closed (the supervisor counts them); `on_leave` of
        each that goes on elsewhere, why, with its socket and the input that nobody has dealt with."""
        self.protocol = protocol
        self._handler = handler
        self._nursery = nursery
        self._options = options or DriverOptions()
        self._on_end = on_end
        self._on_leave = on_leave
        self._open: dict[str, tuple[Connection, trio.CancelScope]] = {}
        self._draining = False
        self._moving = False
        self._all_gone = trio.Event()
        self._accepted = telemetry.connections_total.labels(protocol)
        self._gauge = telemetry.connections_open.labels(protocol)

    def __len__(self) -> int:
        return len(self._open)

    def adopt(
        self, sock: socket.socket, peer: Peer, *, slot: Slot | None = None, unread: bytes = b""
    ) -> None:
        """Take a connected socket over and serve it from where its slot says it stands, a new one from the greeting
        on. It is closed whatever happens, unless it leaves."""
        connection = Connection(
            sock,
            peer,
            options=self._options,
            on_end=self._ended,
            on_leave=self._left if self._on_leave is not None else None,
            slot=slot,
            unread=unread,
        )
        self._open[peer.id] = (connection, trio.CancelScope())
        if connection.slot.phase == Phase.ARRIVED:
            self._accepted.inc()
        self._gauge.inc()
        if self._draining:
            connection.begin_drain(moving=self._moving)
        self._nursery.start_soon(self._serve, connection)

    def _ended(self, connection: Connection, reason: str) -> None:
        self._forget(connection)
        telemetry.sessions_ended_total.labels(self.protocol, reason).inc()
        self._on_end(connection.slot)

    def _left(self, connection: Connection, why: str, sock: socket.socket, unread: bytes) -> None:
        self._forget(connection)
        assert self._on_leave is not None  # a connection without it cannot leave
        self._on_leave(connection.slot, why, sock, unread)

    def _forget(self, connection: Connection) -> None:
        del self._open[connection.peer.id]
        self._gauge.dec()
        if self._draining and not self._open:
            self._all_gone.set()

    async def _serve(self, connection: Connection) -> None:
        reason = "cancelled"
        try:
            with self._open[connection.peer.id][1]:
                if connection.slot.has(Standing.INSIDE):
                    await connection.secure()
                reason = await self._handler(connection)
        except ConnectionOver as over:
            reason = over.reason
        except Exception:
            reason = "error"
            log.exception("connection failed", protocol=self.protocol, connection=connection.peer.id)
        finally:
            connection.end(reason)

    async def drain(self, *, deadline_s: float, moving: bool = False) -> int:
        """Tell every session to end, or to move where another worker goes on; wait for them, cancel those left after
        `deadline_s`; how many were left."""
        self._draining, self._moving = True, moving
        for connection, _ in list(self._open.values()):
            connection.begin_drain(moving=moving)
        if self._open:
            with trio.move_on_after(deadline_s):
                await self._all_gone.wait()
        left = list(self._open.values())
        for _, scope in left:
            scope.cancel()
        return len(left)
