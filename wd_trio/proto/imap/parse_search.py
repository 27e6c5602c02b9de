"""SEARCH's program (RFC 3501 §6.4.4, RFC 4731, 5032, 7162): its words as tables, its nesting as one tree.

Keys without an argument are values made once. OR is a prefix operator, so a run of ORs needs no recursion: each
one only makes one more operand due, and the whole run becomes one `Or`, whatever its shape. What does nest (NOT,
parentheses, an OR behind either) is capped at MAX_DEPTH, and so is every recursion over the tree after us; the
number of keys has its cap, too.

Texts are decoded here, by the charset that the client named, US-ASCII read as UTF-8 (as clients mean it).
\\Recent is never set on this server: NEW and RECENT match nothing, OLD all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from wd_trio.mail import charset
from wd_trio.mail import model as m
from wd_trio.mail import search as s
from wd_trio.proto.imap import grammar
from wd_trio.proto.imap.commands import Search
from wd_trio.proto.imap.grammar import DAY_S, EPOCH_ORDINAL
from wd_trio.proto.imap.parse import MAX_DEPTH, BadSyntax, Cursor, UnknownCharset

MAX_KEYS: Final = 20_000  # in one SEARCH, with the words that join them

_RETURNS: Final = frozenset({"MIN", "MAX", "ALL", "COUNT"})
_FIXED: Final[Mapping[str, s.SearchKey]] = {
    "ALL": s.All(),
    "ANSWERED": s.Flag(m.ANSWERED),
    "DELETED": s.Flag(m.DELETED),
    "DRAFT": s.Flag(m.DRAFT),
    "FLAGGED": s.Flag(m.FLAGGED),
    "NEW": s.NOTHING,
    "OLD": s.All(),
    "RECENT": s.NOTHING,
    "SEEN": s.Flag(m.SEEN),
    "UNANSWERED": s.Not(s.Flag(m.ANSWERED)),
    "UNDELETED": s.Not(s.Flag(m.DELETED)),
    "UNDRAFT": s.Not(s.Flag(m.DRAFT)),
    "UNFLAGGED": s.Not(s.Flag(m.FLAGGED)),
    "UNSEEN": s.Not(s.Flag(m.SEEN)),
}
_ENTRY: Final = b"/flags/"
_ENTRY_TYPES: Final = frozenset({"PRIV", "SHARED", "ALL"})


def parse_search(cursor: Cursor) -> Search:
    """SEARCH's arguments. UnknownCharset when they name a charset that nobody here can read."""
    return _search(cursor, uid=False)


def parse_uid_search(cursor: Cursor) -> Search:
    """UID SEARCH's arguments; likewise."""
    return _search(cursor, uid=True)


def _search(cursor: Cursor, *, uid: bool) -> Search:
    returns = None
    if cursor.took(b" RETURN "):
        returns = frozenset(cursor.listed(lambda: _return_option(cursor), empty=True))
    codec = "utf_8"
    if cursor.took(b" CHARSET "):
        codec = _codec(cursor)
    program = _Program(cursor, codec)
    cursor.space()
    keys = [program.key()]
    while not cursor.at_end():
        cursor.space()
        keys.append(program.key())
    return Search(uid, _all_of(keys), returns)


def _return_option(cursor: Cursor) -> str:
    option = cursor.word("Expected a SEARCH option")
    if option not in _RETURNS:
        raise BadSyntax("Unknown SEARCH option")
    return option


def _codec(cursor: Cursor) -> str:
    if cursor.utf8:  # RFC 6855 §3
        raise BadSyntax("CHARSET has no place under UTF8=ACCEPT")
    codec = charset.codec(cursor.text())
    if codec is None:
        raise UnknownCharset("Unknown charset")
    return codec


