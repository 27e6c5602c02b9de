"""How a connection to a database file is opened, and the two ways work is wrapped in it.

Every connection is in autocommit mode: transactions begin and end here and in database.py, by explicit SQL.
`check_same_thread` is off because connections are handed from thread to thread; at any moment one thread uses
each: the writer's is guarded by a mutex, the readers' by being taken out of their pool.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wd_trio import errors

MIB: Final = 1 << 20
_PAGE_BYTES: Final = 8192  # measured: a quarter less disk than 4096 for short messages, bulk work faster


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """How one database file is used.

    `lock_timeout_s`: how long a write waits for its turn before it is Unavailable; `busy_timeout_s`: for foreign
    programs that lock the file. A group ends after `group_calls` calls or `group_work_s` of work, whichever is
    first, so that latency stays bounded. `wal_limit_bytes`: beyond it the leader's checkpoint empties the log.
    `durable` off: no fsync, and a damaged file is thrown away when opened (limits only).
    """

    lock_timeout_s: float = 5.0
    busy_timeout_s: float = 1.0
    group_calls: int = 200
    group_work_s: float = 0.05
    wal_limit_bytes: int = 64 * MIB
    writer_cache_bytes: int = 32 * MIB
    reader_cache_bytes: int = 8 * MIB
    durable: bool = True
    clock: Callable[[], float] = time.time


def connect(path: Path, options: SqliteOptions, *, writer: bool) -> sqlite3.Connection:
    """A connection with the house's settings; the journal mode itself is a property of the file."""
    connection = sqlite3.connect(
        path,
        timeout=options.busy_timeout_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        cache_bytes = options.writer_cache_bytes if writer else options.reader_cache_bytes
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # heeded by a new file only
        connection.execute(f"PRAGMA cache_size = -{cache_bytes // 1024}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if options.durable else 'OFF'}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA secure_delete = FAST")
        if writer:
            # The leader checkpoints; this is the net below it, for a process that writes where no leader runs.
            connection.execute(f"PRAGMA wal_autocheckpoint = {2 * options.wal_limit_bytes // _PAGE_BYTES}")
            connection.execute(f"PRAGMA journal_size_limit = {options.wal_limit_bytes}")
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def use_wal(connection: sqlite3.Connection) -> None:
    """Give the file a write-ahead log; for ever, it is kept in the file. Unavailable where it can have none."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise errors.Unavailable(f"no write-ahead log here, only {mode}", what="sqlite")


def roll_back(connection: sqlite3.Connection) -> None:
    """End whatever transaction is open; after some faults SQLite has done so itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """All of this block or none of it, inside a transaction that goes on. If even that cannot be had, the whole
    transaction is rolled back, which its owner sees by `in_transaction`."""
    connection.execute("SAVEPOINT step")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK TO step")
                connection.execute("RELEASE step")
            except sqlite3.Error:
                roll_back(connection)
        raise
    connection.execute("RELEASE step")
