"""Several processes on one database file: shares of the writer, and what kill -9 leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlite_support
from sqlite_support import COUNT_SCHEMA

from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import Columns
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id

ALL = UidSet([(1, MAX_UID)])


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, sqlite_support.__file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_four_writing_processes_get_even_shares(tmp_path: Path) -> None:
    writes = 800
    path = tmp_path / "shared.db"
    SqliteDatabase(path, tables=COUNT_SCHEMA).close()
    children = [start("count", path, name, writes) for name in "abcd"]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    database = SqliteDatabase(path, tables=COUNT_SCHEMA)
    with database.reading() as connection:
        shares = dict(
            connection.execute(
                "SELECT name, count(*) FROM written WHERE number <= ? GROUP BY name", (writes,)
            )
        )
    database.close()
    assert sum(shares.values()) == writes
    assert min(shares.get(name, 0) for name in "abcd") >= writes // 10, shares


@pytest.mark.parametrize("acknowledged", [1, 37, 120])
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    path, user = tmp_path / "mail.db", new_id()
    child = start("append", path, user)
    assert child.stdout is not None
    told = dict(child.stdout.readline().split() for _ in range(acknowledged))
    child.kill()
    told |= dict(line.split() for line in child.stdout.read().splitlines() if line.count(" ") == 1)
    child.stdout.close()
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    database = SqliteDatabase(path)
    store = SqliteStore(database)
    box = store.find_mailbox(user, "INBOX")
    kept: dict[str, str | None] = {}
    for page in UidSet([(1, box.uid_next - 1)]).pages(256):
        kept |= {str(row.uid): row.preview for row in store.fetch(box.id, page, Columns.PREVIEW)}
    assert told.items() <= kept.items()
    assert len(kept) == box.messages == box.uid_next - 1
    usage = store.usage(user)
    assert store.recount(user) == usage
    assert store.list_mailboxes(user)[0] == box
    with database.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store.append(user, "INBOX", [sqlite_support.message()]).uids == (box.uid_next,)
    database.close()
