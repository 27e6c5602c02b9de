"""Idle connections: how soon they hear of a delivery, and what each of them costs in memory.

Latency is from the last byte of the message sent by LMTP to the EXISTS at the watching connection, so the commit is
in it. Memory is the slope between two plateaus of connections that have selected a mailbox and wait in IDLE, spread
over the accounts: what the server has anyway is not in it, nor are the kernel's socket buffers.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scripts.bench import samples
from scripts.bench.rows import Rows, deliver
from scripts.bench.target import SINKS, WRITERS, Sizes, Target
from scripts.bench.wire import (
    PATIENCE_S,
    Exchange,
    Fault,
    Line,
    Script,
    Timings,
    codes,
    greeting,
    imap_do,
    play,
)

SETTLE_S = 3.0


def _idles(line: Line, tag: bytes = b"z") -> Script:
    line.tag += 1
    yield Exchange(b"%b%d IDLE\r\n" % (tag, line.tag), lambda data: b"+ " in data and data.endswith(b"\r\n"))


def _watcher(rows: Rows, line: Line, account: int, tag: bytes = b"z") -> None:
    rows.log_in(line, account)
    play(line, imap_do(line, b"SELECT INBOX"))
    play(line, _idles(line, tag))


class Push:
    """Deliveries one after the other to a mailbox that so many connections watch."""

    def __init__(self, target: Target, sizes: Sizes, connections: int, *, tag: bytes = b"z") -> None:
        """Opens the connections, whose IDLE's tag begins so; `run` once, `close` once."""
        self._recipient = target.recipient(SINKS)
        self._count = sizes.pushes
        rows = Rows(target, sizes)
        self._watchers = [Line(number) for number in range(connections)]
        for line in self._watchers:
            _watcher(rows, line, SINKS, tag)
        self._sender = Line(0, target.places["lmtp"])
        play(self._sender, greet())

    def run(self) -> Timings:
        """A latency for each EXISTS."""
        timings = Timings()
        began_s = time.perf_counter()
        for number in range(self._count):
            letter = samples.distinct(samples.message(3, 2_000), number)
            timings.latencies_s.extend(
                _one_push(self._sender, self._watchers, deliver([self._recipient], letter))
            )
        timings.elapsed_s = time.perf_counter() - began_s
        return timings

    def close(self) -> None:
        for line in (*self._watchers, self._sender):
            line.close()


def greet() -> Script:
    """The beginning of an LMTP connection."""
    yield Exchange(b"", greeting)
    yield Exchange(b"LHLO bench.example.com\r\n", codes(1))


def _one_push(sender: Line, watchers: list[Line], script: Script) -> list[float]:
    """One delivery; for each watcher the time from the end of the message to its EXISTS."""
    sender.start(next(script))
    while (reply := sender.read()) is None:
        pass
    content = script.send(reply)
    waiting = {line.open_socket().fileno(): line for line in watchers}
    latencies = []
    with select.epoll() as poll:
        for descriptor, line in waiting.items():
            line.over = lambda data: b" EXISTS\r\n" in data
            poll.register(descriptor, select.EPOLLIN)
        sent_s = time.perf_counter()
        sender.start(content)
        while waiting:
            events = poll.poll(PATIENCE_S)
            if not events:
                raise Fault(f"{len(waiting)} connections heard nothing of a delivery")
            for descriptor, _ in events:
                if waiting[descriptor].read() is not None:
                    latencies.append(time.perf_counter() - sent_s)
                    poll.unregister(descriptor)
                    del waiting[descriptor]
    while sender.read() is None:
        pass
    return latencies


@dataclass(frozen=True, slots=True)
class Slope:
    """Memory of one idle connection, from two plateaus."""

    bytes_each: float
    plateaus_bytes: tuple[int, int]


def memory(target: Target, sizes: Sizes) -> Slope:
    """Hold that many idle connections twice; what the difference is for each."""
    with held(target, sizes, range(WRITERS, WRITERS + max(sizes.connections))) as slope:
        return slope


@contextmanager
def held(target: Target, sizes: Sizes, accounts: Sequence[int]) -> Iterator[Slope]:
    """As `memory`, spread over these accounts, while the connections are still held."""
    rows = Rows(target, sizes)
    lines: list[Line] = []
    plateaus = []
    for count in sizes.idle:
        while len(lines) < count:
            line = Line(len(lines))
            _watcher(rows, line, accounts[len(lines) % len(accounts)])
            lines.append(line)
        time.sleep(min(SETTLE_S, sizes.seconds))  # the server is to come to rest
        plateaus.append(target.memory_bytes())
    low, high = plateaus
    try:
        yield Slope((high - low) / (sizes.idle[1] - sizes.idle[0]), (low, high))
    finally:
        for line in lines:
            line.close()
