"""STORE worked out column by column, against a model that goes message by message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail.flagchange import after, having
from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import DELETED, SEEN, FlagChange, FlagRow, join_keywords

WORDS = st.lists(st.sampled_from(["a", "B", "$Work", "b"]), max_size=3).map(join_keywords)
ROWS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 31), WORDS), max_size=20)
CHANGES = st.builds(FlagChange, st.sampled_from(["set", "add", "remove"]), st.integers(0, 31), WORDS)


def changed(row: FlagRow, change: FlagChange, modseq: int) -> FlagRow:
    old, words = row.keywords.split(), change.keywords.split()
    folded = {word.lower() for word in words}
    if change.mode == "add":
        flags, keywords = row.flags | change.flags, join_keywords([*old, *words])
    elif change.mode == "remove":
        flags = row.flags & ~change.flags
        keywords = join_keywords(word for word in old if word.lower() not in folded)
    else:
        flags = change.flags
        keywords = row.keywords if {word.lower() for word in old} == folded else join_keywords(words)
    same = (flags, keywords) == (row.flags, row.keywords)
    return FlagRow(row.uid, row.modseq if same else modseq, flags, keywords)


@given(ROWS, CHANGES)
def test_a_change_does_to_all_what_it_does_to_each(
    rows: list[tuple[int, int, str]], change: FlagChange
) -> None:
    before = [FlagRow(3 * n + 1, modseq, flags, words) for n, (modseq, flags, words) in enumerate(rows)]
    expected = [changed(row, change, 10) for row in before]
    outcome = after(FlagRows.of(before), change, 10)
    assert list(outcome.rows) == expected
    assert [bool(entry) for entry in outcome.changed] == [row.modseq == 10 for row in expected]


@given(st.binary(max_size=50).map(lambda flags: bytes(value & 31 for value in flags)))
def test_counting_is_of_a_flag_whatever_else_is_set(flags: bytes) -> None:
    for bit in (SEEN, DELETED):
        assert having(flags, bit) == sum(bool(value & bit) for value in flags)
