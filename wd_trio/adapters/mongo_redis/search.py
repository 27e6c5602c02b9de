"""SEARCH over one page of a mailbox, at one moment.

What a key says of flags, dates and sizes becomes a query; what it says of text cannot, and stands there as
"perhaps": true where more would be found, false under a NOT. Of a header field it says at least what must stand
somewhere in a header that is not encoded (FROM: in a field of its own, which is in an index), which leaves most
messages where they are. A query without perhaps is exact, and its messages are the answer. Otherwise those it lets
through are asked one by one (mail/matching.py), until the page has read its fill of text. Keys that would make the
query too deep or too long are a perhaps too.

A key of flags and keywords alone is decided here, from the flags of the mailbox that the process knows or learns
(known.py): it is a table over the few sets of flags that there are.

A page is cut by living messages, not by numbers: where there may be more of them than it looks at, the same round
trip brings the uid at which it ends. UNSEEN and DELETED walk their partial indexes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import chain, compress, islice
from typing import Any, Final, NamedTuple

from wd_trio.adapters.mongo_redis.layout import (
    BY_DELETED,
    BY_FROM,
    BY_UID,
    BY_UNSEEN,
    MESSAGES,
    UNKNOWN_FROM,
    Document,
    Keys,
    among,
    header_of,
    projection,
    row_of,
    sized,
)
from wd_trio.adapters.mongo_redis.mongo import CALL_S, bounded
from wd_trio.adapters.mongo_redis.reader import SNAPSHOT
from wd_trio.adapters.mongo_redis.shared import Shared
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.matching import Matcher, plain_word, within
from wd_trio.mail.model import DELETED, SEEN, Columns, Found, MessageRow
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

TEXT_BUDGET_BYTES: Final = 1 << 20
_MAX_KEYS: Final = 300
_MAX_DEPTH: Final = 10  # MongoDB's own limit is 100 documents deep
_MAX_RANGES: Final = 8
_MAX_WORD: Final = 100  # characters of a text that MongoDB looks for
_FROM_PAGES: Final = 10  # pages in one, where keys of an index are looked through instead of messages
_MAX_KNOWN: Final = 1 << 24  # more uids than anybody's mailbox has are a range that says "all"
_WALKED_RANGES: Final = 32  # of more ranges, uids are listed one by one
_LISTED_UIDS: Final = 20_000
_LONG_KEY: Final = 64  # so many keys asked of a row take as long as the row itself
_TEXT_BATCH: Final = 32  # messages with their texts in one go
_HEADER_BATCH: Final = 250
_INT64_MAX: Final = (1 << 63) - 1

_EVERY: Final[Document] = {}
_NONE: Final[Document] = {"uid": {"$in": []}}
_NOTHING: Final = Found(EMPTY, 0, 0)
_MARKS: Final[Mapping[Keys, Document]] = {BY_DELETED: {"deleted": True}, BY_UNSEEN: {"unseen": True}}
"""What a walk of a partial index says besides."""


@bounded(CALL_S)
def page(
    shared: Shared, mailbox_id: str, uids: UidSet, key: SearchKey, *, now: int, after: int, limit: int
) -> Found:
    """The first matches among `uids` above `after`: `limit` messages looked at, or `TEXT_BUDGET_BYTES` read; fewer
    where the key is a very long one. Invalid (what="search") for more texts than a Matcher takes; NotFound. One
    round trip, and those that texts take; one more for keys of flags alone in a mailbox not known as it stands."""
    user_id = shared.owner(mailbox_id)
    of_flags = _of_flags(key)
    if of_flags is not None:
        with shared.reader.one_moment() as moment:
            document = shared.document(moment, user_id, mailbox_id)
            rows = shared.known.learn(moment, document).rows
        return _among_known(rows, narrowed(uids.between(after + 1, MAX_UID), key), of_flags, now, limit)
    condition = _Condition(now)
    wanted = condition.of(key, perhaps=_EVERY)
    matcher = None if condition.exact else Matcher(key, now=now)
    if matcher is not None:
        limit = max(limit // (1 + matcher.keys // _LONG_KEY), 1)
    walk = _walk((user_id, mailbox_id), narrowed(uids.between(after + 1, MAX_UID), key), key, limit)
    found = _NOTHING if walk is None else _look(shared, walk, wanted, matcher)
    if not found.uids and not found.after:
        shared.require(user_id, mailbox_id)
    return found


# -- which messages to look at


class _Walk(NamedTuple):
    """The next messages to look at: those of `base` in order of uid, at most `limit`. `cut` says that there may be
    more of them than that; `goes_on` is the uid to go on after if there are not, 0 for done."""

    base: Document
    hint: Keys
    limit: int
    cut: bool
    goes_on: int


def _walk(place: tuple[str, str], uids: UidSet, key: SearchKey, limit: int) -> _Walk | None:
    """None when there is nothing to look at."""
    if not uids:
        return None
    rest = uids
    hint = _hint(conjuncts(key))
    if hint is BY_FROM and len(uids) <= _MAX_KNOWN:  # somebody's view: near all of these live
        limit *= _FROM_PAGES
        uids = uids.slice(0, limit)
    if uids.range_count > _WALKED_RANGES:
        uids = uids.slice(0, _LISTED_UIDS)
    (base,) = among(*place, uids)
    base |= _MARKS.get(hint, _EVERY)
    return _Walk(base, hint, limit, len(uids) > limit, 0 if uids.last == rest.last else uids.last)


def _hint(parts: Sequence[SearchKey]) -> Keys:
    """The index that leaves out most of what no message with all these `parts` is."""
    if Flag(DELETED) in parts:
        return BY_DELETED
    if Not(Flag(SEEN)) in parts:
        return BY_UNSEEN
    of_from = any(isinstance(part, Header) and _is_from(part) and plain_word(part) for part in parts)
    return BY_FROM if of_from else BY_UID


def _pipeline(walk: _Walk, wanted: Document, columns: Document) -> list[Document]:
    """The messages of a walk that are `wanted`; where it is cut, then {end: uid} of its last message and of the
    one behind."""
    if not walk.cut:  # one filter, which MongoDB applies while it walks
        return [{"$match": {"$and": [walk.base, wanted]}}, {"$sort": {"uid": 1}}, {"$project": columns}]
    steps: list[Document] = [{"$match": walk.base}, {"$sort": {"uid": 1}}]
    ends = [*steps, {"$skip": walk.limit - 1}, {"$limit": 2}, {"$project": {"_id": 0, "end": "$uid"}}]
    looked_at: list[Document] = [*steps, {"$limit": walk.limit}, {"$match": wanted}, {"$project": columns}]
    return [*looked_at, {"$unionWith": {"coll": MESSAGES, "pipeline": ends}}]


def _look(shared: Shared, walk: _Walk, wanted: Document, matcher: Matcher | None) -> Found:
    columns = Columns.NONE if matcher is None else matcher.columns
    fields: Document = {"_id": 0, "uid": 1, "modseq": 1} if matcher is None else projection(columns)
    command = {
        "aggregate": MESSAGES,
        "pipeline": _pipeline(walk, wanted, fields),
        "hint": dict(walk.hint),
        "cursor": {"batchSize": _batch(columns, walk)},
    }
    if matcher is not None:
        with closing(shared.reader.batches(command, concern=SNAPSHOT)) as batches:
            return _ask_each(shared, walk, chain.from_iterable(batches), matcher)
    documents = shared.reader.ask(command, concern=SNAPSHOT)
    ends = [document["end"] for document in documents if "end" in document]
    found = [(row["uid"], row["modseq"]) for row in documents if "uid" in row]
    return _found(found, _end(walk, ends))


def _batch(columns: Columns, walk: _Walk) -> int:
    """How many documents one go brings: all without text; else about what the text budget will take of them."""
    if columns & Columns.ROPE:
        return _TEXT_BATCH
    return _HEADER_BATCH if columns else walk.limit + 3  # the ends, and one to see that there are no more


def _end(walk: _Walk, ends: list[int]) -> int:
    """The uid to go on after: the walk's last message where there is another behind it."""
    return ends[0] if len(ends) == 2 else walk.goes_on


