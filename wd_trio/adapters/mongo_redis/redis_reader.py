"""The reading side of the bus: one thread that holds the subscriptions and hands over what comes.

The thread waits for its sockets and for a wake-up of the loop, so that a user is followed as soon as it is asked
for. On any surprise (a lost connection, a slot of the cluster that moved, silence after a PING) it drops everything
and begins anew: connects, subscribes to all that is followed, and orders a resync, because hints may have been lost
meanwhile. It begins within a second of an engine's return.

One connection does for one server or a cluster's classic pub/sub, which every node relays to every other. Where a
cluster offers sharded pub/sub, each channel is read at the primary that has its slot.
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Protocol

import redis
import structlog

from wd_trio.adapters.mongo_redis.pipeline import RedisLink
from wd_trio.adapters.mongo_redis.redis_routes import ClusterRoute, DriverConnection, connect, locator, packed
from wd_trio.adapters.mongo_redis.redis_url import Node

log = structlog.get_logger()

PING_S: Final = 10.0
ANSWER_S: Final = 3.0
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 1.0
CHANNELS_A_COMMAND: Final = 500


class Told(Protocol):
    """Who is told, in the reader's thread."""

    def message(self, channel: str, payload: bytes) -> None: ...

    def confirmed(self, channel: str | None) -> None:
        """From now on messages of this channel come; None: of all that were asked for before a new beginning."""
        ...


class Reader:
    """Subscribes to the channels that it is told to keep. `keep` and `leave` are for one thread, the loop's."""

    def __init__(self, link: RedisLink, told: Told) -> None:
        self._link = link
        self._told = told
        self._kept: set[str] = set()
        self._orders: deque[str] = deque()  # channels whose state changed since the thread last looked
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="redis-bus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def keep(self, channel: str) -> None:
        with self._lock:
            self._kept.add(channel)
            self._orders.append(channel)
        self._wake_up()

    def leave(self, channel: str) -> None:
        with self._lock:
            self._kept.discard(channel)
            self._orders.append(channel)
        self._wake_up()

    def close(self) -> None:
        """Let the thread end, without waiting for it. Idempotent."""
        self._closing.set()
        self._wake_up()
        if self._thread.ident is None:
            self._end()

    def _wake_up(self) -> None:
        with suppress(OSError):  # full of wake-ups, or closed by the thread that has ended
            self._wake.send(b"!")

    def _end(self) -> None:
        self._wake.close()
        self._woken.close()

    # -- the thread's side

    def _run(self) -> None:
        pause_s = RETRY_FIRST_S
        complained = False
        while not self._closing.is_set():
            lines = _Lines(self._link)
            try:
                for _ in self._serve(lines):
                    pause_s, complained = RETRY_FIRST_S, False
            except (redis.RedisError, OSError, _Surprise) as error:
                if not complained:
                    complained = True
                    log.warning("bus_interrupted", error=f"{type(error).__name__}: {error}"[:500])
            finally:
                lines.close()
            self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, RETRY_LAST_S)
        self._end()

    def _serve(self, lines: _Lines) -> Iterator[None]:
        """Subscribe and read, until something goes wrong or the reader is closed; yields when all is subscribed."""
        with self._lock:
            self._orders.clear()
            beginning = set(self._kept)
        lines.subscribe(beginning)
        while not self._closing.is_set():
            lines.wait(self._woken)
            with suppress(BlockingIOError):
                while self._woken.recv(4096):
                    pass
            lines.change(self._ordered())
            for kind, channel, payload in lines.read():
                if kind in _MESSAGES:
                    self._told.message(channel, payload)
                elif kind in _LEFT and not lines.has_left(channel):
                    raise _Surprise(f"the server ended the subscription of {channel}")
                elif kind in _CONFIRMED and channel not in beginning:
                    self._told.confirmed(channel)
                elif kind in _CONFIRMED:
                    beginning.discard(channel)
                    if not beginning:
                        self._told.confirmed(None)
                        yield

    def _ordered(self) -> list[tuple[str, bool]]:
        """The channels whose state changed, and whether each is to be kept."""
        with self._lock:
            changed = dict.fromkeys(self._orders)
            self._orders.clear()
            return [(channel, channel in self._kept) for channel in changed]


_MESSAGES: Final = (b"message", b"smessage")
_CONFIRMED: Final = (b"subscribe", b"ssubscribe")
_LEFT: Final = (b"unsubscribe", b"sunsubscribe")


class _Surprise(Exception):
    """Something that only a new beginning puts right."""


