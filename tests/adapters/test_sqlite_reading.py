"""How SQLite is read: turns of reads with many rows, and the notes of what changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlite_support import message

from wd_trio.adapters.sqlite import journal
from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import DELETED, SEEN, Columns, FlagChange
from wd_trio.mail.numset import UidSet
from wd_trio.ports.ids import new_id


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mail.db", SqliteOptions(durable=False))
    yield made
    made.close()


@pytest.fixture
def store(database: SqliteDatabase) -> SqliteStore:
    return SqliteStore(database)


def test_reads_of_many_rows_take_turns_and_hold_up_no_others(
    database: SqliteDatabase, store: SqliteStore
) -> None:
    user = new_id()
    store.append(user, "INBOX", [message()] * 20, create=True)
    inbox = store.find_mailbox(user, "INBOX").id
    begun, done = Event(), Event()

    def read_many() -> None:
        begun.set()
        store.fetch(inbox, UidSet([(1, 20)]), Columns.NONE)
        done.set()

    with database.reading(many_rows=True):
        other = Thread(target=read_many)
        other.start()
        assert begun.wait(10)
        assert len(store.fetch(inbox, UidSet([(1, 1)]), Columns.NONE)) == 1
        assert len(store.flags(inbox, UidSet([(1, 20)]))) == 20
        assert not done.is_set()
    assert done.wait(10)
    other.join(10)


def test_what_changed_long_ago_is_noted_no_longer(database: SqliteDatabase, store: SqliteStore) -> None:
    user = new_id()
    store.append(user, "INBOX", [message()], create=True)
    inbox = store.find_mailbox(user, "INBOX").id
    for n in range(400):
        store.append(user, "INBOX", [message(flags=DELETED)])
        store.expunge(inbox)
        store.store_flags(inbox, UidSet([(1, 1)]), FlagChange("add" if n % 2 else "remove", SEEN))
    with database.reading() as connection:
        (notes,) = connection.execute("SELECT count(*) FROM changed").fetchone()
    assert notes <= journal.NOTED_MODSEQS + 64


def test_scattered_changes_are_noted_roughly_and_told_exactly(store: SqliteStore) -> None:
    user = new_id()
    since = store.append(user, "INBOX", [message()] * 100, create=True).modseq
    inbox = store.find_mailbox(user, "INBOX").id
    store.store_flags(inbox, UidSet.of(range(1, 100, 2)), FlagChange("add", SEEN))
    assert [row.uid for row in store.changes_since(inbox, since).rows] == list(range(1, 100, 2))
