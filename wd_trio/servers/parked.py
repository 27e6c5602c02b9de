"""What a parked connection is besides its slot: a few integers in arrays that are indexed by the slot's number.

Arrays are anonymous memory, which the kernel gives page by page as it is touched: a table for a million connections
costs what the parked ones use. No object is made for any of them.

`Chains` finds parked connections by an id in their slots (a mailbox's, a user's): numbers with one hash are linked
through an array, and the slots' own memory tells which of them are meant.
"""

from __future__ import annotations

import mmap
import socket
from binascii import crc32
from collections.abc import Iterator
from typing import Final

from wd_trio.servers.slots import ID_BYTES, Slot, Slots

_HEADS: Final = 1 << 14
"""Chains stay short up to some ten thousand parked connections, and bearable far beyond."""


def integers(count: int) -> memoryview:
    """So many signed 32-bit integers, all 0."""
    return memoryview(mmap.mmap(-1, count * 4)).cast("i")


class Chains:
    """Numbers of slots by an id that is at a fixed place in them, which must not change meanwhile."""

    def __init__(self, slots: Slots, place: int) -> None:
        self._slots = slots
        self._place = place
        self._heads = integers(_HEADS)
        self._next = integers(len(slots))  # one more than the number, as in heads: 0 ends a chain

    def add(self, number: int) -> None:
        head = self._head(self._id(self._slots.at(number)))
        self._next[number] = self._heads[head]
        self._heads[head] = number + 1

    def remove(self, number: int) -> None:
        """It must be there."""
        head = self._head(self._id(self._slots.at(number)))
        at = self._heads[head] - 1
        if at == number:
            self._heads[head] = self._next[number]
            return
        while self._next[at] - 1 != number:
            at = self._next[at] - 1
        self._next[at] = self._next[number]

    def find(self, id_: str) -> Iterator[int]:
        """The numbers of those with this id. Nothing may be added or removed before the iterator ends."""
        wanted = bytes.fromhex(id_)
        at = self._heads[self._head(wanted)] - 1
        while at >= 0:
            if self._id(self._slots.at(at)) == wanted:
                yield at
            at = self._next[at] - 1

    def _id(self, slot: Slot) -> bytes:
        start = slot.base + self._place
        return bytes(slot.memory[start : start + ID_BYTES])

    @staticmethod
    def _head(id_: bytes) -> int:
        return crc32(id_) % _HEADS


class Parked:
    """The parked connections: descriptors, deadlines and marks by number of slot, and the way back from descriptors.

    `due` is when to look at a connection again, in seconds of the clock that slots tell deadlines by."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._descriptors = integers(len(slots))  # one more than the descriptor: 0 is not here
        self.due = integers(len(slots))
        self._marks = memoryview(mmap.mmap(-1, len(slots)))
        self._of_descriptor = memoryview(bytearray()).cast("i")
        self._count = 0
        self._beyond = 0

    def __len__(self) -> int:
        return self._count

    @property
    def beyond(self) -> int:
        """More than any number that is here, or was."""
        return self._beyond

    def __contains__(self, number: int) -> bool:
        return self._descriptors[number] > 0

    def numbers(self, start: int = 0, stop: int | None = None) -> Iterator[int]:
        """Those from `start` up to `stop`; others may come and go meanwhile."""
        descriptors = self._descriptors
        number, stop = start, self._beyond if stop is None else min(stop, self._beyond)
        while number < stop:
            if descriptors[number]:
                yield number
            number += 1

    def add(self, number: int, sock: socket.socket) -> int:
        """Take a connection's socket over; its descriptor."""
        descriptor = sock.detach()
        if descriptor >= len(self._of_descriptor):
            grown = integers(max(2 * descriptor, 1024))
            grown[: len(self._of_descriptor)] = self._of_descriptor
            self._of_descriptor = grown
        self._of_descriptor[descriptor] = number
        self._descriptors[number] = descriptor + 1
        self._marks[number] = 0
        self._count += 1
        self._beyond = max(self._beyond, number + 1)
        return descriptor

    def descriptor(self, number: int) -> int:
        return self._descriptors[number] - 1

    def number(self, descriptor: int) -> int:
        """Of which connection it is."""
        return self._of_descriptor[descriptor]

    def take(self, number: int) -> socket.socket:
        """Give the connection's socket up to the caller."""
        sock = socket.socket(fileno=self.descriptor(number))
        self._descriptors[number] = 0
        self._count -= 1
        return sock

    def marked(self, number: int, mark: int) -> bool:
        return bool(self._marks[number] & mark)

    def mark(self, number: int, mark: int) -> None:
        self._marks[number] |= mark

    def unmark(self, number: int, mark: int) -> None:
        self._marks[number] &= ~mark
