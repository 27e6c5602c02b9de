"""Cutting the byte stream: command lines under a cap, and message data up to CRLF.CRLF.

Both work on one buffer that `receive` fills with what one read brought and `next_event` empties again, so it
never holds more than a read and a line. A line ends at its LF; whether a CR stood before it is told, not
forgiven. Of an over-long line nothing is stored: it is skipped up to its LF, exactly.

Message data (RFC 5321 §4.5.2) knows one line end, CRLF: only CRLF.CRLF ends it and only a dot after CRLF is
stuffing; a bare CR or LF is data like any other octet. A reader that took `LF.LF` for the end would let a
message smuggle commands past the server in front of this one. Octets that might begin CRLF.CRLF are held back
until the next ones come: four at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_END: Final = b"\r\n.\r\n"
_FIRST_END: Final = b".\r\n"


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end. `crlf`: it ended in CRLF; `too_long`: its octets were dropped."""

    data: bytes
    crlf: bool = True
    too_long: bool = False


class StreamBuffer:
    """The peer's octets that nobody has taken yet."""

    __slots__ = ("_at_first", "_data", "_max_line_bytes", "_searched", "_skipping", "_start")

    def __init__(self, max_line_bytes: int) -> None:
        """`max_line_bytes` counts the line end."""
        self._max_line_bytes = max_line_bytes
        self._data = b""
        self._start = 0
        self._searched = 0
        self._skipping = False
        self._at_first = False

    def __len__(self) -> int:
        return len(self._data) - self._start

    def receive(self, data: bytes) -> None:
        left = len(self._data) - self._start
        self._data = self._data[self._start :] + data if left else data
        self._searched = max(self._searched - self._start, 0)
        self._start = 0

    @property
    def skipping(self) -> bool:
        """Whether what comes next is the rest of a line that is too long."""
        return self._skipping

    def take_all(self) -> bytes:
        """Everything, whatever it is."""
        data = self._data[self._start :]
        self.clear()
        return data

    def clear(self) -> None:
        self._data, self._start, self._searched = b"", 0, 0

    def take_line(self) -> Line | None:
        """The next line, None while it has no end yet."""
        end = self._data.find(b"\n", max(self._searched, self._start))
        if end < 0:
            if self._skipping or len(self) >= self._max_line_bytes:
                self._skipping = True
                self.clear()
            self._searched = len(self._data)
            return None
        start, self._start = self._start, end + 1
        if self._skipping or end + 1 - start > self._max_line_bytes:
            self._skipping = False
            return Line(b"", too_long=True)
        if end > start and self._data[end - 1] == 13:
            return Line(self._data[start : end - 1])
        return Line(self._data[start:end], crlf=False)

    def begin_message(self) -> None:
        """What follows is message data. A message may begin with a dot line: nothing stands before it."""
        self._at_first = True

    def take_message(self) -> tuple[bytes, bool] | None:
        """The next piece of the message and whether it was the last; None when more input is needed."""
        if self._at_first:
            head = self._data[self._start : self._start + 3]
            if _FIRST_END.startswith(head) and len(head) < 3:
                return None
            self._at_first = False
            if head == _FIRST_END:
                self._start += 3
                self._searched = self._start
                return b"", True
            if head[0] == 46:
                self._start += 1
        end = self._data.find(_END, self._start)
        if end >= 0:
            piece = self._data[self._start : end + 2]
            self._start = self._searched = end + len(_END)
            return piece.replace(b"\r\n.", b"\r\n"), True
        stop = len(self._data) - self._held()
        if stop <= self._start:
            return None
        piece = self._data[self._start : stop]
        self._start = self._searched = stop
        return piece.replace(b"\r\n.", b"\r\n"), False

    def _held(self) -> int:
        """How many octets at the end might begin CRLF.CRLF."""
        tail = self._data[max(self._start, len(self._data) - len(_END) + 1) :]
        for size in range(len(tail), 0, -1):
            if _END.startswith(tail[-size:]):
                return size
        return 0