def _found(rows: list[tuple[int, int]], after: int) -> Found:
    return Found(UidSet.of(uid for uid, _ in rows), max((modseq for _, modseq in rows), default=0), after)


def _ask_each(shared: Shared, walk: _Walk, documents: Iterable[Mapping[str, Any]], matcher: Matcher) -> Found:
    """Those that match; the page ends early where they have cost enough text."""
    spent = 0

    def read(digest: bytes, start: int, stop: int) -> bytes:
        nonlocal spent
        spent += stop - start
        return shared.blobs.read(digest, start, stop)

    wide = sized(matcher.columns)
    found: list[tuple[int, int]] = []
    rows = iter(documents)
    for document in rows:
        if "end" in document:
            return _found(found, _end(walk, [document["end"], *(row["end"] for row in islice(rows, 1))]))
        spent += sum(len(document[name]) for name in wide if name in document)
        if matcher.columns & Columns.HEADER and not matcher.may_match(header_of(document)):
            matches: bool | None = False
        else:
            row = row_of(document)
            matches = matcher.row(row)
            if matches is None:
                matches = matcher.matches(row, read)
        if matches:
            found.append((document["uid"], document["modseq"]))
        if spent >= TEXT_BUDGET_BYTES:
            return _found(found, document["uid"])
    return _found(found, walk.goes_on)


# -- keys of flags alone


def _of_flags(key: SearchKey) -> SearchKey | None:
    """The key without the uids that narrow the walk, if what is left speaks of flags and keywords alone."""
    rest = And(tuple(part for part in conjuncts(key) if not isinstance(part, Uids)))
    return rest if _is_of_flags(rest, 0) else None


