"""The clients that the holder's keeper (holding.py) has in hand, from their arrival to what came of their TLS.

A client waits (its descriptor is ours), is on the way (in a batch that the holder has not acknowledged: ours still,
and the holder's too once the message has left), or is unfinished (the holder's). How far each is is known at any
moment, so that a holder that dies, or a successor of this process, finds nobody twice and loses nobody. Nothing here
waits or speaks: batches are made, and what the holder said of them is heard.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import structlog

from wd_trio.ops import metrics
from wd_trio.ops.tls import channel as c
from wd_trio.ops.tls.state import HoldingState, Newcomer, TlsFacts, Waiting

log = structlog.get_logger()

WAITING: Final = 2000
"""Clients at most that wait for a holder; more are refused."""
ROOM: Final = 1000
"""While so many wait no more are accepted on the ports that begin with TLS: they wait in the backlog. The rest of the
room is for those that are here already, who say STARTTLS or send a PROXY header."""

OnSecured: TypeAlias = Callable[[Newcomer, socket.socket, TlsFacts], None]
"""Takes over the plaintext end, a non-blocking Unix stream socket."""
OnFailed: TypeAlias = Callable[[Newcomer, str], None]
"""The client's connection is closed; why, in a fixed word."""


class Clients:
    """Who wants TLS, and how far each is. `on_secured` or `on_failed` is called once for each that came."""

    def __init__(self, *, on_secured: OnSecured, on_failed: OnFailed) -> None:
        self._on_secured = on_secured
        self._on_failed = on_failed
        self._last_id = 0
        self._batch = 0
        self._sent = False
        self._on_the_way: list[Waiting] = []
        self._waiting: deque[Waiting] = deque()
        self._unfinished: dict[int, Newcomer] = {}

    @property
    def waiting(self) -> int:
        """How many no holder has taken yet."""
        return len(self._waiting) + len(self._on_the_way)

    @property
    def has_room(self) -> bool:
        """Whether more clients had better come."""
        return self.waiting < ROOM

    @property
    def unfinished(self) -> int:
        """How many handshakes the holder has, by our own count."""
        return len(self._unfinished)

    # -- to the holder

    def come(self, newcomer: Newcomer, sock: socket.socket) -> None:
        """Take a client over, or refuse it where too many wait."""
        if len(self._waiting) >= WAITING:
            self.refuse(newcomer, sock, "no room")
            return
        self._last_id += 1
        self._waiting.append(Waiting(self._last_id, newcomer, sock.detach()))

    def refuse(self, newcomer: Newcomer, sock: socket.socket, reason: str) -> None:
        """Close a client's connection."""
        with sock, contextlib.suppress(OSError):  # it may be gone already
            sock.shutdown(socket.SHUT_RDWR)
        self._fail(newcomer, reason)

    def next_batch(self) -> tuple[c.Come, list[int]] | None:
        """What to send next, with the descriptors beside it; None while nobody waits, or the holder has not
        acknowledged the batch before. `left` is to be called in the same step in which it is sent."""
        if self._on_the_way or not self._waiting:
            return None
        count = min(c.BATCH, len(self._waiting))
        self._on_the_way = [self._waiting.popleft() for _ in range(count)]
        self._batch += 1
        message = c.Come(self._batch, [each.id for each in self._on_the_way])
        return message, [each.descriptor for each in self._on_the_way]

    def left(self) -> None:
        """The batch has been sent: it is the holder's, though it has not said so."""
        self._sent = True
        self._unfinished.update((each.id, each.newcomer) for each in self._on_the_way)

    # -- from the holder

    def taken(self, message: c.Taken) -> None:
        """The batch has arrived, or was refused."""
        if message.batch != self._batch:
            return
        batch, self._on_the_way, self._sent = self._on_the_way, [], False
        _close_all(batch)
        if message.refused:
            log.warning("TLS holder has no room for more descriptors", count=len(batch))
            self.gone([(each.id, "no room") for each in batch])

    def done(self, message: c.Done, descriptors: Sequence[int]) -> None:
        """Handshakes are done."""
        if len(descriptors) != len(message.secured):  # lost on the way: the holder has seen their ends
            c.close_all(descriptors)
            self.gone([(secured.id, "no room") for secured in message.secured])
            return
        for secured, descriptor in zip(message.secured, descriptors, strict=True):
            newcomer = self._unfinished.pop(secured.id, None)
            sock = socket.socket(fileno=descriptor)
            if newcomer is None:
                sock.close()
                continue
            sock.setblocking(False)
            metrics.tls_handshakes_total.labels(newcomer.protocol, "done").inc()
            self._on_secured(newcomer, sock, TlsFacts(secured.version, secured.cipher, secured.name))

    def gone(self, failed: Sequence[tuple[int, str]]) -> None:
        """Handshakes came to nothing."""
        for number, reason in failed:
            if (newcomer := self._unfinished.pop(number, None)) is not None:
                self._fail(newcomer, reason)

    def lose(self) -> None:
        """The holder is gone, with every handshake that it had; a batch that had not left waits for the next one."""
        on_the_way, self._on_the_way = self._on_the_way, []
        if self._sent:
            _close_all(on_the_way)
        else:
            self._waiting.extendleft(reversed(on_the_way))
        self._sent = False
        self.gone([(number, "holder died") for number in self._unfinished])

    def fail_waiting(self, reason: str) -> None:
        """There will be no holder for those who wait."""
        waiting, self._waiting = self._waiting, deque()
        _close_all(waiting)
        for each in waiting:
            self._fail(each.newcomer, reason)

    def _fail(self, newcomer: Newcomer, reason: str) -> None:
        metrics.tls_handshakes_total.labels(newcomer.protocol, reason).inc()
        self._on_failed(newcomer, reason)

    # -- across an exec

    def export_state(self, *, pid: int, channel: int, ready: bool) -> HoldingState:
        """All of them, and the holder that they are with."""
        return HoldingState(
            pid=pid,
            channel=channel,
            ready=ready,
            last_id=self._last_id,
            batch=self._batch,
            sent=self._sent,
            on_the_way=list(self._on_the_way),
            waiting=list(self._waiting),
            unfinished=dict(self._unfinished),
        )

    def adopt_state(self, state: HoldingState) -> None:
        """Go on with those that a predecessor of this process had, whose descriptors are ours now."""
        for descriptor in state.descriptors:
            os.set_inheritable(descriptor, False)
        self._last_id, self._batch, self._sent = state.last_id, state.batch, state.sent
        self._unfinished = dict(state.unfinished)
        self._waiting = deque(state.waiting)
        if state.sent:
            self._on_the_way = list(state.on_the_way)
        else:
            self._waiting.extendleft(reversed(state.on_the_way))


def _close_all(waiting: Sequence[Waiting] | deque[Waiting]) -> None:
    c.close_all([each.descriptor for each in waiting])
