"""The client side of the benchmarks: raw sockets, one epoll loop, operations as generators.

An operation yields exchanges (bytes to send, and a test that says when the reply is complete) and gets each reply
back; when the generator ends, the operation is done and the connection begins its next one. Nothing is parsed that
the measurement does not need, so that the client stays far below the server's cost: a command costs it some ten
microseconds. Sends block: on loopback a server that reads takes them at once.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

PATIENCE_S = 120.0
READ_BYTES = 1 << 18

Place: TypeAlias = tuple[str, int]
Over: TypeAlias = Callable[[bytearray], bool]


class Fault(Exception):
    """The server said something else than the benchmark needs, or nothing."""


class Exchange(NamedTuple):
    """Bytes to send, and the test for the end of the reply; with `fresh`, on a new connection to that place."""

    send: bytes
    over: Over
    fresh: Place | None = None


Script: TypeAlias = Generator[Exchange, bytearray, None]


class Line:
    """One connection. `number` counts connections from 0; `at` counts its operations."""

    def __init__(self, number: int, place: Place | None = None) -> None:
        self.number = number
        self.at = 0
        self.tag = 0
        self.facts: dict[str, list[int]] = {}
        self.buffer = bytearray()
        self.over: Over = bool
        self.began_s = 0.0
        self.script: Script | None = None
        self.sock: socket.socket | None = None
        if place is not None:
            self.connect(place)

    def connect(self, place: Place) -> None:
        self.close()
        self.sock = socket.create_connection(place, timeout=PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def start(self, exchange: Exchange) -> None:
        """Send an exchange's bytes; its reply is still to come."""
        if exchange.fresh is not None:
            self.connect(exchange.fresh)
        self.over = exchange.over
        if exchange.send:
            self.open_socket().sendall(exchange.send)

    def open_socket(self) -> socket.socket:
        if self.sock is None:
            raise Fault("there is no connection")
        return self.sock

    def read(self) -> bytearray | None:
        """One read; the whole reply once it is complete."""
        data = self.open_socket().recv(READ_BYTES)
        if not data:
            raise Fault(f"the server closed the connection after {bytes(self.buffer[-200:])!r}")
        self.buffer += data
        if not self.over(self.buffer):
            return None
        reply, self.buffer = self.buffer, bytearray()
        return reply


