"""Slots: where every connection of a server stands, in shared memory that outlives the worker serving it.

The supervisor makes the table and gives each connection a slot; the worker that serves it keeps the slot true; when
that worker is gone, whoever has the descriptor and the slot goes on. A parked connection (servers/parking.py) is
nothing but these two, so a slot holds all that an engine need not be asked for.

A worker may be killed between any two bytes it writes, so:
- `progress` is one byte and is written last. While it says READING or SAYING, the rest of the slot may be half
  written, and nobody reads it but to close the connection.
- READING is set before octets are taken from the socket, and cleared once all of them were dealt with: what a dead
  worker had read is lost. SAYING is set before octets are sent, and cleared when the whole reply was accepted by
  the kernel and the slot says what the client now knows. BUSY with neither is a command that nothing was said of;
  WRITING is set before a write may begin.
- A connection whose state does not fit in here is FIXED: it ends with its worker.

Integers are little-endian, ids binary, texts UTF-8 after a byte of length. A slot takes SLOT_BYTES, of a file in
memory that takes no more than the slots that were used.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

SLOT_BYTES: Final = 320
SESSION_PREFIX: Final = "sess_"
PROTOCOLS: Final = ("imap", "pop3", "lmtp")


class Phase(IntEnum):
    """How far a connection is."""

    FREE = 0
    ARRIVED = 1
    """Nothing was said to it: whoever gets it greets."""
    GREETED = 2
    """Greeted and not logged in; LMTP's stay here."""
    OPEN = 3
    """Logged in: the slot names its session."""


class Progress(IntFlag):
    """What its worker is at; 0 when everything was read, done and said."""

    READING = 1
    BUSY = 2
    """A command is in progress: `tag`, `command`, `serial`."""
    WRITING = 4
    SAYING = 8
    FIXED = 16


class Standing(IntFlag):
    """What was agreed with the client, and how its mailbox was opened."""

    SECURE = 1
    SELECTED = 2
    READ_ONLY = 4
    IDLE = 8
    """`tag` is IDLE's."""
    CONDSTORE = 16
    QRESYNC = 32
    UTF8 = 64
    HELLO = 128
    """LMTP's LHLO, or POP3's USER (whose name is in `tag`), has been said."""
    INSIDE = 256
    """TLS begins or ends in the worker: no other can go on with it."""
    BEHIND = 512
    """With QRESYNC: VANISHED told what no HIGHESTMODSEQ has confirmed yet."""


class _Number:
    """A field that holds one integer or float of a struct code."""

    def __init__(self, code: str, offset: int) -> None:
        self._struct = Struct("<" + code)
        self._offset = offset

    def __get__(self, slot: Slot, owner: object = None) -> int:
        value: int = self._struct.unpack_from(slot.memory, slot.base + self._offset)[0]
        return value

    def __set__(self, slot: Slot, value: int) -> None:
        self._struct.pack_into(slot.memory, slot.base + self._offset, value)


class _Byte:
    """A field that holds one octet: written whole or not at all, and without a struct's price."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def __get__(self, slot: Slot, owner: object = None) -> int:
        return slot.memory[slot.base + self._offset]

    def __set__(self, slot: Slot, value: int) -> None:
        slot.memory[slot.base + self._offset] = value


class _Octets:
    """A field that holds a fixed number of octets, as hex after a prefix; "" when all are zero."""

    def __init__(self, size: int, offset: int, prefix: str = "") -> None:
        self._size, self._offset, self._prefix = size, offset, prefix

    def __get__(self, slot: Slot, owner: object = None) -> str:
        start = slot.base + self._offset
        raw = bytes(slot.memory[start : start + self._size])
        return self._prefix + raw.hex() if any(raw) else ""

    def __set__(self, slot: Slot, value: str) -> None:
        start = slot.base + self._offset
        raw = bytes.fromhex(value.removeprefix(self._prefix)) if value else bytes(self._size)
        if len(raw) != self._size:
            raise ValueError(f"{len(raw)} octets do not fit a field of {self._size}")
        slot.memory[start : start + self._size] = raw


class _Text:
    """A field that holds a text of up to `most` octets. ValueError for a longer one."""

    def __init__(self, most: int, offset: int) -> None:
        self.most, self._offset = most, offset

    def __get__(self, slot: Slot, owner: object = None) -> str:
        start = slot.base + self._offset
        size = slot.memory[start]
        return bytes(slot.memory[start + 1 : start + 1 + size]).decode("utf-8")

    def __set__(self, slot: Slot, value: str) -> None:
        raw = value.encode("utf-8")
        if len(raw) > self.most:
            raise ValueError(f"{len(raw)} octets do not fit a field of {self.most}")
        start = slot.base + self._offset
        slot.memory[start] = len(raw)
        slot.memory[start + 1 : start + 1 + len(raw)] = raw


UNREAD_BYTES: Final = 100_000
"""So much input may go along with a connection. With more it is where it cannot move from."""
TAG_BYTES: Final = 61
USER_AGENT_BYTES: Final = 95
_IP_BYTES: Final = 45
_HEAD: Final = Struct("<BBBBH")
_COMMAND: Final = Struct("<IH")
_COMMAND_AT: Final = 16
_VIEW: Final = Struct("<III4xQQ")
_VIEW_AT: Final = 24
USER_AT: Final = 92
MAILBOX_AT: Final = 104
SESSION_AT: Final = 76
"""Where the ids are in a slot's memory, for those who compare many."""
SESSION_ID_BYTES: Final = 16
ID_BYTES: Final = 12


