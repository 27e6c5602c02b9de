"""Limits in a database of their own beside the store's: `<path>.state`, the embedded engine's Redis.

Nothing in it outlives the server on purpose: it is written without fsync, a damaged file is thrown away when
opened, and the supervisor clears it at its start, since claims of processes that were killed would stay for ever.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from wd_trio.adapters.sqlite.connection import MIB, SqliteOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.schema import STATE_SCHEMA
from wd_trio.ports.gateway import reads, writes

_CACHE_BYTES: Final = MIB  # or memory would follow the number of sessions; the kernel has the pages anyway
_WAL_LIMIT_BYTES: Final = 4 * MIB  # nobody leads here: writers checkpoint, which costs no fsync


def open_state(store_path: Path, options: SqliteOptions | None = None) -> SqliteDatabase:
    """The volatile database that belongs to a store's database file."""
    volatile = replace(
        options or SqliteOptions(),
        durable=False,
        wal_limit_bytes=_WAL_LIMIT_BYTES,
        writer_cache_bytes=_CACHE_BYTES,
        reader_cache_bytes=_CACHE_BYTES,
    )
    return SqliteDatabase(store_path.with_name(store_path.name + ".state"), volatile, tables=STATE_SCHEMA)


class SqliteLimits:
    """ports.limits.Limits over a database opened by `open_state`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @writes("state")
    def claim(self, key: str, holder: str, *, owner: str, most: int) -> bool:
        with self._database.writing() as connection:
            held = connection.execute(
                "UPDATE claims SET owner = ? WHERE key = ? AND holder = ?", (owner, key, holder)
            )
            if held.rowcount:
                return True
            added = connection.execute(
                "INSERT INTO claims SELECT ?1, ?2, ?3 WHERE (SELECT count(*) FROM claims WHERE key = ?1) < ?4",
                (key, holder, owner, most),
            )
            return added.rowcount == 1

    @writes("state")
    def release(self, key: str, holder: str) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM claims WHERE key = ? AND holder = ?", (key, holder))

    @writes("state")
    def release_owner(self, owner: str) -> int:
        with self._database.writing() as connection:
            return connection.execute("DELETE FROM claims WHERE owner = ?", (owner,)).rowcount

    @reads("state")
    def claims(self, key: str) -> int:
        with self._database.reading() as connection:
            row = connection.execute("SELECT count(*) FROM claims WHERE key = ?", (key,)).fetchone()
        count: int = row[0]
        return count

    @writes("state")
    def strike(self, key: str, *, window_s: float) -> int:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM strikes WHERE ends <= ?", (now,))
            connection.execute(
                "INSERT INTO strikes VALUES (?, 1, ?) ON CONFLICT (key) DO UPDATE SET count = count + 1",
                (key, now + window_s),
            )
            row = connection.execute("SELECT count FROM strikes WHERE key = ?", (key,)).fetchone()
        count: int = row[0]
        return count

    @reads("state")
    def strikes(self, key: str) -> int:
        now = self._database.options.clock()
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT count FROM strikes WHERE key = ? AND ends > ?", (key, now)
            ).fetchone()
        return row[0] if row else 0

    @writes("state")
    def forgive(self, key: str) -> None:
        with self._database.writing() as connection:
            connection.execute("DELETE FROM strikes WHERE key = ?", (key,))

    @writes("state")
    def clear(self) -> None:
        """Forget everything: for the supervisor, before its first worker starts."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM claims")
            connection.execute("DELETE FROM strikes")
