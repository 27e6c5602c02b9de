"""SEARCH over one page of a mailbox, inside a read transaction of the caller's.

What a key says of rows becomes SQL; what it says of text cannot, and stands there as "perhaps": true where more
would be found, false under a NOT. A condition without perhaps is exact, and its rows are the answer. Otherwise
the rows it lets through are asked one by one (mail/matching.py), until the page has read its fill of text. Keys
that would make the SQL too deep, too long or slow are a perhaps too. Of header fields SQL sees the raw block: where
nothing in it is encoded and it lacks the longest word asked for, the message is out, at a tenth of what it would
cost in Python.

A page is cut by living messages, not by numbers, so that 1:* over a sparse mailbox takes few pages. UNSEEN and
DELETED walk their partial indexes where few messages are such. Columns are written "+m.flags", which keeps SQLite,
that has no statistics here, on the walk chosen.
"""

from __future__ import annotations

import re
import sqlite3
from itertools import count
from typing import Final, NamedTuple

from wd_trio.adapters.sqlite import blobs as blobs_
from wd_trio.adapters.sqlite import messages
from wd_trio.adapters.sqlite.mailboxes import MailboxState
from wd_trio.adapters.sqlite.rows import Picked, pick
from wd_trio.mail.matching import Matcher, plain_word, within
from wd_trio.mail.model import DELETED, SEEN, Found
from wd_trio.mail.numset import EMPTY, MAX_UID, UidSet
from wd_trio.mail.search import (
    Age,
    All,
    And,
    Flag,
    Header,
    InternalDate,
    Keyword,
    ModSeq,
    Not,
    Or,
    SearchKey,
    Size,
    Uids,
    conjuncts,
    narrowed,
)

TEXT_BUDGET_BYTES: Final = 1 << 20  # others wait for their turn meanwhile
_MAX_KEYS: Final = 300  # SQLite's own limit is an expression 1,000 deep
_MAX_DEPTH: Final = 10  # … and a parser stack of 100
_MAX_RANGES: Final = 8
_LONG_KEY: Final = 64  # so many keys asked of a row take as long as the row itself
_FEW: Final = 4  # an index pays where it leads to at most one message in so many
_MAX_WORD: Final = 100  # characters: LIKE takes no pattern without end
_WILD: Final = re.compile(r"[\\%_]")
_INT64_MAX: Final = (1 << 63) - 1