def _is_of_flags(key: SearchKey, depth: int) -> bool:
    match key:
        case All() | Flag() | Keyword():
            return True
        case And(keys=keys) | Or(keys=keys):
            return depth < _MAX_DEPTH and all(_is_of_flags(inner, depth + 1) for inner in keys)
        case Not(key=inner):
            return depth < _MAX_DEPTH and _is_of_flags(inner, depth + 1)
    return False


def _among_known(rows: FlagRows, uids: UidSet, key: SearchKey, now: int, limit: int) -> Found:
    """The matches of a key of flags alone in the first `limit` rows among `uids`."""
    living = rows.uids & uids
    looked_at = living.slice(0, limit)
    if not looked_at:
        return _NOTHING
    span = slice(rows.uids.index(looked_at.first), rows.uids.index(looked_at.last) + 1)
    flags, modseqs = rows.flags[span], rows.modseqs[span]
    matcher = Matcher(key, now=now)
    table = bytearray(256)
    for one in set(flags):
        table[one] = bool(matcher.row(MessageRow(0, 0, one, "", 0, 0)))
    matches = bytearray(flags.translate(table))
    spanned = rows.uids.between(looked_at.first, looked_at.last)
    for place, uid in enumerate(spanned if rows.keywords else ()):
        if uid in rows.keywords:
            matches[place] = bool(matcher.row(MessageRow(uid, 0, flags[place], rows.keywords[uid], 0, 0)))
    if len(looked_at) < len(matches):  # the span holds others, too
        matches = bytearray(match and uid in looked_at for uid, match in zip(spanned, matches, strict=True))
    found = UidSet.of(compress(spanned, matches))
    highest = max(compress(modseqs, matches), default=0)
    return Found(found, highest, looked_at.last if len(looked_at) < len(living) else 0)


# -- keys as queries


class _Condition:
    """Makes a query of a key. `exact` turns false once something was left to `perhaps`."""

    def __init__(self, now: int) -> None:
        self.exact = True
        self._now = now
        self._left = _MAX_KEYS

    def of(self, key: SearchKey, *, perhaps: Document, depth: int = 0) -> Document:
        """A query that holds for the key's messages; for others only where text must decide (`perhaps` is every
        message). With none for `perhaps` it is the other way: not for others, and not where text must decide."""
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            return self._open(perhaps)
        match key:
            case All():
                return _EVERY
            case And(keys=keys):
                parts = [self.of(inner, perhaps=perhaps, depth=depth + 1) for inner in keys]
                return {"$and": parts} if parts else _EVERY
            case Or(keys=keys):
                parts = [self.of(inner, perhaps=perhaps, depth=depth + 1) for inner in keys]
                return {"$or": parts} if parts else _NONE
            case Not(key=inner):
                other = _NONE if perhaps is _EVERY else _EVERY
                return {"$nor": [self.of(inner, perhaps=other, depth=depth + 1)]}
            case Flag(bit=bit):
                return {"flags": {"$bitsAllSet": bit}}
            case Header():
                return self._of_header(key, perhaps)
        query = self._of_value(key)
        return self._open(perhaps) if query is None else query

    def _of_header(self, key: Header, perhaps: Document) -> Document:
        word = plain_word(key)
        if word is None or perhaps is _NONE:
            return self._open(perhaps)
        self.exact = False
        if _is_from(key):
            return {"from": {"$in": [re.compile(re.escape(word[:_MAX_WORD])), UNKNOWN_FROM]}}
        plain = {"header": {"$regex": re.escape(word[:_MAX_WORD]), "$options": "i"}}
        return {"$or": [plain, {"header": {"$type": "binData"}}]}

    def _open(self, perhaps: Document) -> Document:
        self.exact = False
        return perhaps

    def _of_value(self, key: SearchKey) -> Document | None:
        """The query of a key that compares a field; None for one that no query can decide."""
        match key:
            case Uids(uids=uids) if uids.range_count <= _MAX_RANGES:
                between = [_range("uid", first, last + 1) for first, last in uids.ranges()]
                return {"$or": between} if between else _NONE
            case Keyword(word=word) if word.isascii() and word.isprintable() and word.split() == [word]:
                return {"keywords": {"$regex": f"(^| ){re.escape(word)}( |$)", "$options": "i"}}
            case InternalDate(first=first, last=last):
                return _range("date", first, last)
            case Age():
                return self._of_value(within(key, self._now))
            case Size(larger=larger, smaller=smaller):
                return _range("size", None if larger is None else larger + 1, smaller)
            case ModSeq(least=least):
                return _range("modseq", least, None)
        return None


def _is_from(key: Header) -> bool:
    return key.name.strip().lower() == "from"


def _range(field: str, first: int | None, last: int | None) -> Document:
    """first <= field < last; numbers beyond 64 bits become the nearest within, which no message reaches."""
    bounds = {} if first is None else {"$gte": _clamped(first)}
    if last is not None:
        bounds["$lt"] = _clamped(last)
    return {field: bounds} if bounds else _EVERY


def _clamped(number: int) -> int:
    return max(min(number, _INT64_MAX), -_INT64_MAX)
