"""Buses of the embedded engine: hints between the processes of one server, or between nobody.

`HubBus` speaks with the supervisor's hub over one Unix SOCK_SEQPACKET socket, a bounded list of hints for each
datagram. Publishing only queues; one task (`run`) encodes and sends, so that a burst costs few system calls and a
slow hub costs the publisher nothing. A full queue is dropped whole and one order to resync takes its place:
readers then ask the store, which is right in any case. A hint too long to be cheap travels without its changes.
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
from wd_trio.errors import Unavailable
from wd_trio.mail.model import Changes, FlagRow, Vanished
from wd_trio.mail.numset import UidSet
from wd_trio.ports.bus import Hint, Resync

log = structlog.get_logger()

QUEUE_HINTS: Final = 1000
FLUSH_LOOK_S: Final = 0.01
HINT_BYTES: Final = 16_384
DATAGRAM_BYTES: Final = 65_536

_ROW_BYTES: Final = 12  # what a row weighs on the wire at the least: enough to refuse a long list unencoded


class _Changes(msgspec.Struct, array_like=True, frozen=True):
    since: int
    modseq: int
    uid_next: int
    rows: list[tuple[int, int, int, str]]
    vanished: list[tuple[int, list[tuple[int, int]]]]
    more: bool


class _Hint(msgspec.Struct, array_like=True, frozen=True):
    kind: str
    user_id: str
    mailbox_id: str
    previous_modseq: int
    modseq: int
    changes: _Changes | None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[_Hint | None])  # None stands for Resync
RESYNC_DATAGRAM: Final = _encoder.encode([None])


def encode_hint(hint: Hint) -> bytes:
    """One hint, without its changes where these would make it longer than HINT_BYTES."""
    changes = hint.changes
    if changes is not None and len(changes.rows) * _ROW_BYTES <= HINT_BYTES:
        encoded = _encoder.encode(_on_wire(hint, changes))
        if len(encoded) <= HINT_BYTES:
            return encoded
    return _encoder.encode(_on_wire(hint, None))


def _on_wire(hint: Hint, changes: Changes | None) -> _Hint:
    told = (
        None
        if changes is None
        else _Changes(
            changes.since,
            changes.modseq,
            changes.uid_next,
            [(row.uid, row.modseq, row.flags, row.keywords) for row in changes.rows],
            [(gone.modseq, gone.uids.ranges()) for gone in changes.vanished],
            changes.more,
        )
    )
    return _Hint(hint.kind, hint.user_id, hint.mailbox_id, hint.previous_modseq, hint.modseq, told)


def datagrams(encoded: Sequence[bytes]) -> list[bytes]:
    """Encoded hints packed in order into as few lists of at most DATAGRAM_BYTES as that takes."""
    packed: list[bytes] = []
    batch: list[bytes] = []
    held = 0
    for one in encoded:
        if batch and held + len(one) > DATAGRAM_BYTES - 8:
            packed.append(_list_of(batch))
            batch, held = [], 0
        batch.append(one)
        held += len(one)
    if batch:
        packed.append(_list_of(batch))
    return packed


def _list_of(items: list[bytes]) -> bytes:
    return _encoder.encode([msgspec.Raw(item) for item in items])


def decode_datagram(datagram: bytes) -> list[Hint | Resync]:
    """The hints of a datagram. msgspec.DecodeError when it is none of ours."""
    return [Resync() if item is None else _from_wire(item) for item in _decoder.decode(datagram)]


def _from_wire(item: _Hint) -> Hint:
    told = item.changes
    changes = (
        None
        if told is None
        else Changes(
            told.since,
            told.modseq,
            told.uid_next,
            tuple(FlagRow(*row) for row in told.rows),
            tuple(Vanished(modseq, UidSet(ranges)) for modseq, ranges in told.vanished),
            told.more,
        )
    )
    return Hint(item.kind, item.user_id, item.mailbox_id, item.previous_modseq, item.modseq, changes)


class LocalBus:
    """The bus of a process that has no peers: hints go nowhere and none ever comes."""

    def publish_nowait(self, hint: Hint) -> None:
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
        self._new = True

    def publish_nowait(self, hint: Hint) -> None:
        """Queue a hint for all other processes; in place of a full queue, an order to resync."""
        if len(self._queue) >= QUEUE_HINTS:
            telemetry.hints_total.labels("dropped").inc(len(self._queue) + 1)
            self._queue.clear()
            self._queue.append(None)
        else:
            self._queue.append(hint)
        self._some.set()

    async def run(self) -> None:
        """Send what is published, for ever; Unavailable when the hub is gone."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._queue:
                taken, self._queue = self._queue, deque()
                encoded = [_encoder.encode(None) if hint is None else encode_hint(hint) for hint in taken]
                for datagram in datagrams(encoded):
                    try:
                        await self._sock.send(datagram, socket.MSG_NOSIGNAL)
                    except (OSError, trio.ClosedResourceError) as error:
                        raise Unavailable("the hub is gone", what="bus") from error
                telemetry.hints_total.labels("sent").inc(len(taken))

    async def flush(self) -> None:
        """Wait until what was published has been taken up for sending."""
        while self._queue:
            await trio.sleep(FLUSH_LOOK_S)

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