class Slot:
    """One connection's place. Attributes are read from and written to the table itself."""

    __slots__ = ("base", "memory", "number")

    phase = _Byte(0)  # a Phase
    _protocol = _Byte(1)
    progress = _Byte(2)  # Progress flags; always the last to be written
    attempts = _Byte(3)  # failed log-ins
    standing = _Number("H", 4)  # Standing flags
    port = _Number("H", 6)  # the client's
    id = _Number("Q", 8)  # of the connection, for logs: unique on this server
    serial = _Number("I", 16)  # counts the commands of a session, from 1
    command = _Number("H", 20)  # the command in progress, as its protocol numbers them
    uid_validity = _Number("I", 24)
    uid_next = _Number("I", 28)
    exists = _Number("I", 32)  # the messages that the client knows of
    expunges_told = _Number("Q", 40)
    flags_told = _Number("Q", 48)
    quota_bytes = _Number("q", 56)  # -1: none
    created_ms = _Number("Q", 64)  # the session's
    until_s = _Number("I", 72)  # when its time is over, in seconds of time.monotonic(); rounded up
    session = _Octets(SESSION_ID_BYTES, SESSION_AT, SESSION_PREFIX)
    user = _Octets(ID_BYTES, USER_AT)
    mailbox = _Octets(ID_BYTES, MAILBOX_AT)
    ip = _Text(_IP_BYTES, 116)
    tag = _Text(TAG_BYTES, 162)
    user_agent = _Text(USER_AGENT_BYTES, 224)

    def __init__(self, memory: mmap.mmap | bytearray, number: int) -> None:
        self.memory = memory
        self.number = number
        self.base = number * SLOT_BYTES

    @classmethod
    def alone(cls) -> Slot:
        """A slot of no table: nobody else sees it."""
        return cls(bytearray(SLOT_BYTES), 0)

    @property
    def protocol(self) -> str:
        return PROTOCOLS[self._protocol]

    @protocol.setter
    def protocol(self, name: str) -> None:
        self._protocol = PROTOCOLS.index(name)

    def note_command(self, tag: str, command: int, serial: int) -> None:
        """Write these three. ValueError for a tag of more than TAG_BYTES."""
        _COMMAND.pack_into(self.memory, self.base + _COMMAND_AT, serial, command)
        self.tag = tag

    def note_view(
        self, uid_validity: int, uid_next: int, exists: int, expunges_told: int, flags_told: int
    ) -> None:
        """Write these five."""
        place = self.base + _VIEW_AT
        _VIEW.pack_into(self.memory, place, uid_validity, uid_next, exists, expunges_told, flags_told)

    def clear(self) -> None:
        """Make it free. `phase` goes first: nobody takes a half-cleared slot for a connection."""
        self.phase = Phase.FREE
        self.memory[self.base : self.base + SLOT_BYTES] = bytes(SLOT_BYTES)

    def has(self, flag: Standing) -> bool:
        return bool(self.standing & flag)


class Slots:
    """The table. Its descriptor goes to the workers, which map the same memory."""

    def __init__(self, descriptor: int) -> None:
        """Map the table behind a descriptor, which becomes this object's to close."""
        self.descriptor = descriptor
        size = os.fstat(descriptor).st_size
        self._memory = mmap.mmap(descriptor, size)
        self._count = size // SLOT_BYTES

    @classmethod
    def create(cls, count: int) -> Slots:
        """A table of `count` free slots. OSError when the machine has no memory for it."""
        descriptor = os.memfd_create("wd-trio-slots", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, count * SLOT_BYTES)
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def __len__(self) -> int:
        return self._count

    def at(self, number: int) -> Slot:
        """The slot of that number, which must be one of the table's."""
        if not 0 <= number < self._count:
            raise IndexError(f"no slot {number} among {self._count}")
        return Slot(self._memory, number)

    def count(self, numbers: Iterable[int]) -> Counter[tuple[str, Phase, Standing]]:
        """How many of these slots are of each protocol, phase and standing. They may be many: none gets an object."""
        memory, size = self._memory, _HEAD.size
        starts = (number * SLOT_BYTES for number in numbers)
        counted: Counter[tuple[str, Phase, Standing]] = Counter()
        for head, count in Counter(memory[start : start + size] for start in starts).items():
            phase, protocol, _, _, standing = _HEAD.unpack(head)
            counted[PROTOCOLS[protocol], Phase(phase), Standing(standing)] += count
        return counted

    def close(self) -> None:
        """Unmap the table and close the descriptor; its slots must not be used any more."""
        self._memory.close()
        os.close(self.descriptor)


def why_lost(slot: Slot) -> str:
    """Why a connection cannot outlive its dead worker, in a fixed word or two; "" when another worker can go on: with
    nothing at all, or by answering the command that was in progress."""
    progress = slot.progress
    if slot.has(Standing.INSIDE):
        return "tls"
    if progress & Progress.FIXED:
        return "not movable"
    if progress & Progress.READING:
        return "input lost"
    if progress & Progress.SAYING:
        return "reply cut"
    if slot.phase == Phase.FREE:
        return "not there"
    return ""
