"""Hints as bytes, for whatever carries them between processes.

A datagram is a list of hints of bounded length. A hint too long to be cheap travels without its changes: its reader
then asks the store. An order to resync stands in the list as nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from wd_trio.mail.model import Changes, FlagRow, Vanished
from wd_trio.mail.numset import UidSet
from wd_trio.ports.bus import Hint, Resync

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
ENCODED_RESYNC: Final = _encoder.encode(None)
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
