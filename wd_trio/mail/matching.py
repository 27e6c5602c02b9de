"""Whether a message matches a search key: `Matcher`.

A key becomes one function of a row and of its texts (mail/searchtext.py). Without the texts the answer is
three-valued: None says that it hangs on them. So a store can decide most rows by their narrow columns, or in its
own query language, and reads text only where nothing else decides. Within And and Or the cheap keys come first (row,
then header, then body), and the first that decides ends it; a body is read once for all needles of the key.

Most messages have plain headers, and most of them do not match: `plain_word` (for a query language) and
`Matcher.may_match` tell what a match would need in the header as it stands, before anything is unfolded or decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from wd_trio.errors import Invalid
from wd_trio.mail.model import Columns, MessageRow
from wd_trio.mail.search import (
    Age,
    All,
    And,
    Body,
    Flag,
    Header,
    InternalDate,
    Keyword,
    ModSeq,
    Not,
    Numbers,
    Or,
    SearchKey,
    SentDate,
    Size,
    Text,
    Uids,
)
from wd_trio.mail.searchtext import WITH_PARAMETERS, ReadBlob, RowText, is_plain
from wd_trio.mail.textfind import fold

Test: TypeAlias = Callable[[MessageRow, RowText | None], bool | None]
Probe: TypeAlias = Callable[[bytes], bool]
"""Whether a message whose header is plain may match, by its header in lower case."""

MAX_NEEDLES: Final = 100  # different texts of one key: each costs a walk through every body

_ROW: Final = 0
_HEADER: Final = 1
_BODY: Final = 2
_BODY_COLUMNS: Final = Columns.PARTS | Columns.ROPE


class _Step(NamedTuple):
    cost: int
    test: Test
    probe: Probe | None = None


class Matcher:
    """One search key, ready for many messages. `now` is what Age counts back from, seconds since the epoch.

    `columns` are those that `matches` needs of a row, Columns.NONE when `row` always decides; `keys` counts the
    tree's. Invalid (what="search") for more than `MAX_NEEDLES` texts, ValueError for a key that still holds Numbers.
    """

    __slots__ = ("_needles", "_probe", "_test", "columns", "keys")

    def __init__(self, key: SearchKey, *, now: int) -> None:
        self.columns = Columns.NONE
        self.keys = 0
        self._needles: set[str] = set()
        _, self._test, self._probe = self._step(key, now)
        if len(self._needles) > MAX_NEEDLES:
            raise Invalid(f"more than {MAX_NEEDLES} texts to look for", what="search")

    def row(self, row: MessageRow) -> bool | None:
        """The answer by uid, flags, dates and size alone; None when it depends on text."""
        return self._test(row, None)

    def may_match(self, header: bytes) -> bool:
        """Whether a message with this header block can match at all; cheap, and True where it cannot say."""
        return self._probe is None or self._probe(header.lower()) or not has_plain_header(header)

    def matches(self, row: MessageRow, read: ReadBlob) -> bool:
        """The answer; `read` gives the ranges of blobs that the row's rope refers to."""
        return bool(self._test(row, RowText(row, read, self._needles)))

    def _step(self, key: SearchKey, now: int) -> _Step:
        self.keys += 1
        match key:
            case And(keys=keys):
                return _combined([self._step(inner, now) for inner in keys], ends=False)
            case Or(keys=keys):
                return _combined([self._step(inner, now) for inner in keys], ends=True)
            case Not(key=inner):
                return _negated(self._step(inner, now))
            case Header() | Body() | Text() | SentDate():
                return self._text_step(key)
            case _:
                return _row_step(key, now)

    def _text_step(self, key: Header | Body | Text | SentDate) -> _Step:
        match key:
            case Header(name=name, text=text):
                self.columns |= Columns.HEADER
                field, needle = name.strip().lower().encode("utf-8", "replace"), fold(text)
                if not field or b":" in field or b"\n" in field:
                    return _always(False)
                step = _on_text(_HEADER, lambda texts: texts.in_header(field, needle))
                return step._replace(probe=_probe(plain_word(key)))
            case SentDate(first=first, last=last):
                self.columns |= Columns.HEADER
                return _on_text(_HEADER, lambda texts: _between(texts.sent_day(), first, last))
        needle = fold(key.text)
        if not needle:
            return _always(True)
        self._needles.add(needle)
        self.columns |= _BODY_COLUMNS
        if isinstance(key, Body):
            return _on_text(_BODY, lambda texts: texts.in_body(needle))
        self.columns |= Columns.HEADER
        return _on_text(_BODY, lambda texts: texts.in_text(needle))