@dataclass(slots=True)
class Timings:
    """What a run took: one latency for each operation, and the time from its first byte to its last."""

    latencies_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    def percentile(self, share: float) -> float:
        """The latency below which that share of the operations stayed; 0 without operations."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def play(line: Line, script: Script) -> None:
    """Run one operation to its end, blocking."""
    try:
        exchange = next(script)
        while True:
            line.start(exchange)
            while (reply := line.read()) is None:
                pass
            exchange = script.send(reply)
    except StopIteration:
        return


class Drive:
    """All connections at once, each at its own operations, for `seconds` or `most` operations a connection."""

    def __init__(
        self, lines: Sequence[Line], operation: Callable[[Line], Script], *, seconds: float, most: int | None
    ) -> None:
        self._lines = lines
        self._operation = operation
        self._seconds = seconds
        self._last = {line.number: None if most is None else line.at + most for line in lines}
        self._by_descriptor: dict[int, Line] = {}
        self._poll = select.epoll()
        self._timings = Timings()
        self._began_s = 0.0

    def run(self) -> Timings:
        self._began_s = time.perf_counter()
        with self._poll:
            for line in self._lines:
                self._watch(line)
                self._begin(line)
            while self._by_descriptor:
                events = self._poll.poll(PATIENCE_S)
                if not events:
                    raise Fault(f"no reply within {PATIENCE_S:.0f} s")
                for descriptor, _ in events:
                    self._read(self._by_descriptor[descriptor])
        self._timings.elapsed_s = time.perf_counter() - self._began_s
        return self._timings

    def _watch(self, line: Line) -> None:
        if line.sock is not None:
            self._by_descriptor[line.sock.fileno()] = line
            self._poll.register(line.sock, select.EPOLLIN)

    def _unwatch(self, line: Line) -> None:
        if line.sock is not None and self._by_descriptor.pop(line.sock.fileno(), None) is not None:
            self._poll.unregister(line.sock)

    def _begin(self, line: Line) -> None:
        last = self._last[line.number]
        late = time.perf_counter() - self._began_s >= self._seconds
        if late or (last is not None and line.at >= last):
            self._unwatch(line)
            return
        line.began_s = time.perf_counter()
        line.script = self._operation(line)
        self._start(line, next(line.script))

    def _start(self, line: Line, exchange: Exchange) -> None:
        if exchange.fresh is None:
            line.start(exchange)
            return
        self._unwatch(line)
        line.start(exchange)
        self._watch(line)

    def _read(self, line: Line) -> None:
        reply = line.read()
        if reply is None or line.script is None:
            return
        try:
            self._start(line, line.script.send(reply))
        except StopIteration:
            self._timings.latencies_s.append(time.perf_counter() - line.began_s)
            line.at += 1
            self._begin(line)


def drive(
    lines: Sequence[Line], operation: Callable[[Line], Script], *, seconds: float, most: int | None = None
) -> Timings:
    """Every line at operation after operation; no new one is begun after `seconds`."""
    return Drive(lines, operation, seconds=seconds, most=most).run()


# --- IMAP: a reply is complete with its tagged line -------------------------------------------------------


def last_line(data: bytearray) -> bytearray:
    """The last complete line when the data ends with it, else nothing."""
    if not data.endswith(b"\r\n"):
        return bytearray()
    return data[data.rfind(b"\r\n", 0, len(data) - 2) + 2 :] if data.count(b"\r\n") > 1 else data


def _tagged(tag: bytes) -> Over:
    def over(data: bytearray) -> bool:
        if not data.endswith(b"\r\n"):
            return False
        before = data.rfind(b"\r\n", 0, len(data) - 2)
        return data.startswith(tag, before + 2 if before >= 0 else 0)

    return over


def greeting(data: bytearray) -> bool:
    return data.endswith(b"\r\n")


def command(line: Line, *texts: bytes, fresh: Place | None = None) -> Exchange:
    """IMAP commands in one send; the reply ends with the last one's tagged line."""
    parts = []
    tag = b""
    for text in texts:
        line.tag += 1
        tag = b"z%d " % line.tag
        parts.append(tag + text + b"\r\n")
    return Exchange(b"".join(parts), _tagged(tag), fresh)


def imap(line: Line, *texts: bytes) -> Generator[Exchange, bytearray, bytearray]:
    """Commands in one send; the whole reply, whose last tagged line says OK."""
    reply = yield command(line, *texts)
    end = last_line(reply)
    if end.split(b" ", 2)[1] != b"OK":
        raise Fault(f"{texts[-1][:80]!r} was answered {bytes(end)!r}")
    return reply


def imap_do(line: Line, *texts: bytes) -> Script:
    yield from imap(line, *texts)


# --- LMTP, POP3, HTTP -------------------------------------------------------------------------------------


def codes(count: int) -> Over:
    """Complete when `count` replies are there, continuation lines (250-…) not counted."""

    def over(data: bytearray) -> bool:
        if not data.endswith(b"\r\n"):
            return False
        return sum(row[3:4] == b" " for row in data.split(b"\r\n")[:-1]) >= count

    return over


def expect(reply: bytearray, *beginnings: bytes) -> None:
    """Each of these begins one of the reply's lines. Fault otherwise."""
    for beginning in beginnings:
        if not (reply.startswith(beginning) or b"\r\n" + beginning in reply):
            raise Fault(f"{beginning!r} expected, got {bytes(reply[:300])!r}")


def pop3_lines(data: bytearray) -> bool:
    return data.endswith(b"\r\n.\r\n") or (data.startswith(b"-ERR") and data.endswith(b"\r\n"))


def http(data: bytearray) -> bool:
    """A response with Content-Length, which all of the API's that are measured have."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(data[:end]).lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise Fault(f"a response without its length: {head!r}")
    return len(data) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
