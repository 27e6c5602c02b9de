"""One database file of this process: its connections, its turn to write, its transactions.

- Readers: connections from a pool, one per call at work; a read transaction ends with its block, or the
  write-ahead log could never be reset. Reads of many rows take turns: sqlite3 lets go of the interpreter at every
  row, and threads that hand it to each other row by row spend several times what their work takes.
- The writer: one connection, under a mutex in this process and a turn lock between processes.
- Group commit: `group(calls)` runs many calls in one transaction and so with one fsync; each has a savepoint of
  its own. Nothing is handed out before the COMMIT has returned; if it fails, every call of the group is
  Unavailable. A write outside a group is a transaction of its own; inside (same thread) it joins.
- Checkpoints are the leader's, by the clock of whoever calls `checkpoint()`.

Reading inside a group sees the group's own writes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from wd_trio import errors
from wd_trio.adapters.lanes import make_way
from wd_trio.adapters.sqlite import disk, schema
from wd_trio.adapters.sqlite.connection import SqliteOptions, connect, roll_back, savepoint, use_wal
from wd_trio.adapters.sqlite.faults import engine_faults, is_damaged
from wd_trio.adapters.sqlite.locks import LeaderLock, TurnLock, UsersLock
from wd_trio.telemetry import commits_total, round_trip

_log = structlog.get_logger("wd_trio.sqlite")


class Outcome(NamedTuple):
    """What a call of a group came to; `value` counts only where `error` is None."""

    value: object
    error: BaseException | None


class Checkpointed(NamedTuple):
    """A checkpoint's result: pages in the log, those of them moved to the database, and whether it was emptied."""

    log_pages: int
    moved_pages: int
    emptied: bool


class _Joined(threading.local):
    """The writer's connection in the thread that is inside a write transaction."""

    connection: sqlite3.Connection | None = None


