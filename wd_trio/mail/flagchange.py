"""STORE, worked out: what becomes of many messages' flags, column by column (flagrows.py).

Pure: a store reads the rows, asks here what they become and which of them change, and writes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import FlagChange, join_keywords
from wd_trio.mail.numset import EMPTY, UidSet

Words: TypeAlias = Callable[[str], str]


class Chosen(NamedTuple):
    """The rows that a STORE is to change, the uids that UNCHANGEDSINCE holds back, and those that are gone."""

    rows: FlagRows
    failed: UidSet
    missing: UidSet


def chosen(found: FlagRows, uids: UidSet, unchanged_since: int | None) -> Chosen:
    """What a STORE on `uids` comes to where `found` are the living ones (RFC 7162 §3.1.3)."""
    missing = uids - found.uids if len(found) < len(uids) else EMPTY
    if unchanged_since is None:
        return Chosen(found, EMPTY, missing)
    taken = found.where([modseq <= unchanged_since for modseq in found.modseqs])
    return Chosen(taken, found.uids - taken.uids, missing)


class After(NamedTuple):
    """All rows as they are after a change; `changed` has an entry for each, true where the change made it another."""

    rows: FlagRows
    changed: Sequence[int]


def after(found: FlagRows, change: FlagChange, modseq: int) -> After:
    """What becomes of `found`; rows that change carry `modseq`, the others keep theirs."""
    become, differ = _tables(change.mode, change.flags)
    changed: Sequence[int] = found.flags.translate(differ)
    keywords = found.keywords
    if change.keywords or (change.mode == "set" and keywords):
        keywords = _keywords(found, _words(change.mode, change.keywords))
        before = found.keywords
        changed = [
            bool(differs) or keywords.get(uid) != before.get(uid)
            for uid, differs in zip(found.uids, changed, strict=True)
        ]
    modseqs: Sequence[int]
    if all(changed):
        modseqs = [modseq] * len(found)
    else:
        modseqs = [modseq if now else then for then, now in zip(found.modseqs, changed, strict=True)]
    return After(FlagRows(found.uids, found.flags.translate(become), keywords, modseqs), changed)


def having(flags: bytes, bit: int) -> int:
    """How many messages have the flag."""
    return sum(flags.count(value) for value in set(flags) if value & bit)


@lru_cache(maxsize=256)
def _tables(mode: str, bits: int) -> tuple[bytes, bytes]:
    """For each value of the flags what becomes of it, and whether that is another."""
    become = bytes(
        value | bits if mode == "add" else value & ~bits if mode == "remove" else bits for value in range(256)
    )
    return become, bytes(value != became for value, became in enumerate(become))


def _words(mode: str, change: str) -> Words:
    """What becomes of a message's keywords."""
    words = change.split()
    folded = {word.lower() for word in words}

    def add(old: str) -> str:
        return join_keywords([*old.split(), *words])

    def remove(old: str) -> str:
        return " ".join(word for word in old.split() if word.lower() not in folded)

    def replace(old: str) -> str:
        return old if {word.lower() for word in old.split()} == folded else join_keywords(words)

    return lru_cache(maxsize=None)({"add": add, "remove": remove}.get(mode, replace))


def _keywords(found: FlagRows, become: Words) -> Mapping[int, str]:
    """The keywords of all messages that have any after a change; messages have one of a few combinations."""
    old = found.keywords
    return {uid: text for uid in found.uids if (text := become(old.get(uid, "")))}