class _Program:
    """Search keys at a cursor, taken one at a time and counted."""

    __slots__ = ("_codec", "_count", "cursor")

    def __init__(self, cursor: Cursor, codec: str) -> None:
        self.cursor: Final = cursor
        self._codec = codec
        self._count = 0

    def key(self, depth: int = 0) -> s.SearchKey:
        """The next key, whole; `depth` is how many keys it stands in."""
        if depth > MAX_DEPTH:
            raise BadSyntax("Search keys are nested too deeply")
        self._counted()
        cursor = self.cursor
        if cursor.at(b"("):
            return _all_of(cursor.listed(lambda: self.key(depth + 1)))
        match = grammar.SEARCH_WORD.match(cursor.data, cursor.pos)
        if match is None:
            return s.Numbers(cursor.sequence_set("Expected a search key"), uid=False)
        cursor.pos = match.end()
        word = match[0].decode("ascii").upper()
        fixed = _FIXED.get(word)
        if fixed is not None:
            return fixed
        take = _WITH_ARGUMENTS.get(word)
        if take is None:
            raise BadSyntax("Unknown search key")
        cursor.space()
        return take(self, depth)

    def either(self, depth: int) -> s.SearchKey:
        """What follows OR, and every OR that follows at once."""
        keys: list[s.SearchKey] = []
        due = 2
        while True:
            if self.cursor.took(b"OR "):
                self._counted()
                due += 1
                continue
            keys.append(self.key(depth + 1))
            due -= 1
            if not due:
                return s.Or(tuple(keys))
            self.cursor.space()

    def text(self) -> str:
        """An astring in the charset of this SEARCH."""
        octets = self.cursor.astring()
        try:
            text = octets.decode(self._codec)
            text.encode()  # UTF-7 can spell lone surrogates, which no text holds
        except UnicodeError:
            raise BadSyntax("Text is not in its charset") from None
        return text

    def header(self) -> s.SearchKey:
        name = self.text()
        self.cursor.space()
        return s.Header(name, self.text())

    def keyword(self) -> s.SearchKey:
        return s.Keyword(self.cursor.atom("Expected a keyword").decode("ascii"))

    def day_s(self) -> int:
        """When the day of a date begins, in UTC."""
        return (self.cursor.date() - EPOCH_ORDINAL) * DAY_S

    def interval_s(self) -> int:
        """RFC 5032 §4."""
        interval = self.cursor.number64()
        if not interval:
            raise BadSyntax("An interval is at least one second")
        return interval

    def modseq(self) -> s.SearchKey:
        """RFC 7162 §3.1.5. The entry is checked and dropped: a message has one modseq for all its metadata."""
        cursor = self.cursor
        if cursor.at(b'"'):
            if not cursor.string().startswith(_ENTRY):
                raise BadSyntax("Unknown metadata entry")
            cursor.space()
            if cursor.word("Expected an entry type") not in _ENTRY_TYPES:
                raise BadSyntax("Unknown entry type")
            cursor.space()
        return s.ModSeq(cursor.number64())

    def _counted(self) -> None:
        self._count += 1
        if self._count > MAX_KEYS:
            raise BadSyntax("Too many search keys")


def _on(first_s: int) -> s.SearchKey:
    return s.InternalDate(first_s, first_s + DAY_S)


def _sent_on(day: int) -> s.SearchKey:
    return s.SentDate(day, day + 1)


# What each takes behind its word and a space, given how many keys it stands in.
_WITH_ARGUMENTS: Final[Mapping[str, Callable[[_Program, int], s.SearchKey]]] = {
    "BCC": lambda program, depth: s.Header("Bcc", program.text()),
    "BEFORE": lambda program, depth: s.InternalDate(None, program.day_s()),
    "BODY": lambda program, depth: s.Body(program.text()),
    "CC": lambda program, depth: s.Header("Cc", program.text()),
    "FROM": lambda program, depth: s.Header("From", program.text()),
    "HEADER": lambda program, depth: program.header(),
    "KEYWORD": lambda program, depth: program.keyword(),
    "LARGER": lambda program, depth: s.Size(program.cursor.number64(), None),
    "MODSEQ": lambda program, depth: program.modseq(),
    "NOT": lambda program, depth: s.Not(program.key(depth + 1)),
    "OLDER": lambda program, depth: s.Age(program.interval_s(), None),
    "ON": lambda program, depth: _on(program.day_s()),
    "OR": lambda program, depth: program.either(depth),
    "SENTBEFORE": lambda program, depth: s.SentDate(None, program.cursor.date()),
    "SENTON": lambda program, depth: _sent_on(program.cursor.date()),
    "SENTSINCE": lambda program, depth: s.SentDate(program.cursor.date(), None),
    "SINCE": lambda program, depth: s.InternalDate(program.day_s(), None),
    "SMALLER": lambda program, depth: s.Size(None, program.cursor.number64()),
    "SUBJECT": lambda program, depth: s.Header("Subject", program.text()),
    "TEXT": lambda program, depth: s.Text(program.text()),
    "TO": lambda program, depth: s.Header("To", program.text()),
    "UID": lambda program, depth: s.Numbers(program.cursor.sequence_set(), uid=True),
    "UNKEYWORD": lambda program, depth: s.Not(program.keyword()),
    "YOUNGER": lambda program, depth: s.Age(None, program.interval_s()),
}


def _all_of(keys: list[s.SearchKey]) -> s.SearchKey:
    return keys[0] if len(keys) == 1 else s.And(tuple(keys))
