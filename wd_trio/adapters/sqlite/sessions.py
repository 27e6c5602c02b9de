"""Session documents in the volatile database (limits.py says what that is), beside claims and strikes.

A row holds the document as JSON and, as columns, what is asked for. Live is what has not expired and belongs to a
server with a lease; there are a handful of leases. A sweep that finds nothing reads one index and no document.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.ports.gateway import reads, writes
from wd_trio.ports.sessions import SessionDocument, SessionPage

_LIVE: Final = (
    "s.expires > :now AND EXISTS (SELECT 1 FROM leases l WHERE l.server = s.server AND l.ends > :now)"
)
_GONE: Final = f"NOT ({_LIVE})"
_LISTED: Final = "IN (SELECT value FROM json_each(:listed))"


class SqliteSessions:
    """ports.sessions.SessionStore over a database opened by `limits.open_state`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @writes("state")
    def put(self, document: SessionDocument, *, most: int, lease_s: float) -> bool:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            _lease(connection, document.server, now + lease_s)
            (taken,) = connection.execute(
                f"SELECT count(*) FROM sessions s WHERE s.user = :user AND s.protocol = :protocol AND {_LIVE}",
                {"user": document.user, "protocol": document.protocol, "now": now},
            ).fetchone()
            if taken >= most:
                return False
            _write(connection, document, now)
        return True

    @writes("state")
    def update(self, documents: Sequence[SessionDocument]) -> None:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            for document in documents:
                _write(connection, document, now)

    @writes("state")
    def touch(self, ids: Sequence[str]) -> set[str]:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            rows = connection.execute(
                f"UPDATE sessions SET expires = :now + ttl WHERE id {_LISTED} RETURNING id",
                {"now": now, "listed": json.dumps(list(ids))},
            ).fetchall()
        return set(ids).difference(id_ for (id_,) in rows)

    @writes("state")
    def move(self, ids: Sequence[str], server: str, worker: str) -> set[str]:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            rows = connection.execute(
                "UPDATE sessions SET server = :server, worker = :worker, expires = :now + ttl,"
                " document = json_set(document, '$.server', :server, '$.worker', :worker)"
                f" WHERE id {_LISTED} RETURNING id",
                {"server": server, "worker": worker, "now": now, "listed": json.dumps(list(ids))},
            ).fetchall()
        return set(ids).difference(id_ for (id_,) in rows)

    @reads("state")
    def get(self, id: str) -> SessionDocument | None:
        found = self._select("s.id = :id", {"id": id})
        return found[0] if found else None

    @reads("state")
    def of_users(self, users: Sequence[str]) -> list[SessionDocument]:
        found = self._select(f"s.user {_LISTED}", {"listed": json.dumps(list(users))})
        return sorted(found, key=lambda document: (document.created, document.id))

    @reads("state")
    def page(self, *, after: str | None = None, limit: int = 100) -> SessionPage:
        found = self._select("s.id > :after", {"after": after or "", "limit": limit + 1})
        shown = tuple(found[:limit])
        return SessionPage(shown, shown[-1].id if len(found) > limit else None)

    def _select(self, condition: str, parameters: dict[str, object]) -> list[SessionDocument]:
        parameters = {"now": self._database.options.clock(), "limit": -1} | parameters
        with self._database.reading() as connection:
            return _documents(
                connection.execute(
                    f"SELECT s.document FROM sessions s WHERE {condition} AND {_LIVE} ORDER BY s.id LIMIT :limit",
                    parameters,
                )
            )

    @writes("state")
    def end(self, ids: Sequence[str]) -> None:
        with self._database.writing() as connection:
            connection.execute(f"DELETE FROM sessions WHERE id {_LISTED}", {"listed": json.dumps(list(ids))})

    @writes("state")
    def end_owner(self, server: str, worker: str | None = None) -> list[SessionDocument]:
        with self._database.writing() as connection:
            return _documents(
                connection.execute(
                    "DELETE FROM sessions WHERE server = ?1 AND (?2 IS NULL OR worker = ?2) RETURNING document",
                    (server, worker),
                )
            )

    @writes("state")
    def doom(self, ids: Sequence[str]) -> int:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            return connection.execute(
                f"UPDATE sessions AS s SET doomed = 1 WHERE s.id {_LISTED} AND {_LIVE}",
                {"listed": json.dumps(list(ids)), "now": now},
            ).rowcount

    @reads("state")
    def doomed(self, server: str, worker: str) -> list[str]:
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT id FROM sessions WHERE doomed = 1 AND server = ? AND worker = ?", (server, worker)
            ).fetchall()
        return [id_ for (id_,) in rows]

    @writes("state")
    def lease(self, server: str, *, ttl_s: float) -> None:
        ends = self._database.options.clock() + ttl_s
        with self._database.writing() as connection:
            _lease(connection, server, ends)

    @writes("state")
    def sweep(self, *, limit: int) -> list[SessionDocument]:
        now = self._database.options.clock()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM leases WHERE ends <= ?", (now,))
            return _documents(
                connection.execute(
                    "DELETE FROM sessions WHERE id IN"
                    f" (SELECT s.id FROM sessions s WHERE {_GONE} LIMIT :limit) RETURNING document",
                    {"now": now, "limit": limit},
                )
            )


def _write(connection: sqlite3.Connection, document: SessionDocument, now: float) -> None:
    connection.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?) ON CONFLICT (id) DO UPDATE SET"
        " server = excluded.server, worker = excluded.worker, ttl = excluded.ttl, expires = excluded.expires,"
        " document = excluded.document",
        (
            document.id,
            document.user,
            document.protocol,
            document.server,
            document.worker,
            document.ttl,
            now + document.ttl,
            msgspec.json.encode(document.as_json()).decode(),
        ),
    )


def _lease(connection: sqlite3.Connection, server: str, ends: float) -> None:
    connection.execute(
        "INSERT INTO leases VALUES (?, ?) ON CONFLICT (server) DO UPDATE SET ends = excluded.ends",
        (server, ends),
    )


def _documents(rows: Iterable[tuple[str]]) -> list[SessionDocument]:
    return [SessionDocument.from_json(msgspec.json.decode(text)) for (text,) in rows]
