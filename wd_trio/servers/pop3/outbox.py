"""Replies on their way out, in order, some of which may yet have to be taken back.

Replies gather so that a pipelined batch costs one send. One that tells of a mark is true only once the mark is in
the store, which is written once for the batch too: from the first such reply on, whole replies are held. When the
write fails each of them is replaced, so that the client still hears one reply for each command.
"""

from __future__ import annotations


class Outbox:
    """The octets to send next. A reply is opened by `begin`, written to, and closed by `end`."""

    __slots__ = ("_begun", "_data", "_held", "_held_from")

    def __init__(self, data: bytes = b"") -> None:
        """`data` goes out first."""
        self._data = bytearray(data)
        self._begun: int | None = 0  # where the open reply begins; None once part of it was taken
        self._held_from: int | None = None
        self._held = 0  # whole replies from there on

    def __len__(self) -> int:
        return len(self._data)

    def begin(self) -> None:
        self._begun = len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def hold(self) -> None:
        """The open reply, and all that follow until `take`, depend on marks that are not in the store yet."""
        if self._held_from is None:
            self._held_from = self._begun

    def end(self) -> None:
        if self._held_from is not None:
            self._held += 1

    def add(self, reply: bytes) -> None:
        """A whole reply at once."""
        self.begin()
        self.write(reply)
        self.end()

    def take_back(self, instead: bytes) -> None:
        """Replace every closed reply that is held by `instead`, and drop what the open one has so far."""
        if self._held_from is not None:
            del self._data[self._held_from :]
            self._data += instead * self._held
            self._begun = len(self._data)
            self._release()

    def restart(self) -> bool:
        """Drop what the open reply has so far; False when part of it was taken already."""
        if self._begun is None:
            return False
        del self._data[self._begun :]
        return True

    def take(self) -> bytearray:
        """Everything, to be sent now."""
        data, self._data = self._data, bytearray()
        self._begun = None
        self._release()
        return data

    def _release(self) -> None:
        self._held_from = None
        self._held = 0
