"""SEARCH in SQLite: what SQL decides by itself, which index is walked, what is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_support import message

from wd_trio.adapters.sqlite import search
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.matching import Matcher
from wd_trio.mail.model import DELETED, SEEN, Found, MessageRow
from wd_trio.mail.numset import MAX_UID, UidSet
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
    Or,
    SearchKey,
    SentDate,
    Size,
    Text,
    Uids,
)
from wd_trio.mail.searchtext import ReadBlob
from wd_trio.ports.ids import new_id

ALL = UidSet([(1, MAX_UID)])
UNSEEN = Not(Flag(SEEN))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mail.db")
    yield made
    made.close()


@pytest.fixture
def box(database: SqliteDatabase) -> str:
    """A mailbox of 600 messages whose header, parts and rope are no such things: reading them raises."""
    flags = {100: 0, 350: DELETED, 351: SEEN | DELETED, 500: 0}
    many = [message(flags=flags.get(number, SEEN)) for number in range(1, 601)]
    return SqliteStore(database).append(new_id(), "INBOX", many, create=True).mailbox_id


@pytest.mark.parametrize(
    ("key", "exact"),
    [
        (All(), True),
        (And((UNSEEN, Keyword("$Work"), Uids(UidSet([(1, 2), (5, 9)])))), True),
        (Or((InternalDate(1, 2), Not(Size(1, None)), Age(5, 9), ModSeq(3))), True),
        (Or((And(()), Or(()))), True),
        (Keyword("ünknown"), False),
        (Uids(UidSet((n, n) for n in range(1, 99, 2))), False),
        (Not(SentDate(1, 2)), False),
        (And((UNSEEN, Body("x"))), False),
        (Or((Header("a", ""), Flag(SEEN))), False),
    ],
)
def test_what_rows_tell_is_decided_by_sql_alone(key: SearchKey, exact: bool) -> None:
    condition = search._Condition(now=10)
    sql = condition.of(key, perhaps="1")
    assert condition.exact is exact
    assert "m.uid" not in sql.replace("+m.uid", "")


def test_text_is_perhaps_and_the_opposite_under_a_not() -> None:
    condition = search._Condition(now=0)
    assert condition.of(Not(And((Text("a"), Not(Body("b"))))), perhaps="1") == "(NOT (0 AND (NOT 1)))"
    assert (
        condition.of(And((Text("a"), Body("b"), Flag(SEEN))), perhaps="1") == "(1 AND ((+m.flags & 1) <> 0))"
    )


def test_text_is_read_of_those_messages_only_that_rows_leave_open(
    database: SqliteDatabase, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Counting(Matcher):
        def matches(self, row: MessageRow, read: ReadBlob) -> bool:
            asked.append(row.uid)
            return True

    monkeypatch.setattr(search, "Matcher", Counting)
    store = SqliteStore(database)
    key = Or((And((Text("hello"), UNSEEN)), And((Flag(DELETED), Flag(SEEN)))))
    assert store.search(box, ALL, key, now=0).uids == UidSet.of([100, 350, 351, 500])
    assert asked == [100, 350, 500]


def test_rare_flags_are_found_by_their_indexes_in_one_page(database: SqliteDatabase, box: str) -> None:
    store = SqliteStore(database)
    modseq = 2
    assert store.search(box, ALL, UNSEEN, now=0, limit=3) == Found(UidSet.of([100, 350, 500]), modseq, 0)
    assert store.search(box, ALL, Flag(DELETED), now=0, limit=2) == Found(UidSet([(350, 351)]), modseq, 0)
    assert store.search(box, ALL, UNSEEN, now=0, limit=2) == Found(UidSet.of([100, 350]), modseq, 350)
    seen = store.search(box, ALL, Flag(SEEN), now=0, limit=120)
    assert seen == Found(UidSet([(1, 99), (101, 120)]), modseq, 120)