def page(
    connection: sqlite3.Connection,
    mailbox: MailboxState,
    uids: UidSet,
    key: SearchKey,
    *,
    now: int,
    after: int,
    limit: int,
) -> Found:
    """The first matches among `uids` above `after`: `limit` messages looked at, or `TEXT_BUDGET_BYTES` read;
    fewer where the key is a very long one. Invalid (what="search") for more texts than a Matcher takes."""
    uids = narrowed(uids.between(after + 1, MAX_UID), key)
    if not uids:
        return Found(EMPTY, 0, 0)
    condition = _Condition(now)
    wanted = condition.of(key, perhaps="1")
    matcher = None if condition.exact else Matcher(key, now=now)
    if matcher is not None:
        limit = max(limit // (1 + matcher.keys // _LONG_KEY), 1)
    source, walk, parameters, goes_on = _walk(connection, mailbox.number, uids, key, limit)
    picked = Picked(source, f"{walk} AND {wanted}", parameters | condition.parameters)
    if matcher is not None:
        return _ask_each(connection, picked, matcher, goes_on)
    found, modseq, total = connection.execute(
        f"SELECT group_concat(m.uid), max(m.modseq), count(*) FROM {picked.source} WHERE {picked.condition}",
        picked.parameters,
    ).fetchone()
    if found is None:
        return Found(EMPTY, 0, goes_on)
    first, last = int(found.partition(",")[0]), int(found.rpartition(",")[2])
    if (
        last - first + 1 == total
    ):  # in order and without gaps, as unread news are: no need to read each number
        return Found(UidSet([(first, last)]), modseq, goes_on)
    return Found(UidSet.of(map(int, found.split(","))), modseq, goes_on)


def _ask_each(connection: sqlite3.Connection, picked: Picked, matcher: Matcher, goes_on: int) -> Found:
    """The rows of `picked` that match; the page ends early where they have cost enough text."""
    chosen = messages.selection(matcher.columns)
    cursor = connection.execute(
        f"SELECT {chosen.fields} FROM {picked.source}{chosen.joins} WHERE {picked.condition}",
        picked.parameters,
    )
    spent = 0

    def read(digest: bytes, start: int, stop: int) -> bytes:
        nonlocal spent
        spent += stop - start
        return blobs_.read(connection, digest, start, stop)

    found: list[tuple[int, int]] = []
    for record in cursor:
        spent += chosen.size(record)
        row = chosen.row(record)
        matches = matcher.row(row)
        if matches is None:
            matches = matcher.matches(row, read)
        if matches:
            found.append((row.uid, row.modseq))
        if spent >= TEXT_BUDGET_BYTES:
            goes_on = record[0]
            break
    cursor.close()
    return Found(UidSet.of(uid for uid, _ in found), max((modseq for _, modseq in found), default=0), goes_on)


# -- which messages to look at


class _Walk(NamedTuple):
    """As Picked, and the uid at which the walk ends when more lies behind it, else 0."""

    source: str
    condition: str
    parameters: dict[str, object]
    goes_on: int


def _walk(connection: sqlite3.Connection, number: int, uids: UidSet, key: SearchKey, limit: int) -> _Walk:
    """The walk over the next `limit` messages among `uids`."""
    rest = uids
    if uids.range_count > 2 * limit:
        # So many ranges hold about that many messages, and what is handed to SQLite stays small.
        uids = uids.slice(0, 2 * limit)
    source, predicate = _index(connection, number, key)
    if len(uids) > limit:
        picked = pick(number, uids)
        ends = connection.execute(
            f"SELECT m.uid FROM {picked.source}{source} WHERE {picked.condition}{predicate} LIMIT 2 OFFSET :skipped",
            picked.parameters | {"skipped": limit - 1},
        ).fetchall()
        if len(ends) == 2:  # this page's last message, and another behind it
            uids = uids.between(1, ends[0][0])
    picked = pick(number, uids)
    goes_on = 0 if uids.last == rest.last else uids.last
    return _Walk(picked.source + source, picked.condition + predicate, picked.parameters, goes_on)


def _index(connection: sqlite3.Connection, number: int, key: SearchKey) -> tuple[str, str]:
    """The partial index to walk for a key, with the predicate that allows it; empty where none pays."""
    parts = conjuncts(key)
    if not (Flag(DELETED) in parts or Not(Flag(SEEN)) in parts):
        return "", ""
    unseen, deleted, total = connection.execute(
        "SELECT unseen, deleted, messages FROM mailboxes WHERE mailbox = ?", (number,)
    ).fetchone()
    if Flag(DELETED) in parts and deleted * _FEW <= total:
        return " INDEXED BY messages_deleted", " AND m.deleted = 1"
    if Not(Flag(SEEN)) in parts and unseen * _FEW <= total:
        return " INDEXED BY messages_unseen", " AND m.unseen = 1"
    return "", ""


# -- keys as SQL


class _Condition:
    """Makes SQL of a key. `exact` turns false once something was left to `perhaps`; values are in `parameters`."""

    def __init__(self, now: int) -> None:
        self.exact = True
        self.parameters: dict[str, object] = {}
        self._now = now
        self._names = (f"k{number}" for number in count())
        self._left = _MAX_KEYS

    def of(self, key: SearchKey, *, perhaps: str, depth: int = 0) -> str:
        """A condition in parentheses that holds for the key's messages; for others only where text must decide
        (`perhaps` "1"). With "0" it is the other way: false for others, and where text must decide."""
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            return self._open(perhaps)
        match key:
            case All():
                return "1"
            case And(keys=keys) | Or(keys=keys):
                conjunction = isinstance(key, And)
                parts = dict.fromkeys(self.of(inner, perhaps=perhaps, depth=depth + 1) for inner in keys)
                return f"({(' AND ' if conjunction else ' OR ').join(parts) or int(conjunction)})"
            case Not(key=inner):
                return f"(NOT {self.of(inner, perhaps='0' if perhaps == '1' else '1', depth=depth + 1)})"
            case Flag(bit=bit):
                return f"((+m.flags & {bit:d}) <> 0)"
            case Header():
                return self._of_header(key, perhaps)
        return self._of_value(key) or self._open(perhaps)

    def _open(self, perhaps: str) -> str:
        self.exact = False
        return perhaps

    def _of_header(self, key: Header, perhaps: str) -> str:
        word = plain_word(key)
        self.exact = False
        if word is None or perhaps == "0":
            return perhaps
        pattern = _WILD.sub(r"\\\g<0>", word[:_MAX_WORD])
        return (
            "EXISTS (SELECT 1 FROM contents p JOIN texts h ON h.content = p.content WHERE p.content = m.content"
            f" AND (p.plain_header = 0 OR CAST(h.header AS TEXT) LIKE {self._value(f'%{pattern}%')} ESCAPE '\\'))"
        )

    def _of_value(self, key: SearchKey) -> str:
        """The condition of a key that compares a column; "" for one that SQL cannot decide."""
        match key:
            case Uids(uids=uids) if uids.range_count <= _MAX_RANGES:
                between = [self._range("+m.uid", first, last + 1) for first, last in uids.ranges()]
                return f"({' OR '.join(between) or '0'})"
            case Keyword(word=word) if word.isascii() and word.split() == [word]:
                return f"(instr(' ' || lower(m.keywords) || ' ', {self._value(f' {word.lower()} ')}) > 0)"
            case InternalDate(first=first, last=last):
                return self._range("m.internal_date", first, last)
            case Age():
                return self._of_value(within(key, self._now))
            case Size(larger=larger, smaller=smaller):
                return self._range("m.size", None if larger is None else larger + 1, smaller)
            case ModSeq(least=least):
                return self._range("+m.modseq", least, None)
        return ""

    def _range(self, column: str, first: int | None, last: int | None) -> str:
        """first <= column < last."""
        parts = [] if first is None else [f"{column} >= {self._value(first)}"]
        if last is not None:
            parts.append(f"{column} < {self._value(last)}")
        return f"({' AND '.join(parts) or '1'})"

    def _value(self, value: int | str) -> str:
        """A parameter; integers that SQLite cannot hold become the nearest it can, which no message reaches."""
        if isinstance(value, int):
            value = max(min(value, _INT64_MAX), -_INT64_MAX)
        name = next(self._names)
        self.parameters[name] = value
        return f":{name}"
