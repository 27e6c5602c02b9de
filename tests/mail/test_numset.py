"""UidSet against Python's own sets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail.numset import EMPTY, SequenceSet, UidSet

uids = st.sets(st.integers(1, 60))


@given(uids, uids)
def test_algebra_is_that_of_sets(a: set[int], b: set[int]) -> None:
    first, second = UidSet.of(sorted(a)), UidSet.of(sorted(b))
    assert set(first | second) == a | b
    assert set(first & second) == a & b
    assert set(first - second) == a - b
    assert (first == second) == (a == b)
    assert list(first) == sorted(a)
    assert len(first) == len(a)


@given(uids, st.integers(0, 61), st.integers(0, 61))
def test_positions_and_ranges(a: set[int], x: int, y: int) -> None:
    made = UidSet.of(sorted(a))
    ordered = sorted(a)
    assert [made.at(i) for i in range(len(made))] == ordered
    assert [made.index(uid) for uid in ordered] == list(range(len(ordered)))
    assert (x in made) == (x in a)
    assert made.below(x) == sum(uid < x for uid in a)
    assert list(made.between(x, y)) == [uid for uid in ordered if x <= uid <= y]
    assert list(made.slice(x, y)) == ordered[x:y]
    assert [uid for page in made.pages(7) for uid in page] == ordered
    assert (made.first, made.last) == ((ordered[0], ordered[-1]) if ordered else (0, 0))


@given(st.lists(st.integers(1, 60)))
def test_of_takes_any_order(numbers: list[int]) -> None:
    assert set(UidSet.of(numbers)) == set(numbers)
    assert set(UidSet.of(iter(numbers))) == set(numbers)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60))))
def test_ranges_merge(pairs: list[tuple[int, int]]) -> None:
    made = UidSet(pairs)
    assert set(made) == {n for a, b in pairs for n in range(a, b + 1)}
    gaps = [b[0] - a[1] for a, b in zip(made.ranges(), made.ranges()[1:], strict=False)]
    assert all(gap > 1 for gap in gaps), "touching ranges are one"


def test_text() -> None:
    assert str(UidSet([(1, 3), (7, 7)])) == "1:3,7"
    assert repr(EMPTY) == "UidSet(empty)"


def test_sequence_sets_resolve_the_star() -> None:
    assert str(SequenceSet(((1, 3), (0, 0), (5, 0)))) == "1:3,*,5:*"
    assert set(SequenceSet(((5, 0),)).resolve(9)) == {5, 6, 7, 8, 9}
    assert set(SequenceSet(((12, 0),)).resolve(9)) == {9, 10, 11, 12}
    assert set(SequenceSet(((4, 2),)).resolve(9)) == {2, 3, 4}
    assert not SequenceSet(((1, 0),)).resolve(0)
