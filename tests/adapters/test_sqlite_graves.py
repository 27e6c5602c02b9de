"""What deleted mailboxes leave in the tables, and how it goes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from wd_trio import errors
from wd_trio.adapters.sqlite import contents
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.content import prepare
from wd_trio.mail.model import DELETED, MailboxSpec, NewMessage
from wd_trio.mail.numset import UidSet
from wd_trio.ports.ids import new_id

TABLES = ("graves", "messages", "changed", "vanished", "contents", "texts")
MESSAGE = NewMessage(prepare(b"Subject: here\r\n\r\nText\r\n").content(), 1, DELETED)


def rows(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as file:
        return {table: file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


def make_grave(store: SqliteStore) -> None:
    """A mailbox of 30 messages, three of them expunged with an entry of the journal each, deleted."""
    user = new_id()
    work = store.create_mailbox(user, MailboxSpec("Work"))
    for _ in range(30):
        store.append(user, "Work", [MESSAGE])
    for uid in (2, 4, 6):
        store.expunge(work.id, UidSet.of([uid]))
    store.delete_mailbox(user, "Work")


def test_a_process_that_is_killed_leaves_what_the_next_one_finishes(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    with closing(SqliteDatabase(path)) as database:
        store = SqliteStore(database)
        make_grave(store)
        assert rows(path)["messages"] == 27, "deleting touches no message"
        assert store.sweep_deleted(limit=10) == 10
        assert rows(path)["messages"] == rows(path)["contents"] == rows(path)["texts"] == 17
    with closing(SqliteDatabase(path)) as database:
        store = SqliteStore(database)
        steps = [store.sweep_deleted(limit=9) for _ in range(4)]
        assert steps == [9, 9, 3, 0]  # 17 messages, three entries of the journal, the grave
        assert rows(path) == dict.fromkeys(TABLES, 0)


def test_a_slice_that_fails_has_removed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mail.db"
    with closing(SqliteDatabase(path)) as database:
        store = SqliteStore(database)
        make_grave(store)
        before = rows(path)

        def fails(*_: object) -> None:
            raise errors.Unavailable("the disk is full", what="database")

        with monkeypatch.context() as patched:
            patched.setattr(contents, "drop_unused", fails)
            with pytest.raises(errors.Unavailable):
                store.sweep_deleted(limit=10)
        assert rows(path) == before
        assert store.sweep_deleted(limit=100) == 31
        assert rows(path) == dict.fromkeys(TABLES, 0)
