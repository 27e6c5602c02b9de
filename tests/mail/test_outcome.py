"""Outcomes: what results of the store come to, and the texts they are stored as."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail.model import Appended, Copied
from wd_trio.mail.numset import EMPTY, UidSet
from wd_trio.mail.outcome import MOST_RANGES, Outcome, outcome_of

UIDS = st.sets(st.integers(1, 300), max_size=40).map(UidSet.of)


def copied(sources: range) -> Copied:
    targets = tuple(range(1, len(sources) + 1))
    return Copied(tuple(sources), Appended("m", "u", 5, targets, 1, 2, ()))


@given(UIDS, UIDS)
def test_texts_come_back(sources: UidSet, targets: UidSet) -> None:
    outcome = Outcome(17, sources, targets)
    assert Outcome.stored(17, *outcome.as_texts()) == outcome


def test_a_copy_of_some() -> None:
    assert outcome_of(copied(range(3, 6))) == Outcome(5, UidSet([(3, 5)]), UidSet([(1, 3)]))
    assert outcome_of(copied(range(0))) is None


def test_what_would_take_too_much_room_is_not_told() -> None:
    most = 2 * MOST_RANGES
    assert outcome_of(copied(range(1, most, 2))) is not None
    assert outcome_of(copied(range(1, most + 2, 2))) is None
    assert outcome_of(copied(range(1, 10 * most))) is not None, "in one range"


def test_appended() -> None:
    assert outcome_of(Appended("m", "u", 5, (8, 9), 1, 2, ())) == Outcome(5, EMPTY, UidSet([(8, 9)]))
    assert outcome_of(Appended("m", "u", 5, (), 1, 1, ())) is None
