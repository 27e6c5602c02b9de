"""The hub: the supervisor's relay of change hints between workers.

Each worker has one bus socket (Unix SOCK_SEQPACKET) to the supervisor. What comes from one goes to every other, as
it is: the hub never decodes. Now and then the supervisor has a hint of its own for all. A worker that does not keep
up loses its whole queue and is told to resync instead, so that a stuck worker costs bounded memory and delays nobody.
Hints may be lost, never invented.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final

import trio

from wd_trio.adapters.hints import DATAGRAM_BYTES, RESYNC_DATAGRAM, datagrams, encode_hint
from wd_trio.ops import metrics
from wd_trio.ops.handoff import CROWDED, CROWDED_PAUSE_S
from wd_trio.ports.bus import Hint

QUEUE_DATAGRAMS: Final = 1000

_relayed: Final = metrics.hub_datagrams_total.labels("relayed")
_dropped: Final = metrics.hub_datagrams_total.labels("dropped")


class Hub:
    """The attached workers' bus sockets; for each at most `queue_datagrams` wait."""

    def __init__(self, *, queue_datagrams: int = QUEUE_DATAGRAMS) -> None:
        self._queue_datagrams = queue_datagrams
        self._ports: set[_Port] = set()

    def publish(self, hint: Hint) -> None:
        """Queue a hint for every worker."""
        for datagram in datagrams([encode_hint(hint)]):
            for port in self._ports:
                port.offer(datagram)

    async def serve(self, sock: socket.socket, *, behind: bool = False) -> None:
        """Relay for the worker at the other end of `sock` until it is gone; the socket is closed then. `behind`: it
        may have missed something."""
        port = _Port(sock, self._queue_datagrams)
        self._ports.add(port)
        if behind:
            port.offer(RESYNC_DATAGRAM)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(port.pump)
                async for datagram in port:
                    for other in self._ports:
                        if other is not port:
                            other.offer(datagram)
                nursery.cancel_scope.cancel()
        finally:
            self._ports.discard(port)
            port.close()
            for other in self._ports:  # killed between a commit and its hint, it may have kept the last ones
                other.offer(RESYNC_DATAGRAM)


class _Port:
    """One worker at the hub: what it sends is iterated over, what it is to get is queued."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._most = most
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._queue: deque[bytes] = deque()
        self._some = trio.Event()

    def __aiter__(self) -> _Port:
        return self

    async def __anext__(self) -> bytes:
        try:
            datagram = await self._sock.recv(DATAGRAM_BYTES)
        except ConnectionResetError:
            # Told once of a worker that died with hints unread; what it published before comes after the error.
            datagram = await self._sock.recv(DATAGRAM_BYTES)
        if not datagram:
            raise StopAsyncIteration
        return datagram

    def offer(self, datagram: bytes) -> None:
        """Queue a datagram, or replace a full queue by one order to resync."""
        if len(self._queue) >= self._most:
            self._lose()
        else:
            self._queue.append(datagram)
        _relayed.inc()
        self._some.set()

    def _lose(self) -> None:
        """Have one order to resync in place of all that waits."""
        _dropped.inc(len(self._queue))
        self._queue.clear()
        self._queue.append(RESYNC_DATAGRAM)

    async def pump(self) -> None:
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._queue:
                try:
                    await self._sock.send(self._queue.popleft(), socket.MSG_NOSIGNAL)
                except OSError as error:
                    if error.errno not in CROWDED:
                        return  # it is gone: the reading side ends this port
                    self._lose()
                    await trio.sleep(CROWDED_PAUSE_S)

    def close(self) -> None:
        self._sock.close()
