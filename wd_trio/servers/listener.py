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
        on_end: Callable[[str], None] = lambda connection_id: None,
    ) -> None:
        """`on_end` is told the id of each connection once it is closed (the supervisor counts them)."""
        self.protocol = protocol
        self._handler = handler
        self._nursery = nursery
        self._options = options or DriverOptions()
        self._on_end = on_end
        self._open: dict[str, tuple[Connection, trio.CancelScope]] = {}
        self._draining = False
        self._all_gone = trio.Event()
        self._accepted = telemetry.connections_total.labels(protocol)
        self._gauge = telemetry.connections_open.labels(protocol)

    def __len__(self) -> int:
        return len(self._open)

    def adopt(self, sock: socket.socket, peer: Peer) -> None:
        """Take a connected socket over and start serving it; it is closed whatever happens."""
        connection = Connection(sock, peer, options=self._options, on_end=self._ended)
        self._open[peer.id] = (connection, trio.CancelScope())
        self._accepted.inc()
        self._gauge.inc()
        if self._draining:
            connection.begin_drain()
        self._nursery.start_soon(self._serve, connection)

    def _ended(self, connection: Connection, reason: str) -> None:
        del self._open[connection.peer.id]
        self._gauge.dec()
        telemetry.sessions_ended_total.labels(self.protocol, reason).inc()
        self._on_end(connection.peer.id)
        if self._draining and not self._open:
            self._all_gone.set()

    async def _serve(self, connection: Connection) -> None:
        reason = "cancelled"
        try:
            with self._open[connection.peer.id][1]:
                reason = await self._handler(connection)
        except ConnectionOver as over:
            reason = over.reason
        except Exception:
            reason = "error"
            log.exception("connection failed", protocol=self.protocol, connection=connection.peer.id)
        finally:
            connection.end(reason)

    async def drain(self, *, deadline_s: float) -> int:
        """Tell every session to end, wait for them, cancel those left after `deadline_s`; how many were left."""
        self._draining = True
        for connection, _ in list(self._open.values()):
            connection.begin_drain()
        if self._open:
            with trio.move_on_after(deadline_s):
                await self._all_gone.wait()
        left = list(self._open.values())
        for _, scope in left:
            scope.cancel()
        return len(left)
