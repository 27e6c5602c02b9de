"""Documents: a MongoDB collection `documents.<name>` for each declared one, {_id, version, data}.

`data` lies there as it is, so that operators can query it. What BSON would change or refuse (names with "$", "." or
NUL, integers beyond 64 bits, very deep nesting) is kept as JSON in `text` beside the indexed fields. Indexes are
partial: over strings only, so that what is absent, null or empty is not indexed; a list of strings indexes each.
A process makes the indexes of a collection when it first touches it.

One operation is one round trip. Several are a transaction: what they touch is read, they are run in memory in their
order, and what came of it is written, all removals before all additions, so that two documents can swap a unique
value in one call. Inserts alone need not read. `page` is in the order of single strings; a list stands in it where
its first value in order does, and makes all pages of its field slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from pymongo import IndexModel
from pymongo.client_session import ClientSession
from pymongo.collection import Collection as MongoCollection
from pymongo.errors import BulkWriteError, DuplicateKeyError

from wd_trio import errors
from wd_trio.adapters import cursors
from wd_trio.adapters.mongo_redis.faults import duplicate_field, engine_faults
from wd_trio.adapters.mongo_redis.mongo import PLAIN, BsonDocument, Mongo
from wd_trio.adapters.mongo_redis.reader import Reader
from wd_trio.ports.documents import (
    Collection,
    Delete,
    Document,
    DocumentPage,
    Index,
    Insert,
    Json,
    Operation,
    Update,
)
from wd_trio.ports.gateway import reads, writes

PREFIX: Final = "documents."
_STRINGS: Final = {
    "$gte": ""
}  # MongoDB compares values of one type only; its planner sees that "x" is within
_MAX_DEPTH: Final = 50  # BSON's own limit is 100
_MAX_INT: Final = (1 << 63) - 1


class MongoDocuments:
    """ports.documents.Documents over a MongoDB."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._reader = Reader(mongo)
        self._indexed: set[str] = set()

    @reads("store")
    def get(self, collection: Collection, id: str) -> Document | None:
        document = self._reader.find_one(self._ready(collection), {"_id": id}, codec=PLAIN)
        return _document(document) if document is not None else None

    @reads("store")
    def find(self, collection: Collection, field: str, value: str, *, limit: int = 100) -> list[Document]:
        unique = _index(collection, field).unique
        command: BsonDocument = {
            "find": self._ready(collection),
            "filter": {f"data.{field}": value},
            "limit": limit,
            "batchSize": limit + 1,
        }
        if not unique:
            command["sort"] = {"_id": 1}
        return list(map(_document, self._reader.ask(command, codec=PLAIN)))

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
        index = _index(collection, field)
        path, stop = f"data.{field}", cursors.after_prefix(prefix)
        within = {"$gte": prefix} | ({"$lt": stop} if stop is not None else {})
        edge: BsonDocument = {path: within}
        # A cursor of another prefix leads to all of this one or to nothing, which `within` says by itself.
        if before is not None:
            entry = cursors.decoded(before)
            if stop is None or entry[0] < stop:
                edge = _beside(index, entry, within, "$lt")
        elif after is not None:
            entry = cursors.decoded(after)
            if entry[0] >= prefix:
                edge = _beside(index, entry, within, "$gt")
        order = 1 if before is None else -1
        with self._mongo.reading():
            documents = self._at(collection)
            total = documents.count_documents({path: within})
            rows = list(documents.find(edge).sort(_order(index, order)).limit(limit + 1))
        shown, more = rows[:limit], len(rows) > limit
        if before is not None:
            shown.reverse()
        has_next, has_previous = (True, more) if before is not None else (more, after is not None)
        return DocumentPage(
            tuple(map(_document, shown)),
            _cursor(shown[-1], field) if has_next and shown else None,
            total,
            _cursor(shown[0], field) if has_previous and shown else None,
        )

    @writes("store")
    def apply(self, operations: Sequence[Operation]) -> None:
        with self._mongo.reading():
            for operation in operations:
                self._at(operation.collection)
        if len(operations) == 1:
            with self._mongo.reading():
                _run_one(self._at(operations[0].collection), operations[0])
        elif operations:
            self._mongo.transaction(lambda session: self._run_all(session, operations))

    def ensure(self, collections: Iterable[Collection]) -> None:
        """Make the indexes of these now, however long it takes, not when they are first used. Unavailable."""
        with engine_faults():
            for collection in collections:
                self._at(collection)

    def _at(self, collection: Collection) -> MongoCollection[BsonDocument]:
        """Where a collection's documents are; its indexes are made if this process has not yet done so."""
        documents = self._mongo.database[PREFIX + collection.name]
        if collection.name not in self._indexed:
            models = [
                IndexModel(
                    _order(index, 1),
                    unique=index.unique,
                    partialFilterExpression={f"data.{index.field}": _STRINGS},
                )
                for index in collection.indexes
            ]
            if models:
                documents.create_indexes(models)
            self._indexed.add(collection.name)
        return documents

    def _ready(self, collection: Collection) -> str:
        """The name of a collection whose indexes are made."""
        if collection.name not in self._indexed:
            with self._mongo.reading():
                self._at(collection)
        return PREFIX + collection.name

    def _run_all(self, session: ClientSession, operations: Sequence[Operation]) -> None:
        by_collection: dict[str, tuple[Collection, list[Operation]]] = {}
        for operation in operations:
            name = operation.collection.name
            by_collection.setdefault(name, (operation.collection, []))[1].append(operation)
        for collection, its in by_collection.values():
            _run_together(self._at(collection), session, its)


