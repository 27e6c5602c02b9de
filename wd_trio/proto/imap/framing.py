"""Framing: where one command ends and the next begins, before anything is parsed.

A frame is the lines of a command with its literals in between. Each line that ends in an announcement
(`{n}`, `{n+}` of RFC 7888, `~{n}` of RFC 3516) stops the framer: its owner either accepts the literal, which
then joins the frame, or refuses the command, and the framer drops the rest of it exactly: a synchronising
literal will not come, a non-synchronising one is dropped by count, and so on through further lines.
Thus the octets of a literal are never read as a command, whatever was wrong with the command.

In a frame literals stand as `{n}` CRLF octets, whatever the client's spelling; no other CR, LF or NUL is in
its lines, so parsers find literals without being told where they are. Lines end in CRLF or LF (as most
servers take them). Memory: one frame under the caller's limit, and while skipping a tail of 64 octets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from wd_trio.proto.buffer import InputBuffer
from wd_trio.proto.imap.grammar import MAX_NUMBER

_ANNOUNCEMENT: Final = re.compile(rb"~?\{([0-9]+)(\+?)\}\Z")
_CUT_ANNOUNCEMENT: Final = re.compile(rb"[0-9]+\+\}\Z")
_TAIL_BYTES: Final = 64
_MAX_DIGITS: Final = 19
_ABSURD: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Announced:
    """A literal announced at the end of a line; `size` of 2^63 stands for anything that large or larger."""

    size: int
    synchronising: bool


class Step(Enum):
    """What `Framer.advance` came to."""

    NEED_DATA = auto()
    COMMAND = auto()  # `frame` is whole
    LITERAL = auto()  # `frame` ends in the announcement of `literal`: accept_literal() or refuse() is due
    TOO_LONG = auto()  # the limit is passed; `frame` has the line's beginning, the rest is being skipped
    BAD_OCTET = auto()  # NUL or a bare CR in a line; `frame` has it, the rest is being skipped
    LOST = auto()  # a literal to be skipped is larger than anyone would send: stop reading


class Framer:
    """Cuts the input into frames, one step at a time."""

    __slots__ = ("_collecting", "_skip_bytes", "_skipping", "_started", "_tail", "buffer", "frame", "literal")

    def __init__(self) -> None:
        self.buffer: Final = InputBuffer()
        self.frame = b""
        self.literal = Announced(0, True)
        self._started = False  # frame belongs to the command that is being cut
        self._collecting = -1  # size of the literal that is awaited, -1 for none
        self._skipping = False  # within the lines of a refused command
        self._skip_bytes = 0  # of a literal of a refused command
        self._tail = b""

    def advance(self, limit: int, skip_limit: int = MAX_NUMBER) -> Step:
        """Go on to the next point of decision.

        `limit` caps the frame in octets; `skip_limit` caps each literal that is skipped.
        """
        if (self._skipping or self._skip_bytes) and not self._skip(skip_limit):
            return Step.LOST if self._skip_bytes > skip_limit else Step.NEED_DATA
        if not self._started:
            self.frame = b""
        if self._collecting >= 0:
            if len(self.buffer) < self._collecting:
                return Step.NEED_DATA
            self.frame += self.buffer.take(self._collecting)
            self._collecting = -1
        room = max(0, limit - len(self.frame))
        line = self.buffer.take_line(room)
        if line is None:
            return self._overflow(room) if len(self.buffer) >= room else Step.NEED_DATA
        return self._line(line)

    @property
    def untouched(self) -> bool:
        """Whether nothing of a command was taken from the buffer yet: it holds all that came of the next one."""
        return not (self._started or self._skipping or self._skip_bytes or self._collecting >= 0)

    @property
    def resting(self) -> bool:
        """Whether it is empty besides."""
        return self.untouched and not self.buffer

    def take_frame(self) -> bytes:
        """The whole frame, and no copy of it kept: it may hold a password."""
        frame, self.frame = self.frame, b""
        return frame

    def accept_literal(self) -> None:
        """Let the announced literal join the frame."""
        self._collecting = self.literal.size

    def begin_octets(self) -> None:
        """End the frame at its announcement: the literal's octets are taken with `take_octets`, not framed."""
        self._started = False

    def take_octets(self, limit: int) -> bytes:
        """Up to `limit` octets of input as they came."""
        return self.buffer.take(limit)

    def refuse(self) -> None:
        """Drop what follows of the command whose literal was announced."""
        self._started = False
        if not self.literal.synchronising:
            self.skip_octets(self.literal.size)

    def skip_octets(self, count: int) -> None:
        """Drop `count` octets and what follows of their command."""
        self._skip_bytes = count
        self._skipping = True

    def _overflow(self, room: int) -> Step:
        start = self.buffer.take(room)
        self.frame += start
        self._started = False
        self._skipping = True
        self._tail = start[-_TAIL_BYTES:]
        return Step.TOO_LONG

    def _line(self, line: bytes) -> Step:
        text = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        announced = _announced(text) if text.endswith(b"}") else None
        if b"\0" in text or b"\r" in text:
            self.frame += text
            self.literal = announced or Announced(0, True)
            self.refuse()
            return Step.BAD_OCTET
        if announced is None:
            self.frame += text
            self._started = False
            return Step.COMMAND
        self.literal = announced
        self.frame += b"%b{%d}\r\n" % (text[: text.rindex(b"{")], announced.size)
        self._started = True
        return Step.LITERAL

    def _skip(self, skip_limit: int) -> bool:
        """Drop what a refused command still sends; True when its end is passed."""
        while True:
            if self._skip_bytes:
                if self._skip_bytes > skip_limit:
                    return False
                self._skip_bytes -= self.buffer.discard(self._skip_bytes)
                if self._skip_bytes:
                    return False
            part, ended = self.buffer.discard_line(_TAIL_BYTES)
            self._tail = (self._tail + part)[-_TAIL_BYTES:]
            if not ended:
                return False
            announced = _announced_at_end(self._tail)
            self._tail = b""
            if announced is None or announced.synchronising:
                self._skipping = False
                return True
            self._skip_bytes = announced.size


def _announced(text: bytes) -> Announced | None:
    match = _ANNOUNCEMENT.search(text, max(0, len(text) - _TAIL_BYTES))
    if match is None:
        return _cut(text)
    return Announced(_size(match[1]), not match[2])


def _announced_at_end(tail: bytes) -> Announced | None:
    return _announced(tail[:-2] if tail.endswith(b"\r\n") else tail[:-1])


def _cut(text: bytes) -> Announced | None:
    """An announcement whose brace lies further back than anyone looks: so many digits are absurd anyway."""
    if len(text) >= _TAIL_BYTES - 2 and _CUT_ANNOUNCEMENT.match(text[-(_TAIL_BYTES - 2) :]):
        return Announced(_ABSURD, False)
    return None


def _size(digits: bytes) -> int:
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _MAX_DIGITS else _ABSURD
