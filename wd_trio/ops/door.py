"""The door: who may come in, and to which worker a connection goes.

Counts are the supervisor's own, from acceptance until the worker tells of the end (or dies): no worker has to be
asked. The worker with the fewest connections gets the next one. A connection that its worker never acknowledged
has heard nothing yet, so it goes to another one; only when three could not take it is it refused. Refusals are one
line in the protocol's words, sent without waiting: a full server spends nothing on those it cannot serve.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

import structlog
import trio

from wd_trio.config import Limits
from wd_trio.ops import metrics
from wd_trio.servers.driver import Peer

log = structlog.get_logger()

REFUSALS: Final = {
    "imap": b"* BYE [UNAVAILABLE] Too many connections, try again later\r\n",
    "pop3": b"-ERR [SYS/TEMP] Too many connections, try again later\r\n",
    "lmtp": b"421 4.3.2 Too many connections, try again later\r\n",
}
TRIES: Final = 3
UNIX: Final = "unix"


@dataclass(slots=True)
class Arrival:
    """A connection on its way to a worker; the socket is the supervisor's duplicate."""

    sock: socket.socket
    peer: Peer
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

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._takers: list[Taker] = []
        self._waiting: deque[Arrival] = deque()
        self._wanted = trio.Event()
        self._ip_of: dict[str, str] = {}
        self._per_ip: Counter[str] = Counter()
        self._run = os.urandom(3).hex()
        self._numbers = count(1)

    def __len__(self) -> int:
        """Connections that are open or on their way."""
        return len(self._ip_of)

    async def wait_wanted(self) -> None:
        """Wait until some worker takes connections."""
        while not self._takers:
            await self._wanted.wait()

    def open_to(self, taker: Taker) -> None:
        """The worker takes connections from now on, those first that wait already."""
        self._takers.append(taker)
        self._wanted.set()
        while self._waiting:
            self._place(self._waiting.popleft())

    def close_to(self, taker: Taker) -> None:
        """The worker takes no more. Idempotent."""
        if taker in self._takers:
            self._takers.remove(taker)
        if not self._takers:
            self._wanted = trio.Event()

    def come(self, protocol: str, sock: socket.socket, ip: str, port: int, *, secure: bool = False) -> None:
        """Let an accepted connection in, or refuse it. `secure`: TLS has been ended before us."""
        if len(self._ip_of) >= self.limits.connections:
            return self._refuse(protocol, sock, "server full")
        if ip != UNIX and self._per_ip[ip] >= self.limits.connections_per_ip:
            return self._refuse(protocol, sock, "address full")
        peer = Peer(f"{self._run}{next(self._numbers):x}", protocol, ip, port, secure)
        self._ip_of[peer.id] = ip
        self._per_ip[ip] += 1
        return self._place(Arrival(sock, peer))

    def come_back(self, arrivals: Iterable[Arrival]) -> None:
        """Find another worker for connections that theirs could not take; nothing was said to them yet."""
        for arrival in arrivals:
            arrival.tries += 1
            if arrival.tries < TRIES:
                self._place(arrival)
            else:
                self.gone([arrival.peer.id])
                self._refuse(arrival.peer.protocol, arrival.sock, "no room in workers")

    def gone(self, ids: Iterable[str]) -> None:
        """These connections have ended."""
        for connection_id in ids:
            ip = self._ip_of.pop(connection_id, None)
            if ip is None:
                continue
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]

    def refuse_waiting(self) -> None:
        """Refuse what still waits for a worker: there will be none."""
        while self._waiting:
            arrival = self._waiting.popleft()
            self.gone([arrival.peer.id])
            self._refuse(arrival.peer.protocol, arrival.sock, "stopping")

    def _place(self, arrival: Arrival) -> None:
        if self._takers:
            min(self._takers, key=lambda taker: taker.load).give(arrival)
        else:
            self._waiting.append(arrival)

    def _refuse(self, protocol: str, sock: socket.socket, reason: str) -> None:
        metrics.refused_total.labels(protocol, reason).inc()
        with sock, contextlib.suppress(OSError):  # one that is gone already needs no words
            sock.setblocking(False)
            sock.send(REFUSALS[protocol])
            sock.shutdown(socket.SHUT_RDWR)
