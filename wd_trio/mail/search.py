"""SEARCH keys as values (RFC 3501 §6.4.4, RFC 5032 WITHIN, RFC 7162 MODSEQ).

A key is a tree. Row keys speak of what a message's narrow row holds (flags, uid, dates, size, modseq); text keys
need its header or its text, and are matched by mail/matching.py. Sequence numbers do not occur: whoever owns the
view has replaced them by uids. Texts are as the client meant them, decoded to Unicode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wd_trio.mail.numset import SequenceSet, UidSet


@dataclass(frozen=True, slots=True)
class All:
    """Every message."""


@dataclass(frozen=True, slots=True)
class And:
    keys: tuple[SearchKey, ...]


@dataclass(frozen=True, slots=True)
class Or:
    keys: tuple[SearchKey, ...]


@dataclass(frozen=True, slots=True)
class Not:
    key: SearchKey


@dataclass(frozen=True, slots=True)
class Numbers:
    """A sequence set as the client wrote it; `uid` says of what. Replaced by `Uids` before a search begins."""

    numbers: SequenceSet
    uid: bool


@dataclass(frozen=True, slots=True)
class Uids:
    uids: UidSet


@dataclass(frozen=True, slots=True)
class Flag:
    """System flag `bit` is set."""

    bit: int


@dataclass(frozen=True, slots=True)
class Keyword:
    """The keyword is set, in any case of its letters."""

    word: str


@dataclass(frozen=True, slots=True)
class InternalDate:
    """first <= internal date < last, seconds since the epoch; None leaves a side open. Days are UTC's."""

    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class SentDate:
    """first <= the day of the Date header, as written and without its time zone (RFC 3501) < last, as
    proleptic Gregorian ordinals; None leaves a side open. A message without a readable Date never matches."""

    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class Size:
    """larger < size < smaller, octets; None leaves a side open."""

    larger: int | None
    smaller: int | None


@dataclass(frozen=True, slots=True)
class Age:
    """WITHIN: the internal date is at least `older` seconds ago, or at most `younger` seconds ago."""

    older: int | None
    younger: int | None


@dataclass(frozen=True, slots=True)
class ModSeq:
    """The message's modseq is at least `least`."""

    least: int


@dataclass(frozen=True, slots=True)
class Header:
    """Field `name` exists and, decoded, contains `text` ("" matches every field of that name)."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Body:
    """The decoded text of some text part contains `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """The decoded header or body contains `text`."""

    text: str


SearchKey: TypeAlias = (
    All
    | And
    | Or
    | Not
    | Numbers
    | Uids
    | Flag
    | Keyword
    | InternalDate
    | SentDate
    | Size
    | Age
    | ModSeq
    | Header
    | Body
    | Text
)
NOTHING = Uids(UidSet())


def conjuncts(key: SearchKey) -> tuple[SearchKey, ...]:
    """The keys that must all hold for a key to hold."""
    return key.keys if isinstance(key, And) else (key,)


def narrowed(uids: UidSet, key: SearchKey) -> UidSet:
    """Those of `uids` that the key's own sets of uids leave."""
    for part in conjuncts(key):
        if isinstance(part, Uids):
            uids = uids & part.uids
    return uids
