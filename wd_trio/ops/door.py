"""The door: who may come in, and to which worker a connection goes.

Counts are the supervisor's own, from acceptance until the worker tells of the end (or dies): no worker has to be
asked. The worker with the fewest connections gets the next one, a new one as well as one that another worker had
(moved from one that leaves, survived one that died). One that a worker could not take goes to another; only when
three could not is it refused. Refusals are one line in the protocol's words, sent without waiting: a full server
spends nothing on those it cannot serve.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
import trio

from wd_trio.config import Limits
from wd_trio.ops import metrics
from wd_trio.ops.connections import UNIX, Connections

log = structlog.get_logger()

REFUSALS: Final = {
    "imap": b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
    "pop3": b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
    "lmtp": b"421 4.3.2 Too many connections, try again later\r\n",
}
TRIES: Final = 3


@dataclass(slots=True)
class Arrival:
    """A connection on its way to a worker, by its number, with input that was taken from it and not dealt with."""

    number: int
    unread: bytes = b""
    tries: int = 0


class Taker(Protocol):
    """A worker that takes connections."""

    @property
    def load(self) -> int:
        """Connections it has or is about to get."""
        ...

    def give(self, arrival: Arrival) -> None:
        """Make the arrival the worker's; the worker's side hands it over as soon as it can."""
        ...


class Door:
    """Counts, places and refuses connections."""

    def __init__(self, limits: Limits, connections: Connections) -> None:
        self.limits = limits
        self.connections = connections
        self._takers: list[Taker] = []
        self._waiting: deque[Arrival] = deque()
        self._wanted = trio.Event()
        self._open = trio.Event()
        self._open.set()

    def __len__(self) -> int:
        """Connections that are open or on their way."""
        return len(self.connections)

    async def wait_wanted(self) -> None:
        """Wait until connections are let in, and some worker takes them."""
        while not (self._takers and self._open.is_set()):
            await self._open.wait()
            await self._wanted.wait()

    # -- standing still, for a successor

    def pause(self) -> None:
        """Let nobody in and send nothing to workers, until `resume`; who comes all the same waits."""
        self._open = trio.Event()

    def resume(self) -> None:
        self._open.set()

    async def wait_open(self) -> None:
        """Wait while the door is paused."""
        await self._open.wait()

    @property
    def waiting(self) -> tuple[Arrival, ...]:
        """Those that no worker has been found for."""
        return tuple(self._waiting)

    # -- coming in

    def open_to(self, taker: Taker) -> None:
        """The worker takes connections from now on, those first that wait already."""
        self._takers.append(taker)
        self._wanted.set()
        while self._waiting:
            self.place(self._waiting.popleft())

    def close_to(self, taker: Taker) -> None:
        """The worker takes no more. Idempotent."""
        if taker in self._takers:
            self._takers.remove(taker)
        if not self._takers:
            self._wanted = trio.Event()

    def come(self, protocol: str, sock: socket.socket, ip: str, port: int, *, secure: bool = False) -> None:
        """Let an accepted connection in, or refuse it. `secure`: TLS has been ended before us."""
        number = self.admit(protocol, sock, ip, port, secure=secure)
        if number is not None:
            self.place(Arrival(number))

    def admit(
        self, protocol: str, sock: socket.socket, ip: str, port: int, *, secure: bool = False
    ) -> int | None:
        """Keep an accepted connection for whoever places it later; its number, or None when it was refused."""
        if len(self) >= self.limits.connections or self.connections.full:
            self._refuse(protocol, sock, "server full")
            return None
        if ip != UNIX and self.connections.of_ip(ip) >= self.limits.connections_per_ip:
            self._refuse(protocol, sock, "address full")
            return None
        return self.connections.enter(protocol, sock, ip, port, secure=secure)

    def come_back(self, arrivals: Iterable[Arrival], refuser: Taker | None = None) -> None:
        """Find another worker for connections that theirs could not take: not that one again, if there is another,
        though it may have the fewest."""
        for arrival in arrivals:
            arrival.tries += 1
            if arrival.tries < TRIES:
                self.place(arrival, but=refuser)
            else:
                self._turn_away(arrival, "no room in workers")

    def refuse_waiting(self) -> None:
        """Refuse what still waits for a worker: there will be none."""
        while self._waiting:
            self._turn_away(self._waiting.popleft(), "stopping")

    def place(self, arrival: Arrival, *, but: Taker | None = None) -> None:
        """Give a connection to the worker with the fewest, or to the next that there is; to `but` last."""
        if self._takers:
            min(self._takers, key=lambda taker: (taker is but, taker.load)).give(arrival)
        else:
            self._waiting.append(arrival)

    def _turn_away(self, arrival: Arrival, reason: str) -> None:
        protocol = self.connections.slots.at(arrival.number).protocol
        metrics.refused_total.labels(protocol, reason).inc()
        self.connections.end(arrival.number, REFUSALS[protocol])

    def _refuse(self, protocol: str, sock: socket.socket, reason: str) -> None:
        metrics.refused_total.labels(protocol, reason).inc()
        with sock, contextlib.suppress(OSError):  # one that is gone already needs no words
            sock.setblocking(False)
            sock.send(REFUSALS[protocol])
            sock.shutdown(socket.SHUT_RDWR)
