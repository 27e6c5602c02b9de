"""The cursor that every command parser moves through a frame, and the values that many commands share.

A frame comes from framing whole, or cut behind an announced literal whose octets were not sent yet
(`pending`). Parsing such a frame answers whether the literal is welcome before the client sends it: the
parser either reaches it (`LiteralAwaited`: go on collecting) or fails earlier (refuse the command now).

No parser recurses without `open_list`, which counts the depth. A frame is bounded by framing, and so is
everything made of it; counts that cost more than their octets have caps of their own here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final, TypeVar

from wd_trio.errors import Invalid
from wd_trio.mail import mutf7
from wd_trio.mail.model import join_keywords, system_flag
from wd_trio.mail.names import fold_inbox
from wd_trio.mail.numset import SequenceSet, UidSet
from wd_trio.proto.imap import grammar

MAX_DEPTH: Final = 32  # parentheses within parentheses
MAX_SEQUENCE_ITEMS: Final = 20_000
MAX_MAILBOX_BYTES: Final = 1024  # of a name or pattern as sent: matching costs its length times each name's
MAX_KEYWORDS: Final = 100  # in one command
MAX_KEYWORD_BYTES: Final = 255

_Item = TypeVar("_Item")


class BadSyntax(Invalid):
    """The command is not what the grammar allows; the message is a fixed text that the client may read."""


class UnknownCharset(BadSyntax):
    """SEARCH named a charset that nobody here can read: NO [BADCHARSET] (RFC 3501 §6.4.4), no BAD."""


class LiteralAwaited(Exception):
    """The parser came to the announced literal, and wants it."""


class Cursor:
    """A position in a frame. Every taker moves behind what it took, or raises BadSyntax."""

    __slots__ = ("_depth", "data", "pending", "pos", "utf8")

    def __init__(self, data: bytes, pos: int = 0, *, pending: int | None = None, utf8: bool = False) -> None:
        """`pending` is the size of the literal whose announcement ends `data`, None when `data` is whole."""
        self.data = data
        self.pos = pos
        self.pending = pending
        self.utf8 = utf8
        self._depth = 0

    def at(self, octet: bytes) -> bool:
        """Whether `octet` comes next."""
        return self.data.startswith(octet, self.pos)

    def took(self, text: bytes) -> bool:
        """Take `text`, given in capitals and sent in any case, if it comes next; whether it did."""
        if self.data[self.pos : self.pos + len(text)].upper() != text:
            return False
        self.pos += len(text)
        return True

    def match(self, pattern: re.Pattern[bytes], complaint: str) -> re.Match[bytes]:
        """Take what `pattern` matches here."""
        match = pattern.match(self.data, self.pos)
        if match is None:
            raise BadSyntax(complaint)
        self.pos = match.end()
        return match

    def space(self) -> None:
        """Take one space."""
        if not self.data.startswith(b" ", self.pos):
            raise BadSyntax("Missing argument" if self.pos >= len(self.data) else "Expected a space")
        self.pos += 1

    def end(self) -> None:
        """Nothing may follow; trailing spaces are forgiven."""
        if not self.at_end():
            raise BadSyntax("Unexpected arguments")

    def at_end(self) -> bool:
        """Whether nothing but spaces follows."""
        return grammar.END.match(self.data, self.pos) is not None

    def open_list(self) -> None:
        """Take an opening parenthesis."""
        if not self.at(b"("):
            raise BadSyntax("Expected a parenthesis")
        if self._depth >= MAX_DEPTH:
            raise BadSyntax("Too many nested parentheses")
        self._depth += 1
        self.pos += 1

    def close_list(self) -> None:
        """Take a closing parenthesis."""
        if not self.at(b")"):
            raise BadSyntax("Unclosed parenthesis")
        self._depth -= 1
        self.pos += 1

    def listed(self, take: Callable[[], _Item], *, empty: bool = False) -> list[_Item]:
        """What `take` takes between parentheses, once and again behind each space; none at all if `empty`."""
        self.open_list()
        if empty and self.at(b")"):
            self.close_list()
            return []
        items = [take()]
        while not self.at(b")"):
            self.space()
            items.append(take())
        self.close_list()
        return items

    def atom(self, complaint: str = "Expected an atom") -> bytes:
        return self.match(grammar.ATOM, complaint)[0]

    def word(self, complaint: str) -> str:
        """An atom that names something, in capitals."""
        return self.atom(complaint).decode("ascii").upper()

    def number64(self) -> int:
        """A number of at most 2^63 - 1."""
        value = int(self.match(grammar.NUMBER, "Expected a number")[0])
        if value > grammar.MAX_NUMBER64:
            raise BadSyntax("Number is too large")
        return value

    def modseq(self) -> int:
        """A modseq that a message can have: RFC 7162 §7 mod-sequence-value, 1 … 2^63 - 1."""
        value = self.number64()
        if not value:
            raise BadSyntax("A modseq is at least 1")
        return value

    def astring(self) -> bytes:
        """The octets of an atom (with "]"), a quoted string or a literal."""
        match = grammar.ASTRING_CHARS.match(self.data, self.pos)
        if match is None:
            return self.string()
        self.pos = match.end()
        return match[0]

    def string(self) -> bytes:
        """The octets of a quoted string or a literal; no NUL is among them."""
        if not self.at(b'"'):
            return self._literal()
        text = self.match(grammar.QUOTED, "Malformed quoted string")[1]
        return grammar.QUOTED_PAIR.sub(rb"\1", text) if b"\\" in text else text

    def nstring(self) -> bytes | None:
        """A string, or None for NIL."""
        if self.data[self.pos : self.pos + 3].upper() == b"NIL":
            self.pos += 3
            return None
        return self.string()

    def text(self) -> str:
        """An astring of UTF-8."""
        return _utf8(self.astring())

    def _literal(self) -> bytes:
        match = grammar.LITERAL.match(self.data, self.pos)
        if match is None:
            raise BadSyntax("Expected a string")
        if self.pending is not None and match.end() == len(self.data):
            raise LiteralAwaited
        self.pos = match.end() + int(match[1])
        octets = self.data[match.end() : self.pos]
        if b"\0" in octets:
            raise BadSyntax("NUL in a literal")
        return octets

    def message_literal(self) -> tuple[int, bool]:
        """The size of the literal that carries a message: announced, not sent yet, and last in the frame; and
        whether it is a literal8 (`~{n}`, RFC 3516), which may hold NULs."""
        binary = self.took(b"~")
        match = grammar.LITERAL.match(self.data, self.pos)
        if match is None or self.pending is None or match.end() != len(self.data):
            raise BadSyntax("Expected the literal of a message")
        self.pos = match.end()
        return self.pending, binary

    def date(self) -> int:
        """A date, perhaps in quotes, as its ordinal."""
        text = self.string() if self.at(b'"') else self.atom("Invalid date")
        try:
            return grammar.parse_date(text)
        except Invalid:
            raise BadSyntax("Invalid date") from None

    def sequence_set(self, complaint: str = "Invalid message set") -> SequenceSet:
        """A sequence-set; BadSyntax also for 0, for numbers beyond 32 bits and too many items."""
        items = self.match(grammar.SEQUENCE_SET, complaint)[0].split(b",")
        if len(items) > MAX_SEQUENCE_ITEMS:
            raise BadSyntax("Message set has too many items")
        return SequenceSet(tuple([_range(item) for item in items]))

    def known_set(self, *, ascending: bool) -> UidSet:
        """A sequence-set without "*", its items perhaps in any order (RFC 7162 §7 known-uids and its like)."""
        items = self.sequence_set().items
        if any(not first or not last for first, last in items):
            raise BadSyntax('"*" is not allowed there')
        if ascending and any(later <= last for (_, last), (later, _) in pairwise(items)):
            raise BadSyntax("Message set does not ascend")
        return UidSet(items)

    def mailbox(self) -> str:
        """A mailbox name as Unicode, INBOX in capitals."""
        return mailbox_name(self.astring(), utf8=self.utf8)

    def list_mailbox(self) -> str:
        """A LIST pattern: a mailbox name where "%" and "*" may stand bare."""
        match = grammar.LIST_CHARS.match(self.data, self.pos)
        if match is None:
            return mailbox_name(self.string(), utf8=self.utf8)
        self.pos = match.end()
        return mailbox_name(match[0], utf8=self.utf8)

    def flag_list(self) -> tuple[int, str]:
        """Flags in parentheses: bits of system flags, canonical keywords. \\Recent is ignored: no client can
        alter it."""
        self.open_list()
        stop = self.data.find(b")", self.pos)
        if stop < 0:
            raise BadSyntax("Unclosed parenthesis")
        inside = self.data[self.pos : stop]
        self.pos = stop
        self.close_list()
        return split_flags(inside.split(b" ") if inside else [])

    def bare_flags(self) -> tuple[int, str]:
        """Flags without parentheses, up to the end of the command."""
        words = self.data[self.pos :].rstrip(b" ").split(b" ")
        self.pos = len(self.data)
        return split_flags(words)


def mailbox_name(octets: bytes, *, utf8: bool) -> str:
    """A mailbox name or pattern as Unicode: modified UTF-7 decoded, or UTF-8 under UTF8=ACCEPT (RFC 6855 §3).

    BadSyntax for other octets, for control characters and beyond MAX_MAILBOX_BYTES. "inbox" at the first level
    becomes "INBOX".
    """
    if len(octets) > MAX_MAILBOX_BYTES:
        raise BadSyntax("Mailbox name is too long")
    name = _utf8(octets)
    if not utf8 and ("&" in name or not name.isascii()):
        try:
            name = mutf7.decode(name)
        except Invalid:
            raise BadSyntax("Mailbox name is not in modified UTF-7") from None
    if grammar.MAILBOX_FORBIDDEN.search(name):
        raise BadSyntax("Mailbox name has a control character")
    return fold_inbox(name)


def split_flags(words: list[bytes]) -> tuple[int, str]:
    """Flags as bits of system flags and canonical keywords; BadSyntax for words that are no flags."""
    bits = 0
    keywords: list[str] = []
    for word in words:
        if not grammar.FLAG.fullmatch(word):
            raise BadSyntax("Invalid flag")
        name = word.decode("ascii")
        if not name.startswith("\\"):
            keywords.append(name)
        elif (bit := system_flag(name)) is not None:
            bits |= bit
        elif name.lower() != "\\recent":
            raise BadSyntax("Unknown system flag")
    if len(keywords) > MAX_KEYWORDS or any(len(keyword) > MAX_KEYWORD_BYTES for keyword in keywords):
        raise BadSyntax("Too many keywords, or one that is too long")
    return bits, join_keywords(keywords) if keywords else ""


def _range(item: bytes) -> tuple[int, int]:
    """One item of a sequence-set; 0 stands for "*", which goes last."""
    first, colon, last = item.partition(b":")
    low = 0 if first == b"*" else int(first)
    high = low if not colon else 0 if last == b"*" else int(last)
    if low > grammar.MAX_NUMBER or high > grammar.MAX_NUMBER:
        raise BadSyntax("Invalid message set")
    if high and (low > high or not low):
        return high, low
    return low, high


def _utf8(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BadSyntax("Argument is not UTF-8") from None