class _Line:
    """One subscribed connection."""

    def __init__(self, connection: DriverConnection) -> None:
        self.connection = connection
        # The driver's attribute for it, in all of its versions; it offers no way to wait for two connections.
        self.socket: socket.socket = connection._sock  # type: ignore[attr-defined]
        self.heard_at = time.monotonic()
        self.pinged_at: float | None = None

    def send(self, command: str, channels: Iterable[str]) -> None:
        names = list(channels)
        some = [names[at : at + CHANNELS_A_COMMAND] for at in range(0, len(names), CHANNELS_A_COMMAND)]
        self.connection.send_packed_command([packed([(command, *part) for part in some])])

    def read(self) -> Iterator[Any]:
        while self.connection.can_read(0):
            self.heard_at, self.pinged_at = time.monotonic(), None
            yield self.connection.read_response()

    def check(self) -> None:
        """Ask whether anybody is there, after a silence; _Surprise when nobody answers."""
        now = time.monotonic()
        if self.pinged_at is not None and now - self.pinged_at > ANSWER_S:
            raise _Surprise("no answer to a PING")
        if self.pinged_at is None and now - self.heard_at > PING_S:
            self.pinged_at = now
            self.connection.send_packed_command([packed([("PING",)])])


class _Lines:
    """All connections of one beginning, and which channel is on which."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._lines: dict[Node, _Line] = {}
        self.channels: dict[str, _Line] = {}
        self._cluster: ClusterRoute | None = None
        self._locate: Callable[[], Node] | None = None
        if link.address.kind == "cluster":
            self._cluster = ClusterRoute(link.address, link.options.route)
        else:
            self._locate = locator(link.address, link.options.route)
        self._sharded = False
        self._leaving: Counter[str] = Counter()

    def subscribe(self, channels: Iterable[str]) -> None:
        """Begin with these. redis.RedisError or OSError."""
        if self._cluster is not None:
            self._sharded = offers_sharded(self._cluster)
        self.change([(channel, True) for channel in channels])

    def change(self, wanted: Iterable[tuple[str, bool]]) -> None:
        """Subscribe to each of these, or leave it."""
        subscribe: dict[_Line, list[str]] = {}
        leave: dict[_Line, list[str]] = {}
        for channel, keep in wanted:
            line = self.channels.get(channel)
            if keep and line is None:
                line = self.channels[channel] = self._line_of(channel)
                subscribe.setdefault(line, []).append(channel)
            elif not keep and line is not None:
                del self.channels[channel]
                leave.setdefault(line, []).append(channel)
                self._leaving[channel] += 1
        prefix = "S" if self._sharded else ""
        for line, channels in subscribe.items():
            line.send(f"{prefix}SUBSCRIBE", channels)
        for line, channels in leave.items():
            line.send(f"{prefix}UNSUBSCRIBE", channels)

    def has_left(self, channel: str) -> bool:
        """Whether the end of a subscription, of which the server tells, was asked for here; once for each."""
        self._leaving[channel] -= 1
        asked = self._leaving[channel] >= 0
        if self._leaving[channel] <= 0:
            del self._leaving[channel]
        return asked

    def wait(self, woken: socket.socket) -> None:
        """Wait until there is something to read, somebody wakes, or a second is over."""
        for line in self._lines.values():
            if line.connection.can_read(0):
                return  # the driver or TLS has it already: the socket would keep silent
        waiting = select.poll()
        for end in (woken, *(line.socket for line in self._lines.values())):
            waiting.register(end, select.POLLIN)
        waiting.poll(1000)

    def read(self) -> Iterator[tuple[bytes, str, Any]]:
        """Everything that is there: kind, channel and payload."""
        for line in list(self._lines.values()):
            for reply in line.read():
                if isinstance(reply, list) and len(reply) == 3 and isinstance(reply[1], bytes):
                    yield reply[0], reply[1].decode(), reply[2]
            line.check()

    def close(self) -> None:
        for line in self._lines.values():
            line.connection.disconnect()
        if self._cluster is not None:
            self._cluster.close()

    def _line_of(self, channel: str) -> _Line:
        if self._cluster is not None:
            if self._sharded:
                node = self._cluster.primary_of(channel)
            else:  # any node relays all: each process takes one by lot
                node = next(iter(self._lines), None) or self._cluster.primary_of(secrets.token_hex(4))
        else:
            assert self._locate is not None
            node = next(iter(self._lines), None) or self._locate()
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = _Line(connect(self._link.address, self._link.options.route, node))
        return line


def offers_sharded(cluster: ClusterRoute) -> bool:
    """Whether the cluster has sharded pub/sub (Redis 7)."""
    (known,) = cluster.exchange([("COMMAND", "INFO", "ssubscribe")])
    return isinstance(known, list) and bool(known) and bool(known[0])