def plain_word(key: Header) -> str | None:
    """What the header block must hold somewhere, in any case of its letters, for the key to match a message whose
    header `has_plain_header`: folding may stand within the blanks of a text, nowhere else. None where that says
    nothing. "" never comes."""
    if key.name.strip().lower().encode("utf-8", "replace") in WITH_PARAMETERS or not key.text.isascii():
        return None  # parameters have an encoding of their own, and what is not ASCII may fold to what is
    return max(fold(key.text).split(), key=len, default=None)


def has_plain_header(header: bytes) -> bool:
    """Whether nothing in a header block is encoded in any way."""
    return is_plain(header) and b"\0" not in header


def within(key: Age, now: int) -> InternalDate:
    """WITHIN's key as dates (RFC 5032 §3: OLDER and YOUNGER both include their bound)."""
    return InternalDate(
        None if key.younger is None else now - key.younger, None if key.older is None else now - key.older + 1
    )


def _always(answer: bool) -> _Step:
    return _Step(_ROW, lambda _, __: answer)


def _on_text(cost: int, answer: Callable[[RowText], bool]) -> _Step:
    return _Step(cost, lambda _, texts: None if texts is None else answer(texts))


def _probe(word: str | None) -> Probe | None:
    if word is None:
        return None
    sought = word.encode("ascii")
    return lambda header: sought in header


def _between(number: int | None, first: int | None, last: int | None) -> bool:
    """first <= number < last, where None leaves a side open; no number lies nowhere."""
    return number is not None and (first is None or first <= number) and (last is None or number < last)


def _combined(steps: Sequence[_Step], *, ends: bool) -> _Step:
    """And (which a False ends) or Or (which a True ends)."""
    ordered = sorted(steps, key=lambda step: step.cost)
    tests = [step.test for step in ordered]

    def test(row: MessageRow, texts: RowText | None) -> bool | None:
        outcome: bool | None = not ends
        for one in tests:
            answer = one(row, texts)
            if answer is ends:
                return ends
            if answer is None:
                outcome = None
        return outcome

    probes = [step.probe for step in ordered if step.probe is not None]
    if not probes or (ends and len(probes) < len(ordered)):
        return _Step(ordered[-1].cost if ordered else _ROW, test)
    meet = any if ends else all
    return _Step(ordered[-1].cost, test, lambda header: meet(probe(header) for probe in probes))


def _negated(step: _Step) -> _Step:
    def test(row: MessageRow, texts: RowText | None) -> bool | None:
        answer = step.test(row, texts)
        return None if answer is None else not answer

    return _Step(step.cost, test)


def _row_step(key: SearchKey, now: int) -> _Step:
    answer = _row_test(key, now)
    return _Step(_ROW, lambda row, _: answer(row))


def _row_test(key: SearchKey, now: int) -> Callable[[MessageRow], bool]:
    match key:
        case All():
            return lambda _: True
        case Uids(uids=uids):
            return lambda row: row.uid in uids
        case Flag(bit=bit):
            return lambda row: bool(row.flags & bit)
        case Keyword(word=word):
            folded = word.lower()
            return lambda row: folded in row.keywords.lower().split()
        case InternalDate(first=first, last=last):
            return lambda row: (
                (first is None or first <= row.internal_date) and (last is None or row.internal_date < last)
            )
        case Age():
            return _row_test(within(key, now), now)
        case Size(larger=larger, smaller=smaller):
            return lambda row: (
                (larger is None or larger < row.size) and (smaller is None or row.size < smaller)
            )
        case ModSeq(least=least):
            return lambda row: row.modseq >= least
        case Numbers():
            raise ValueError("sequence sets are to be replaced by uids before a search")
    raise AssertionError(f"no row key: {key!r}")
