"""Databases of older schemas, with data, brought forward."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from wd_trio import errors
from wd_trio.adapters.sqlite import schema
from wd_trio.adapters.sqlite.backup import restore
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import DELETED, Columns, MailboxSpec, Usage, Vanished
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.search import Header

USER = "a" * 24
ALL = UidSet([(1, MAX_UID)])


def make_version_1(path: Path) -> None:
    """A user with three mailboxes, one of them not subscribed, two messages and a journal."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA page_size = 8192")  # as the program makes its files
        schema.migrate(database, schema.STORE_SCHEMA[:1], 1)
        database.executemany(
            "INSERT INTO mailboxes (id, user_id, path, uid_validity, uid_next, modseq, special_use, subscribed,"
            " messages, unseen, deleted, size_bytes, journal_floor, keywords) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            [
                ("1" * 24, USER, "INBOX", 10, 6, 9, "", 1, 2, 1, 1, 30, 2, "$Work"),
                ("2" * 24, USER, "Trash", 11, 1, 1, "\\Trash", 1, 0, 0, 0, 0, 0, ""),
                ("3" * 24, USER, "Quiet", 12, 1, 1, "", 0, 0, 0, 0, 0, 0, ""),
            ],
        )
        database.execute("UPDATE counters SET value = 12")
        database.execute("INSERT INTO accounts VALUES (?, 30, 2)", (USER,))
        for uid, flags, keywords in ((4, 1 | DELETED, ""), (5, 0, "$Work")):
            database.execute(
                "INSERT INTO messages VALUES (1, ?, 8, ?, ?, 100, 100, 15, ?)", (uid, flags, keywords, uid)
            )
            database.execute(
                "INSERT INTO contents VALUES (?, ?, ?, 'p', x'28', NULL, x'28', NULL, x'28', x'28')",
                (uid, f"{uid:024x}", f"{uid:024x}"),
            )
            database.execute("INSERT INTO texts VALUES (?, ?, x'90')", (uid, b"Subject: kept\r\n\r\n"))
        database.execute("INSERT INTO vanished VALUES (1, 9, 1, 3, 100)")


def check(store: SqliteStore) -> None:
    boxes = store.list_mailboxes(USER)
    assert [(box.path, box.subscribed, box.special_use) for box in boxes] == [
        ("INBOX", True, ""),
        ("Quiet", False, ""),
        ("Trash", True, "\\Trash"),
    ]
    inbox = boxes[0]
    assert (inbox.id, inbox.uid_next, inbox.messages, inbox.unseen, inbox.deleted) == ("1" * 24, 6, 2, 1, 1)
    assert inbox.size_bytes == 30
    assert store.subscriptions(USER) == ["INBOX", "Trash"]
    assert store.open_mailbox(USER, "INBOX").keywords == "$Work"
    assert [row.header for row in store.fetch(inbox.id, ALL, Columns.HEADER)] == [
        b"Subject: kept\r\n\r\n"
    ] * 2
    assert store.recount(USER) == Usage(30, 2)
    assert store.list_mailboxes(USER) == boxes


def test_a_database_of_version_1_with_data_comes_forward(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    make_version_1(path)
    with closing(SqliteDatabase(path)) as database:
        store = SqliteStore(database)
        check(store)
        inbox = store.find_mailbox(USER, "INBOX")
        assert (inbox.uid_validity, inbox.highest_modseq) == (10, 9)
        assert store.changes_since(inbox.id, 8).vanished == (Vanished(9, UidSet([(1, 3)])),)
        assert [row.uid for row in store.changes_since(inbox.id, 7).rows] == [4, 5]
        assert store.open_mailbox(USER, "INBOX").first_unseen_uid == 5
        assert [row.uid for row in store.page(USER, inbox.id, Columns.NONE, unseen=True).rows] == [5]
        kept = store.search(inbox.id, ALL, Header("subject", "kept"), now=0)
        assert kept.uids == UidSet.of([4, 5]), "whether their headers are plain nobody has looked"
        assert store.expunge(inbox.id).uids == UidSet([(4, 4)])
        assert store.create_mailbox(USER, MailboxSpec("new")).uid_validity > 12
        store.copy(inbox.id, ALL, "new", move=True)
        store.delete_mailbox(USER, "new")
        assert store.usage(USER) == Usage(0, 0)
        assert store.sweep_deleted(limit=1) == 1
    with closing(sqlite3.connect(path)) as database_file:
        versions = database_file.execute("SELECT version FROM schema_versions ORDER BY version").fetchall()
        assert versions == [(1,), (2,), (3,), (4,), (5,)]
        assert database_file.execute("SELECT count(*) FROM messages").fetchone() == (0,)
        assert database_file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_backup_of_version_1_is_restored(tmp_path: Path) -> None:
    source, target = tmp_path / "old.db", tmp_path / "mail.db"
    make_version_1(source)
    restore(source, target)
    with closing(SqliteDatabase(target)) as database:
        check(SqliteStore(database))


# --- programs of two versions at once

NEWER = (*schema.STORE_SCHEMA, ("CREATE TABLE more (number INTEGER)",))


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return schema.version_of(connection)


def test_tables_do_not_change_under_a_program_that_knows_them_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    with closing(SqliteDatabase(path)), closing(SqliteDatabase(path)):
        with pytest.raises(errors.Invalid, match="stop the server"):
            SqliteDatabase(path, tables=NEWER)
        assert version_of(path) == len(schema.STORE_SCHEMA)
        SqliteDatabase(path).close()
    SqliteDatabase(path, tables=NEWER).close()
    assert version_of(path) == len(NEWER)


def test_several_of_the_newer_version_start_together(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    make_version_1(path)
    with closing(SqliteDatabase(path)), closing(SqliteDatabase(path)) as second:
        check(SqliteStore(second))


def test_a_refused_one_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    with closing(SqliteDatabase(path)) as database:
        with pytest.raises(errors.Invalid):
            SqliteDatabase(path, tables=NEWER)
        SqliteDatabase(path).close()
        SqliteStore(database).create_mailbox(USER, MailboxSpec("new"))


def test_a_restore_does_not_change_tables_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a newer program, while the server of an older one runs."""
    source, target = tmp_path / "old.db", tmp_path / "mail.db"
    make_version_1(source)
    with closing(SqliteDatabase(target)):
        monkeypatch.setattr(schema, "STORE_SCHEMA", NEWER)
        with pytest.raises(errors.Invalid, match="stop the server"):
            restore(source, target)
        assert version_of(target) == len(NEWER) - 1
    restore(source, target)
    assert version_of(target) == len(NEWER)
