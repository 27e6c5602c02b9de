"""Backup and restore of a store's database, on a live server or a stopped one.

A backup is a copy of one moment: the read transaction that is begun first holds it still however much is written
meanwhile (and keeps the write-ahead log from shrinking until the copy is done). The file appears under its name
only when it is whole and durable.

A restore is prepared beside the target (checked, migrated), then, under the writer's lock, re-dated and copied
into the live database in one transaction. Uids and modseqs given after the backup are lost with it and would be given
again for other messages, so every mailbox gets a UIDVALIDITY (RFC 3501 §2.3.1.1: clients drop their caches) and a
modseq above any that backup or live database know, with the journal's floor there too: sessions that were looking
at a mailbox get Outdated, and caches by (mailbox, modseq) miss. Limits and sessions are not part of a backup.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from wd_trio import errors
from wd_trio.adapters.sqlite import disk, mailboxes, schema
from wd_trio.adapters.sqlite.connection import SqliteOptions, connect, use_wal
from wd_trio.adapters.sqlite.faults import engine_faults, is_damaged
from wd_trio.adapters.sqlite.locks import TurnLock, UsersLock

_STEP_PAGES: Final = 1024
_MODSEQ_JUMP: Final = 1 << 20  # above what mailboxes had that were removed since, too

Progress = Callable[[int, int], None]


def backup(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Write a copy of the database `source`, as it is now, to the file `target`, which is replaced.

    `progress(done, total)` is called in pages of the database. NotFound when there is no `source`, Unavailable
    when it or the target's disk fails; then `target` is as before.
    """
    if not source.is_file():
        raise errors.NotFound(f"no database at {source}", what="database")
    with _temporary_beside(target) as scratch:
        with engine_faults(), closing(connect(source, SqliteOptions(), writer=False)) as live:
            live.execute("BEGIN")
            schema.require_known(schema.version_of(live), schema.STORE_SCHEMA)
            with closing(sqlite3.connect(scratch, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous = OFF")  # it is synced once, whole
                live.backup(copy, pages=_STEP_PAGES, progress=_reporting(progress))
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, no side files
            live.execute("ROLLBACK")
        _sync(scratch)
        os.replace(scratch, target)
        disk.sync_folder(target.parent)


def restore(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Replace all that is in the database `target` by what the backup `source` holds.

    Invalid when `source` is no sound backup or of a newer schema, or `target` of an older one while a server has it
    open; Unavailable when the writer's turn was not to be had or the disk fails. In each case `target` is as before.
    See above for what sessions and clients notice.
    """
    if not source.is_file():
        raise errors.NotFound(f"no backup at {source}", what="backup")
    disk.require_local(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_beside(target) as scratch:
        _prepare(source, scratch)
        disk.create_private(target)
        lock = TurnLock(target.with_name(target.name + ".lock"))
        users = UsersLock(target.with_name(target.name + ".users"))
        try:
            options = SqliteOptions()
            with lock.held(options.lock_timeout_s), engine_faults():
                _replace(scratch, target, options, users, progress)
        finally:
            users.leave()
            lock.close()


def _prepare(source: Path, scratch: Path) -> None:
    """Make a checked and migrated copy of the backup."""
    try:
        with (
            closing(
                sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            ) as given,
            closing(sqlite3.connect(scratch, isolation_level=None)) as copy,
        ):
            given.backup(copy)
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = DELETE")
            _require_sound(copy)
            schema.migrate(copy, schema.STORE_SCHEMA, int(time.time()))
    except sqlite3.DatabaseError as error:
        raise errors.Invalid(f"{source} cannot be restored: {error}", what="backup") from error


def _require_sound(copy: sqlite3.Connection) -> None:
    faults = [text for (text,) in copy.execute("PRAGMA integrity_check(5)")]
    if faults != ["ok"]:
        raise errors.Invalid(f"the backup is damaged: {'; '.join(faults)}", what="backup")
    version = schema.version_of(copy)
    if not version:
        raise errors.Invalid("the file is a database, but not one of ours", what="backup")
    schema.require_known(version, schema.STORE_SCHEMA)


def _replace(
    scratch: Path, target: Path, options: SqliteOptions, users: UsersLock, progress: Progress | None
) -> None:
    with (
        closing(sqlite3.connect(scratch, isolation_level=None)) as prepared,
        closing(_open_live(target, options)) as live,
    ):
        version = schema.version_of(live)
        schema.require_usable(version, schema.STORE_SCHEMA, users.try_alone)
        _redate(prepared, *(_given(live) if version else (0, 0)))
        use_wal(live)
        prepared.backup(live, pages=_STEP_PAGES, progress=_reporting(progress))
        live.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _open_live(target: Path, options: SqliteOptions) -> sqlite3.Connection:
    try:
        return connect(target, options, writer=True)
    except sqlite3.DatabaseError as error:
        if not is_damaged(error):
            raise
        raise errors.Unavailable(
            f"{target} is damaged: stop the server, move it, {target}-wal and {target}-shm away and restore again",
            what="database",
        ) from error


def _given(database: sqlite3.Connection) -> tuple[int, int]:
    """The highest UIDVALIDITY and modseq that a database has given."""
    (validity,) = database.execute("SELECT value FROM counters WHERE name = 'uid_validity'").fetchone()
    (modseq,) = database.execute("SELECT coalesce(max(modseq), 0) FROM mailboxes").fetchone()
    return validity, modseq


def _redate(prepared: sqlite3.Connection, live_validity: int, live_modseq: int) -> None:
    """Let nothing in the prepared copy be taken for what was given before."""
    least_validity = max(int(time.time()), live_validity + 1)
    modseq = max(_given(prepared)[1], live_modseq) + _MODSEQ_JUMP
    prepared.execute("BEGIN")
    for (number,) in prepared.execute("SELECT mailbox FROM mailboxes").fetchall():
        validity = mailboxes.next_uid_validity(prepared, least_validity)
        prepared.execute("UPDATE mailboxes SET uid_validity = ? WHERE mailbox = ?", (validity, number))
    prepared.execute("UPDATE mailboxes SET modseq = ?1, journal_floor = ?1", (modseq,))
    prepared.execute("DELETE FROM vanished")
    prepared.execute("COMMIT")


def _reporting(progress: Progress | None) -> Callable[[int, int, int], None] | None:
    if progress is None:
        return None

    def report(_: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    return report


@contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A fresh private file in the target's folder, gone at the end unless it was renamed."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(descriptor)
        scratch = Path(name)
        try:
            yield scratch
        finally:
            scratch.unlink(missing_ok=True)
            Path(f"{name}-journal").unlink(missing_ok=True)
    except OSError as error:
        raise errors.Unavailable(f"cannot write beside {target}: {error}", what="backup") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
