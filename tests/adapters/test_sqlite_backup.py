"""Backup and restore, on a live database and without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_support import message

from wd_trio import errors
from wd_trio.adapters.sqlite import schema
from wd_trio.adapters.sqlite.backup import backup, restore
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import DELETED, BlobData, Columns, FlagChange
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.mail.rope import digest
from wd_trio.ports.documents import Collection, Index, Insert
from wd_trio.ports.ids import new_id

ALL = UidSet([(1, MAX_UID)])
NOTES = Collection("notes", (Index("title"),))
BLOB = BlobData(digest(b"attached"), 8, ((False, b"attached"),))


class Live:
    """A running server's database with some mail of one user in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.user = new_id()
        self.database = SqliteDatabase(path)
        self.store = SqliteStore(self.database)
        self.documents = SqliteDocuments(self.database)

    def fill(self) -> None:
        attached = message("attached", blobs=(BLOB.digest,))
        self.store.append(self.user, "INBOX", [message("one"), attached], blobs=[BLOB], create=True)
        self.documents.apply([Insert(NOTES, "1", {"title": "first"})])

    def texts(self) -> list[str | None]:
        box = self.store.find_mailbox(self.user, "INBOX")
        return [row.preview for row in self.store.fetch(box.id, ALL, Columns.PREVIEW)]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path / "live" / "mail.db")
    made.fill()
    yield made
    made.database.close()


def test_a_backup_of_a_live_database_is_one_whole_file(live: Live, tmp_path: Path) -> None:
    target = tmp_path / "copies" / "mail.backup"
    target.parent.mkdir()
    target.write_bytes(b"the last backup")
    steps: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        live.store.append(live.user, "INBOX", [message("meanwhile")])  # not in it: a copy of one moment
        steps.append((done, total))

    backup(live.path, target, progress)
    assert steps
    assert steps[-1][0] == steps[-1][1] > 0
    assert [path.name for path in target.parent.iterdir()] == ["mail.backup"]
    assert target.stat().st_mode & 0o077 == 0
    copy = sqlite3.connect(target)
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert copy.execute("SELECT preview FROM contents ORDER BY content").fetchall() == [
        ("one",),
        ("attached",),
    ]
    copy.close()
    assert "meanwhile" in live.texts()


def test_restoring_into_a_live_database_brings_everything_back(live: Live, tmp_path: Path) -> None:
    backup(live.path, tmp_path / "copy")
    before = live.store.find_mailbox(live.user, "INBOX")
    live.store.append(live.user, "INBOX", [message("lost")])
    live.store.store_flags(before.id, ALL, FlagChange("add", DELETED))
    after_backup = live.store.expunge(before.id).modseq
    live.documents.apply([Insert(NOTES, "2", {"title": "lost"})])
    live.store.delete_user_mail(live.user)
    live.store.collect_blobs(unused_for_s=0, limit=10)

    restore(tmp_path / "copy", live.path)
    assert live.texts() == ["one", "attached"]
    assert live.store.read_blob(BLOB.digest, 0, 8) == b"attached"
    assert live.documents.get(NOTES, "2") is None
    assert [found.id for found in live.documents.find(NOTES, "title", "first")] == ["1"]
    restored = live.store.find_mailbox(live.user, "INBOX")
    assert restored.id == before.id
    assert restored.uid_validity > before.uid_validity
    assert restored.highest_modseq > after_backup
    for known in (before.highest_modseq, after_backup):
        with pytest.raises(errors.Outdated):
            live.store.changes_since(before.id, known)
    assert live.store.changes_since(before.id, restored.highest_modseq).rows == ()
    assert live.store.append(live.user, "INBOX", [message("new")]).uids == (3,)
    validities = {box.uid_validity for box in live.store.list_mailboxes(live.user)}
    assert len(validities) == 5


def test_restoring_where_nothing_is_makes_a_database(live: Live, tmp_path: Path) -> None:
    backup(live.path, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "other" / "mail.db", lambda done, total: None)
    other = Live(tmp_path / "other" / "mail.db")
    other.user = live.user
    assert other.texts() == ["one", "attached"]
    other.database.close()
    assert not list((tmp_path / "other").glob(".*"))


def test_restoring_twice_never_repeats_a_uid_validity(live: Live, tmp_path: Path) -> None:
    backup(live.path, tmp_path / "copy")
    seen = [live.store.find_mailbox(live.user, "INBOX").uid_validity]
    for _ in range(3):
        restore(tmp_path / "copy", live.path)
        seen.append(live.store.find_mailbox(live.user, "INBOX").uid_validity)
    assert len(set(seen)) == len(seen)


def test_what_is_no_backup_changes_nothing(live: Live, tmp_path: Path) -> None:
    garbage, foreign, cut, newer = (tmp_path / name for name in ("garbage", "foreign", "cut", "newer"))
    garbage.write_bytes(b"not a database " * 500)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    backup(live.path, newer)
    whole = newer.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    with sqlite3.connect(newer) as connection:
        connection.execute("INSERT INTO schema_versions VALUES (?, 0)", (len(schema.STORE_SCHEMA) + 1,))
    connection.close()
    for source in (garbage, foreign, cut, newer):
        with pytest.raises(errors.Invalid):
            restore(source, live.path)
    with pytest.raises(errors.NotFound):
        restore(tmp_path / "absent", live.path)
    assert live.texts() == ["one", "attached"]
    assert not list(live.path.parent.glob(".*"))


def test_a_damaged_target_says_what_to_do(live: Live, tmp_path: Path) -> None:
    backup(live.path, tmp_path / "copy")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"torn " * 5000)
    with pytest.raises(errors.Unavailable, match="move it"):
        restore(tmp_path / "copy", damaged)
    assert damaged.read_bytes().startswith(b"torn")


def test_a_backup_that_cannot_be_written_leaves_nothing(live: Live, tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable):
        backup(live.path, tmp_path / "no such folder" / "copy")
    with pytest.raises(errors.NotFound):
        backup(tmp_path / "no.db", tmp_path / "copy")
    with pytest.raises(ValueError, match="enough"):
        backup(live.path, tmp_path / "copy", lambda done, total: (_ for _ in ()).throw(ValueError("enough")))
    assert [path.name for path in tmp_path.iterdir()] == ["live"]
