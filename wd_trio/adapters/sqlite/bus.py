"""Buses of the embedded engine: hints between the processes of one server, or between nobody.

`HubBus` speaks with the supervisor's hub over one Unix SOCK_SEQPACKET socket, a bounded list of hints for each
datagram. Publishing only queues; one task (`run`) encodes and sends, so that a burst costs few system calls and a
slow hub costs the publisher nothing. A full queue is dropped whole and one order to resync takes its place:
readers then ask the store, which is right in any case. Every process hears of every user: there is nothing to follow.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog
import trio

from wd_trio import telemetry
from wd_trio.adapters.hints import DATAGRAM_BYTES, ENCODED_RESYNC, datagrams, decode_datagram, encode_hint
from wd_trio.errors import Unavailable
from wd_trio.ports.bus import Hint, Resync

log = structlog.get_logger()

QUEUE_HINTS: Final = 1000


class LocalBus:
    """The bus of a process that has no peers: hints go nowhere and none ever comes."""

    def publish_nowait(self, hint: Hint) -> None:
        pass

    def follow(self, user_id: str) -> None:
        pass

    def unfollow(self, user_id: str) -> None:
        pass

    async def receive(self) -> Sequence[Hint | Resync]:
        await trio.sleep_forever()
        raise AssertionError  # sleep_forever ends by cancellation only

    async def run(self) -> None:
        """Nothing to send, for ever."""
        await trio.sleep_forever()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Nothing to leave."""


class HubBus:
    """The bus of a worker; `run` has to run beside it. Its first word to its reader is Resync."""

    def __init__(self, sock: socket.socket) -> None:
        """`sock` is the worker's end of a SEQPACKET pair with the hub, and the bus's to close."""
        sock.setblocking(False)
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._queue: deque[Hint | None] = deque()
        self._some = trio.Event()
        self._flushed = trio.Event()  # set while nothing that was published waits
        self._flushed.set()
        self._new = True

    def publish_nowait(self, hint: Hint) -> None:
        """Queue a hint for all other processes; in place of a full queue, an order to resync."""
        if len(self._queue) >= QUEUE_HINTS:
            telemetry.hints_total.labels("dropped").inc(len(self._queue) + 1)
            self._queue.clear()
            self._queue.append(None)
        else:
            self._queue.append(hint)
        if self._flushed.is_set():
            self._flushed = trio.Event()
        self._some.set()

    def follow(self, user_id: str) -> None:
        pass

    def unfollow(self, user_id: str) -> None:
        pass

    async def run(self) -> None:
        """Send what is published, for ever; Unavailable when the hub is gone."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._queue:
                taken, self._queue = self._queue, deque()
                encoded = [ENCODED_RESYNC if hint is None else encode_hint(hint) for hint in taken]
                for datagram in datagrams(encoded):
                    try:
                        await self._sock.send(datagram, socket.MSG_NOSIGNAL)
                    except (OSError, trio.ClosedResourceError) as error:
                        raise Unavailable("the hub is gone", what="bus") from error
                telemetry.hints_total.labels("sent").inc(len(taken))
            self._flushed.set()

    async def flush(self) -> None:
        """Wait until what was published is sent."""
        await self._flushed.wait()

    async def receive(self) -> Sequence[Hint | Resync]:
        """The hints of the next datagram of another worker. Unavailable when the hub is gone."""
        if self._new:
            self._new = False
            await trio.lowlevel.checkpoint()
            return [Resync()]
        while True:
            try:
                datagram: Any = await self._sock.recv(DATAGRAM_BYTES)
            except (OSError, trio.ClosedResourceError) as error:
                raise Unavailable("the hub is gone", what="bus") from error
            if not datagram:
                raise Unavailable("the hub is gone", what="bus")
            try:
                return decode_datagram(datagram)
            except msgspec.DecodeError as error:
                log.warning("a datagram that is no hint", error=str(error))
                return [Resync()]

    def close(self) -> None:
        """Leave the hub. Idempotent."""
        self._sock.close()
