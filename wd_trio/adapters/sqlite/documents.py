"""Documents: declared collections as JSON rows, and one table of index entries for all of them.

An index entry is (collection, field, value, id); a partial unique index over the entries of unique fields holds
uniqueness. Entries are compared with what the new data says, and only differences are written; a fresh declaration
reaches a document with its next update. In `apply`, entries that go are removed before those that come are added,
so that two documents can swap a unique value in one call.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from wd_trio import errors
from wd_trio.adapters import cursors
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.ports.documents import (
    Collection,
    Delete,
    Document,
    DocumentPage,
    Json,
    Operation,
    Update,
)
from wd_trio.ports.gateway import reads, writes


class Entry(NamedTuple):
    """One row of the index; `uniquely` is 1 where no other document of the collection may have the value."""

    collection: str
    field: str
    value: str
    id: str
    uniquely: int


class SqliteDocuments:
    """ports.documents.Documents over a database; it may be the one that a SqliteStore uses, and in one group or
    `writing()` block they share the transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    @reads("store")
    def get(self, collection: Collection, id: str) -> Document | None:
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT id, version, data FROM documents WHERE collection = ? AND id = ?",
                (collection.name, id),
            ).fetchone()
        return _document(row) if row else None

    @reads("store")
    def find(self, collection: Collection, field: str, value: str, *, limit: int = 100) -> list[Document]:
        _require_index(collection, field)
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT d.id, d.version, d.data FROM document_index i"
                " JOIN documents d ON d.collection = i.collection AND d.id = i.id"
                " WHERE i.collection = ? AND i.field = ? AND i.value = ? ORDER BY i.id LIMIT ?",
                (collection.name, field, value, limit),
            ).fetchall()
        return [_document(row) for row in rows]

    @reads("store")
    def page(
        self,
        collection: Collection,
        field: str,
        *,
        prefix: str = "",
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
    ) -> DocumentPage:
        """See the port. Invalid (what = "cursor") for a cursor that this method did not give."""
        _require_index(collection, field)
        stop = cursors.after_prefix(prefix)
        where = "i.collection = :collection AND i.field = :field"
        lower, upper = " AND i.value >= :prefix", " AND i.value < :stop" if stop is not None else ""
        edge, order = lower + upper, "i.value, i.id"
        value = id_ = ""
        # One bound on each side, the closer one, so that the index leads straight to the page. Python compares
        # texts by code points, as SQLite does.
        if before is not None:
            edge, order = lower + " AND (i.value, i.id) < (:value, :id)", "i.value DESC, i.id DESC"
            value, id_ = cursors.decoded(before) if stop is None else min((stop, ""), cursors.decoded(before))
        elif after is not None:
            edge = " AND (i.value, i.id) > (:value, :id)" + upper
            value, id_ = max((prefix, ""), cursors.decoded(after))
        parameters = {"collection": collection.name, "field": field, "prefix": prefix, "stop": stop}
        with self._database.reading() as connection:
            (total,) = connection.execute(
                f"SELECT count(*) FROM document_index i WHERE {where}{lower}{upper}", parameters
            ).fetchone()
            rows = connection.execute(
                "SELECT d.id, d.version, d.data, i.value FROM document_index i"
                " JOIN documents d ON d.collection = i.collection AND d.id = i.id"
                f" WHERE {where}{edge} ORDER BY {order} LIMIT :limit",
                parameters | {"value": value, "id": id_, "limit": limit + 1},
            ).fetchall()
        shown, more = rows[:limit], len(rows) > limit
        if before is not None:
            shown.reverse()
        has_next, has_previous = (True, more) if before is not None else (more, after is not None)
        return DocumentPage(
            tuple(_document(row[:3]) for row in shown),
            cursors.encoded(shown[-1][3], shown[-1][0]) if has_next and shown else None,
            total,
            cursors.encoded(shown[0][3], shown[0][0]) if has_previous and shown else None,
        )

    @writes("store")
    def apply(self, operations: Sequence[Operation]) -> None:
        with self._database.writing() as connection:
            touched: dict[tuple[str, str], tuple[Collection, Json | None]] = {}
            for operation in operations:
                data = _run(connection, operation)
                touched[operation.collection.name, operation.id] = (operation.collection, data)
            _index(connection, touched)


def _run(connection: sqlite3.Connection, operation: Operation) -> Json | None:
    """Do one operation on the documents; the data that stands afterwards."""
    name, id_ = operation.collection.name, operation.id
    if isinstance(operation, Delete):
        _require_version(connection, name, id_, operation.version)
        connection.execute("DELETE FROM documents WHERE collection = ? AND id = ?", (name, id_))
        return None
    text = msgspec.json.encode(operation.data).decode()
    if isinstance(operation, Update):
        if not _require_version(connection, name, id_, operation.version):
            raise errors.NotFound(f"{name} {id_} is gone", what=name)
        connection.execute(
            "UPDATE documents SET version = version + 1, data = ? WHERE collection = ? AND id = ?",
            (text, name, id_),
        )
        return operation.data
    try:
        connection.execute(
            "INSERT INTO documents (collection, id, version, data) VALUES (?, ?, 1, ?)", (name, id_, text)
        )
    except sqlite3.IntegrityError as error:
        raise errors.Conflict(f"{name} has a document {id_} already", what="id") from error
    return operation.data


def _require_version(connection: sqlite3.Connection, name: str, id_: str, version: int | None) -> bool:
    """Whether the document is there; Conflict (what = "version") when it is, but not of this version."""
    row = connection.execute(
        "SELECT version FROM documents WHERE collection = ? AND id = ?", (name, id_)
    ).fetchone()
    if row is not None and version is not None and row[0] != version:
        raise errors.Conflict(f"{name} {id_} is at version {row[0]}, not {version}", what="version")
    return row is not None


def _index(
    connection: sqlite3.Connection, touched: Mapping[tuple[str, str], tuple[Collection, Json | None]]
) -> None:
    """Bring the index entries of documents to what their data says; all removals before all additions."""
    gone: list[Entry] = []
    come: list[Entry] = []
    for (name, id_), (collection, data) in touched.items():
        rows = connection.execute(
            "SELECT collection, field, value, id, uniquely FROM document_index WHERE collection = ? AND id = ?",
            (name, id_),
        )
        before = {Entry(*row) for row in rows}
        after = dict.fromkeys(_entries(collection, id_, data) if data is not None else ())
        gone += before.difference(after)
        come += [entry for entry in after if entry not in before]
    connection.executemany(
        "DELETE FROM document_index WHERE collection = ? AND field = ? AND value = ? AND id = ?",
        (entry[:4] for entry in gone),
    )
    for entry in come:
        try:
            connection.execute("INSERT INTO document_index VALUES (?, ?, ?, ?, ?)", entry)
        except sqlite3.IntegrityError as error:
            raise errors.Conflict(
                f"{entry.collection} has this {entry.field} already", what=entry.field
            ) from error


def _entries(collection: Collection, id_: str, data: Json) -> Iterator[Entry]:
    for index in collection.indexes:
        value = data.get(index.field)
        if value is None:
            continue
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(text, str):
                raise errors.Invalid(
                    f"{collection.name}.{index.field} indexes strings only", what=index.field
                )
            yield Entry(collection.name, index.field, text, id_, int(index.unique))


def _document(row: tuple[Any, ...]) -> Document:
    return Document(row[0], row[1], msgspec.json.decode(row[2]))


def _require_index(collection: Collection, field: str) -> None:
    if not any(index.field == field for index in collection.indexes):
        raise KeyError(f"{collection.name} has no index on {field}")