class SqliteDatabase:
    """A database file, opened and brought to the newest schema. Thread-safe; `close()` ends it.

    Raises errors.Invalid when the path is not on a local disk or the file is of a newer schema, or of an older one
    while others have it open; errors.Unavailable when it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        options: SqliteOptions | None = None,
        *,
        tables: schema.Schema = schema.STORE_SCHEMA,
    ) -> None:
        self.path = path
        self.options = options or SqliteOptions()
        self._joined = _Joined()
        self._readers: deque[sqlite3.Connection] = deque()
        self._mutex = threading.Lock()
        self._row_turn = threading.RLock()
        self._checkpoint_mutex = threading.Lock()
        self._closed = False
        self._engine = "sqlite" if self.options.durable else "sqlite-state"
        self._commits = commits_total.labels(self._engine)
        disk.require_local(path)
        try:
            disk.create_private(path)
            self._turn = TurnLock(path.with_name(path.name + ".lock"))
            self._users = UsersLock(path.with_name(path.name + ".users"))
        except OSError as error:
            raise errors.Unavailable(f"cannot open {path}: {error}", what="sqlite") from error
        self._leader = LeaderLock(path.with_name(path.name + ".leader"))
        try:
            with engine_faults(), self._turn.held(self.options.lock_timeout_s):
                self._writer = self._open_writer(tables)
                self._users.join()
        except BaseException:
            self._turn.close()
            self._users.leave()
            raise
        disk.sync_folder(path.parent)

    def _open_writer(self, tables: schema.Schema) -> sqlite3.Connection:
        try:
            return self._migrated(tables)
        except sqlite3.DatabaseError as error:
            if self.options.durable or not is_damaged(error):
                raise
        _log.warning("volatile_database_recreated", path=str(self.path))
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        disk.create_private(self.path)
        return self._migrated(tables)

    def _migrated(self, tables: schema.Schema) -> sqlite3.Connection:
        connection = connect(self.path, self.options, writer=True)
        try:
            schema.require_usable(schema.version_of(connection), tables, self._users.try_alone)
            use_wal(connection)
            schema.migrate(connection, tables, self.now())
        except BaseException:
            connection.close()
            raise
        return connection

    def now(self) -> int:
        """The time in whole seconds since the epoch."""
        return int(self.options.clock())

    # -- reading

    @contextmanager
    def reading(
        self, *, one_statement: bool = False, many_rows: bool = False
    ) -> Iterator[sqlite3.Connection]:
        """A connection that sees one moment throughout the block. `one_statement` promises that the block is a single
        one, read to its end: that needs no transaction around it. Blocks with `many_rows` take turns."""
        if not many_rows:
            with self._moment(one_statement=one_statement) as connection:
                yield connection
            return
        make_way()
        with self._row_turn, self._moment(one_statement=one_statement) as connection:
            yield connection

    @contextmanager
    def _moment(self, *, one_statement: bool) -> Iterator[sqlite3.Connection]:
        joined = self._joined.connection
        if joined is not None:
            with engine_faults():
                yield joined
            return
        with engine_faults():
            connection = self._take_reader()
            try:
                if one_statement:
                    yield connection
                else:
                    connection.execute("BEGIN")
                    yield connection
                    connection.execute("COMMIT")
            except sqlite3.Error:
                connection.close()  # whatever state it is in, the next read begins afresh
                raise
            except BaseException:
                roll_back(connection)
                self._give_back(connection)
                raise
            self._give_back(connection)

    def _take_reader(self) -> sqlite3.Connection:
        round_trip(self._engine)
        if self._closed:
            raise errors.Unavailable("the database is closed", what="sqlite")
        try:
            return self._readers.pop()
        except IndexError:
            return connect(self.path, self.options, writer=False)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        self._readers.append(connection)
        if self._closed:
            self._close_readers()

    # -- writing

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The writer's connection, in a transaction that commits with the block; inside a group or an outer block
        of this thread, in a part of theirs. Raised exceptions undo the block."""
        joined = self._joined.connection
        with engine_faults():
            if joined is None:
                with self._transaction() as connection:
                    yield connection
            else:
                with savepoint(joined):
                    yield joined

    def group(self, calls: Sequence[Callable[[], object]]) -> list[Outcome]:
        """Run calls in one transaction, in order, and return the outcomes of those that ran.

        These are the first ones, at least one: a group ends after `group_calls` calls or `group_work_s`, and the
        caller hands the others over again. A call that raises undoes its own writes only. Where the transaction
        could not begin, all calls are Unavailable; where it could not commit, all those that had succeeded are.
        Never raises an Exception.
        """
        outcomes: list[Outcome] = []
        try:
            with engine_faults(), self._transaction() as connection:
                self._run_calls(connection, calls, outcomes)
        except errors.WdError as error:
            if not outcomes:
                return [Outcome(None, _unavailable(error)) for _ in calls]
            return [
                Outcome(None, _unavailable(error)) if outcome.error is None else outcome
                for outcome in outcomes
            ]
        return outcomes

    def _run_calls(
        self,
        connection: sqlite3.Connection,
        calls: Sequence[Callable[[], object]],
        outcomes: list[Outcome],
    ) -> None:
        if len(calls) == 1:
            self._run_only(calls[0], outcomes)
            return
        ends = time.monotonic() + self.options.group_work_s
        for call in calls[: self.options.group_calls]:
            try:
                with savepoint(connection):
                    value = call()
            except Exception as error:  # its caller's to see, not ours
                outcomes.append(Outcome(None, error))
            else:
                outcomes.append(Outcome(value, None))
            if not connection.in_transaction:
                raise errors.Unavailable("the engine gave up the whole transaction", what="sqlite")
            if time.monotonic() >= ends:
                return

    def _run_only(self, call: Callable[[], object], outcomes: list[Outcome]) -> None:
        """The one call of a group: the transaction is its own and undone with it; no savepoint stands around it."""
        try:
            outcomes.append(Outcome(call(), None))
        except Exception as error:  # its caller's to see; the transaction must not commit what it began
            outcomes.append(Outcome(None, error))
            raise errors.Unavailable("the only call failed", what="sqlite") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        timeout_s = self.options.lock_timeout_s
        if not self._mutex.acquire(timeout=timeout_s):
            raise errors.Unavailable(f"the writer was busy for {timeout_s:g} s", what="sqlite")
        try:
            if self._closed:
                raise errors.Unavailable("the database is closed", what="sqlite")
            with self._turn.held(timeout_s):
                connection = self._writer
                round_trip(self._engine)
                connection.execute("BEGIN IMMEDIATE")
                self._joined.connection = connection
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    roll_back(connection)
                    raise
                finally:
                    self._joined.connection = None
                self._commits.inc()
        finally:
            self._mutex.release()

    # -- upkeep

    def try_lead(self) -> bool:
        """Become the one process that looks after this file, if none is; True while it is this one."""
        return self._leader.try_lead()

    def checkpoint(self) -> Checkpointed:
        """Move the log into the database without disturbing anyone; empty the log, holding writers up for a
        moment, when it has outgrown its limit. For the leader, every few seconds."""
        with self._checkpoint_mutex, engine_faults():
            with self._borrowed() as connection:
                busy, log, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if self._wal_bytes() <= self.options.wal_limit_bytes:
                return Checkpointed(log, moved, emptied=False)
            busy, log, moved = self._empty_log()
            return Checkpointed(log, moved, emptied=not busy)

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        connection = self._take_reader()
        try:
            yield connection
        finally:
            self._give_back(connection)

    def _empty_log(self) -> tuple[int, int, int]:
        timeout_s = self.options.lock_timeout_s
        if not self._mutex.acquire(timeout=timeout_s):
            raise errors.Unavailable(f"the writer was busy for {timeout_s:g} s", what="sqlite")
        try:
            if self._closed:
                raise errors.Unavailable("the database is closed", what="sqlite")
            with self._turn.held(timeout_s):
                result: tuple[int, int, int] = self._writer.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                ).fetchone()
                return result
        finally:
            self._mutex.release()

    def _wal_bytes(self) -> int:
        with suppress(FileNotFoundError):
            return os.stat(f"{self.path}-wal").st_size
        return 0

    def close(self) -> None:
        """End after the write in progress; later calls are Unavailable. Idempotent."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._writer.close()
            self._turn.close()
            self._users.leave()
        self._leader.resign()
        self._close_readers()

    def _close_readers(self) -> None:
        with suppress(IndexError):
            while True:
                self._readers.pop().close()


def _unavailable(error: errors.WdError) -> errors.Unavailable:
    """One exception for each caller: an instance raised twice would gather both tracebacks."""
    return errors.Unavailable(str(error), what="sqlite")
