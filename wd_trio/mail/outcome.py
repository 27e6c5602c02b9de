"""What a command's write came to, noted in the write's own transaction.

A worker may be killed between its write and the reply. Who goes on with the connection finds the note of this very
command and answers from it; without one nobody knows, for a write may still be on its way. A session has one note, of
the last of its commands that changed something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wd_trio.mail.model import Appended, Copied, Expunged, FlagsStored
from wd_trio.mail.numset import EMPTY, UidSet

MOST_RANGES: Final = 10_000
"""Of uids, in a note: one that would be larger is not made."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The command that a write ends: its session's id, and its serial there."""

    session: str
    serial: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of APPEND and COPY: `targets` are the new messages under `uid_validity`, and `sources` what they were copied
    from, in the same order. Of other commands, that it was done."""

    uid_validity: int = 0
    sources: UidSet = EMPTY
    targets: UidSet = EMPTY

    def as_texts(self) -> tuple[str, str]:
        """Sources and targets, to be stored."""
        return str(self.sources), str(self.targets)

    @classmethod
    def stored(cls, uid_validity: int, sources: str, targets: str) -> Outcome:
        """The outcome that was stored as these."""
        return cls(uid_validity, UidSet(_ranges(sources)), UidSet(_ranges(targets)))


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    for pair in text.split(",") if text else ():
        first, _, last = pair.partition(":")
        yield int(first), int(last or first)


def outcome_of(result: object) -> Outcome | None:
    """What a call of the mail store came to; None where there is nothing to note: it changed nothing, or would take
    too much room to tell."""
    match result:
        case Appended(uid_validity=uid_validity, uids=uids):
            return Outcome(uid_validity, EMPTY, UidSet.of(uids)) if uids else None
        case Copied(sources=sources, targets=targets):
            outcome = Outcome(targets.uid_validity, UidSet.of(sources), UidSet.of(targets.uids))
            return outcome if 0 < outcome.sources.range_count <= MOST_RANGES else None
        case FlagsStored(previous_modseq=before, modseq=now) | Expunged(previous_modseq=before, modseq=now):
            return Outcome() if now != before else None
    return Outcome()
