"""Flags as columns are the sequence of rows that they were made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wd_trio.mail.flagrows import FlagRows
from wd_trio.mail.model import FlagRow
from wd_trio.mail.numset import EMPTY, UidSet

ROWS = st.lists(
    st.tuples(
        st.integers(1, 200), st.integers(1, 1 << 40), st.integers(0, 31), st.sampled_from(["", "a", "b c"])
    ),
    unique_by=lambda row: row[0],
    max_size=40,
).map(lambda rows: [FlagRow(*row) for row in sorted(rows)])


@given(ROWS)
def test_columns_are_the_rows(rows: list[FlagRow]) -> None:
    columns = FlagRows.of(rows)
    assert list(columns) == rows
    assert columns == tuple(rows)
    assert rows == columns
    assert FlagRows.of(columns) is columns
    assert columns.uids == UidSet.of(row.uid for row in rows)
    assert len(columns) == len(rows)
    assert [columns[n] for n in range(-len(rows), len(rows))] == rows + rows
    assert columns[1:3] == tuple(rows[1:3])


@given(ROWS, st.data())
def test_where_keeps_what_is_asked(rows: list[FlagRow], data: st.DataObject) -> None:
    keep = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    kept = FlagRows.of(rows).where(keep)
    assert list(kept) == [row for row, wanted in zip(rows, keep, strict=True) if wanted]
    assert all(uid in kept.uids for uid in kept.keywords)


def test_rows_that_differ_are_not_equal() -> None:
    columns = FlagRows.of([FlagRow(1, 2, 3, "a")])
    assert columns != (FlagRow(1, 2, 3, "b"),)
    assert columns != ()
    assert columns != 5
    assert "modseq=2" in repr(columns)


def test_columns_have_one_length() -> None:
    with pytest.raises(ValueError, match="columns of 0, 1 and 0"):
        FlagRows(EMPTY, b"\0", {}, [])


def test_beyond_the_end_there_is_nothing() -> None:
    with pytest.raises(IndexError):
        FlagRows.of([FlagRow(5, 2, 3, "")])[1]