def _run_one(documents: MongoCollection[BsonDocument], operation: Operation) -> None:
    """One operation without a transaction; conditions are part of the write."""
    name, at = operation.collection.name, {"_id": operation.id}
    if isinstance(operation, Insert):
        stored = _stored(operation.collection, operation.id, 1, operation.data)
        _unique(name, lambda: documents.insert_one(stored))
        return
    condition = at if operation.version is None else at | {"version": operation.version}
    if isinstance(operation, Update):
        stored = _stored(operation.collection, operation.id, operation.version + 1, operation.data)
        if _unique(name, lambda: documents.replace_one(condition, stored)).matched_count:
            return
    elif documents.delete_one(condition).deleted_count or operation.version is None:
        return
    present = documents.find_one(at, {"version": 1})
    _require_version(operation, None if present is None else present["version"])
    if present is not None:  # as asked for, but only since: the write has met another document
        raise errors.Conflict(f"{name} {operation.id} was made anew", what="version")


def _run_together(
    documents: MongoCollection[BsonDocument], session: ClientSession, operations: Sequence[Operation]
) -> None:
    """Operations on one collection, in order, inside a transaction."""
    collection = operations[0].collection
    ids = [operation.id for operation in operations]
    looked_at = {
        operation.id
        for operation in operations
        if not isinstance(operation, Insert) or ids.count(operation.id) > 1
    }
    before: dict[str, int] = {}
    if looked_at:
        rows = documents.find({"_id": {"$in": sorted(looked_at)}}, {"version": 1}, session=session)
        before = {row["_id"]: row["version"] for row in rows}
    versions = dict(before)
    after: dict[str, BsonDocument] = {}
    for operation in operations:
        _require_version(operation, versions.get(operation.id))
        if isinstance(operation, Delete):
            versions.pop(operation.id, None)
            after.pop(operation.id, None)
            continue
        version = operation.version + 1 if isinstance(operation, Update) else 1
        versions[operation.id] = version
        after[operation.id] = _stored(collection, operation.id, version, operation.data)
    # A Delete of any version of what is not there touches nothing; everything else that was there has changed.
    if before:
        documents.delete_many({"_id": {"$in": sorted(before)}}, session=session)
    if after:
        added = list(after.values())
        _unique(collection.name, lambda: documents.insert_many(added, session=session))


def _require_version(operation: Operation, present: int | None) -> None:
    """NotFound or Conflict (what = "id" or "version") when the document, at version `present`, does not allow it."""
    name = f"{operation.collection.name} {operation.id}"
    match operation:
        case Insert() if present is not None:
            raise errors.Conflict(f"{name} exists already", what="id")
        case Update() if present is None:
            raise errors.NotFound(f"{name} is gone", what=operation.collection.name)
        case Update(version=version) | Delete(version=version):
            if present is not None and version is not None and present != version:
                raise errors.Conflict(f"{name} is at version {present}, not {version}", what="version")


def _unique(name: str, write: Callable[[], Any]) -> Any:
    """What `write` returns. Conflict, naming the field, where it breaks a unique index."""
    try:
        return write()
    except (DuplicateKeyError, BulkWriteError) as error:
        field = duplicate_field(error)
        if field is None:
            raise
        raise errors.Conflict(f"{name} has this {field} already", what=field.lstrip("_")) from error


# -- between documents and BSON


def _stored(collection: Collection, id_: str, version: int, data: Json) -> BsonDocument:
    indexed = {}
    for index in collection.indexes:
        value = data.get(index.field)
        if value is None:
            continue
        for text in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(text, str):
                raise errors.Invalid(
                    f"{collection.name}.{index.field} indexes strings only", what=index.field
                )
        indexed[index.field] = value
    if _is_plain(data, 0):
        return {"_id": id_, "version": version, "data": data}
    return {"_id": id_, "version": version, "data": indexed, "text": msgspec.json.encode(data).decode()}


def _is_plain(value: Any, depth: int) -> bool:
    """Whether BSON gives the value back as it is."""
    if isinstance(value, Mapping):
        return depth < _MAX_DEPTH and all(
            _is_plain_name(name) and _is_plain(inner, depth + 1) for name, inner in value.items()
        )
    if isinstance(value, (list, tuple)):
        return depth < _MAX_DEPTH and all(_is_plain(inner, depth + 1) for inner in value)
    if isinstance(value, int):
        return -_MAX_INT <= value <= _MAX_INT
    return value is None or isinstance(value, (str, float))


def _is_plain_name(name: Any) -> bool:
    return isinstance(name, str) and not name.startswith("$") and "." not in name and "\0" not in name


def _document(stored: Mapping[str, Any]) -> Document:
    text = stored.get("text")
    data = stored["data"] if text is None else msgspec.json.decode(text)
    return Document(stored["_id"], stored["version"], data)


# -- pages


def _index(collection: Collection, field: str) -> Index:
    for index in collection.indexes:
        if index.field == field:
            return index
    raise KeyError(f"{collection.name} has no index on {field}")


def _order(index: Index, direction: int) -> list[tuple[str, int]]:
    """An index's keys, and so the order of its pages: unique values need no id behind them."""
    keys = [(f"data.{index.field}", direction)]
    return keys if index.unique else [*keys, ("_id", direction)]


def _beside(index: Index, entry: tuple[str, str], within: BsonDocument, side: str) -> BsonDocument:
    """The entries of `within` on one side ("$lt" or "$gt") of an entry; each condition is a walk along the index."""
    value, id_ = entry
    path = f"data.{index.field}"
    beyond = {path: within | {side: value}}
    return beyond if index.unique else {"$or": [{path: within | {"$eq": value}, "_id": {side: id_}}, beyond]}


def _cursor(stored: Mapping[str, Any], field: str) -> str:
    value = stored["data"][field]
    return cursors.encoded(value if isinstance(value, str) else min(value), stored["_id"])
