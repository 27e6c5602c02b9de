"""Blobs: bytes by content hash, in chunks. No transaction writes a document of these, for users share them.

- blobs: {_id: digest, key, size, complete, lastUsed}. It exists for readers once `complete`. `key` is new each time
  that a digest comes into the store and begins the ids of its chunks, so that one being removed and the same one
  coming again never meet.
- blobChunks: {_id: key and number, zstd, data}, insert-only.
- Messages name digests in `blobs`; nothing counts references. Whoever is about to refer to a blob, or has just
  ended a reference, marks it as used now; transactions are shorter than any grace period, so what was marked within
  the grace is kept.
- The collector looks at what was last used longest ago, one round trip for a batch. What is referred to is marked,
  and so comes up again a grace period later. The rest is removed only if nobody has marked it meanwhile. The key of
  each goes to blobGarbage first: a collector that dies, or a writer that slept, leaves chunks which the next run
  finds there.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bson import Binary
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from wd_trio import errors
from wd_trio.adapters.mongo_redis.faults import DUPLICATE_KEY
from wd_trio.adapters.mongo_redis.indexes import BLOB_CHUNKS, BLOB_GARBAGE, BLOBS
from wd_trio.adapters.mongo_redis.layout import MESSAGES
from wd_trio.adapters.mongo_redis.mongo import CALL_S, BsonDocument, Mongo, MongoDatabase, bounded
from wd_trio.mail.model import BlobData
from wd_trio.mail.rope import CHUNK_BYTES, chunk_bytes
from wd_trio.ports.ids import new_id

_MAX_CHUNKS: Final = 1 << 20  # 256 GiB
_NUMBER: Final = struct.Struct(">I")
_LAST_NUMBER: Final = 0xFFFFFFFF
_KNOWN: Final = 20_000  # about 6 MB of what `_known` remembers
_BATCH: Final = 100
_LOOKED_AT: Final = 20  # batches of one collection at most
_COLLECTING_S: Final = 2.0  # after which no other batch is begun


class Known(NamedTuple):
    """Where a whole blob's chunks are. It never changes, but the blob may be gone."""

    key: bytes
    size: int


class MongoBlobs:
    """The blobs of a MongoDB; ports.blobs.Blobs in all but the names, and what the mail store needs beside it."""

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._known: dict[bytes, Known] = {}

    # -- writing

    def put(self, blobs: Sequence[BlobData]) -> None:
        """Keep whole blobs; those that are there already are marked. Four round trips, two when all are there.
        Invalid for one with more chunks than its size has."""
        for blob in blobs:
            _require_chunks(blob.size, 0, blob.chunks)
        with self._mongo.reading() as database:
            keys = self._begin(database, {blob.digest: blob.size for blob in blobs})
            new = {blob.digest: blob for blob in blobs if blob.digest in keys}
            if not new:
                return
            _insert(
                database,
                (
                    _chunk(keys[digest], number, *chunk)
                    for digest, blob in new.items()
                    for number, chunk in enumerate(blob.chunks)
                ),
            )
            whole = [digest for digest, blob in new.items() if len(blob.chunks) == _chunk_count(blob.size)]
            self._complete(database, {digest: keys[digest] for digest in whole})

    def put_chunks(
        self, digest: bytes, size: int, first_chunk: int, chunks: Sequence[tuple[bool, bytes]]
    ) -> None:
        """Keep chunks `first_chunk` and following. Of two writers of the same blob the first one's chunks stand.
        Invalid for chunks beyond the blob's size or a size beyond what chunk numbers reach (256 GiB)."""
        _require_chunks(size, first_chunk, chunks)
        with self._mongo.reading() as database:
            keys = self._begin(database, {digest: size})
            if not keys:
                return
            key = keys[digest]
            _insert(database, (_chunk(key, n, *chunk) for n, chunk in enumerate(chunks, first_chunk)))
            if database[BLOB_CHUNKS].count_documents({"_id": _span(key)}) >= _chunk_count(size):
                self._complete(database, keys)

    def _begin(self, database: MongoDatabase, sizes: Mapping[bytes, int]) -> dict[bytes, bytes]:
        """Mark blobs, or make them; those that are not whole, with their keys."""
        if not sizes:
            return {}
        now = self._mongo.now()
        database[BLOBS].bulk_write(
            [
                UpdateOne(
                    {"_id": digest},
                    {
                        "$max": {"lastUsed": now},
                        "$setOnInsert": {"key": bytes.fromhex(new_id()), "size": size, "complete": False},
                    },
                    upsert=True,
                )
                for digest, size in sizes.items()
            ],
            ordered=False,
        )
        unfinished = database[BLOBS].find({"_id": {"$in": list(sizes)}, "complete": False}, {"key": 1})
        return {document["_id"]: document["key"] for document in unfinished}

    def _complete(self, database: MongoDatabase, keys: Mapping[bytes, bytes]) -> None:
        """Show blobs whose chunks are all there. Unavailable when the collector took one meanwhile."""
        outcome = database[BLOBS].update_many(
            {"_id": {"$in": list(keys)}, "key": {"$in": list(keys.values())}}, {"$set": {"complete": True}}
        )
        if outcome.matched_count < len(keys):
            raise errors.Unavailable("a blob was collected while it came", what="mongodb")

    def mark(self, digests: Iterable[bytes]) -> int:
        """Note that whole blobs are used now; how many of them there are. One round trip, none for none."""
        among = list(dict.fromkeys(digests))
        if not among:
            return 0
        with self._mongo.reading() as database:
            return (
                database[BLOBS]
                .update_many(
                    {"_id": {"$in": among}, "complete": True}, {"$max": {"lastUsed": self._mongo.now()}}
                )
                .matched_count
            )

    def has(self, digests: Sequence[bytes]) -> set[bytes]:
        """Those that are whole in the store, each marked. One round trip when all are."""
        wanted = set(digests)
        if self.mark(wanted) == len(wanted):
            return wanted
        with self._mongo.reading() as database:
            found = database[BLOBS].find({"_id": {"$in": list(wanted)}, "complete": True}, {"_id": 1})
            return {document["_id"] for document in found}

    def require(self, digests: Iterable[bytes]) -> None:
        """Mark what messages are about to refer to, before their transaction. Conflict (what="blob") when one is
        not whole in the store."""
        wanted = set(digests)
        if self.mark(wanted) != len(wanted):
            raise errors.Conflict("a blob is not in the store", what="blob")

    # -- reading

    def read(self, digest: bytes, start: int, stop: int) -> bytes:
        """The bytes start … stop - 1, cut to the blob's size; NotFound. One round trip for a blob read before."""
        with self._mongo.reading() as database:
            known = self._known.get(digest)
            data = None if known is None else _read_span(database, known, start, stop)
            if data is None:  # never seen, or collected since; it may have come again
                known = self._look_up(database, [digest]).get(digest)
                data = None if known is None else _read_span(database, known, start, stop)
        if data is None:
            raise errors.NotFound(f"no blob {digest.hex()}", what="blob")
        return data

    def sizes(self, digests: Iterable[bytes]) -> dict[bytes, int]:
        """The sizes in bytes of those that are whole; one round trip unless all are known."""
        return {digest: known.size for digest, known in self._places(digests).items()}

    def load(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Whole blobs by digest, those that are there, in one round trip once their sizes are known; callers
        bound their bytes by `sizes`."""
        places = self._places(digests)
        ids = [_id(known.key, n) for known in places.values() for n in range(_chunk_count(known.size))]
        with self._mongo.reading() as database:
            rows = database[BLOB_CHUNKS].find({"_id": {"$in": ids}}) if ids else ()
            chunks = {row["_id"]: chunk_bytes(row["zstd"], row["data"]) for row in rows}
        loaded = {}
        for digest, (key, size) in places.items():
            data = b"".join(chunks.get(_id(key, n), b"") for n in range(_chunk_count(size)))
            if len(data) == size:
                loaded[digest] = data
        return loaded

    def _places(self, digests: Iterable[bytes]) -> dict[bytes, Known]:
        """Those that are whole, in the order asked for."""
        wanted = list(dict.fromkeys(digests))
        places = {digest: self._known.get(digest) for digest in wanted}
        missing = [digest for digest, known in places.items() if known is None]
        if missing:
            with self._mongo.reading() as database:
                places |= self._look_up(database, missing)
        return {digest: known for digest, known in places.items() if known is not None}

    def _look_up(self, database: MongoDatabase, digests: Sequence[bytes]) -> dict[bytes, Known]:
        rows = database[BLOBS].find({"_id": {"$in": list(digests)}, "complete": True}, {"key": 1, "size": 1})
        found = {row["_id"]: Known(row["key"], row["size"]) for row in rows}
        if len(self._known) + len(found) > _KNOWN:
            self._known = {}  # another thread's entries may be lost with it: they are looked up again
        self._known.update(found)
        return found

    # -- collecting

    @bounded(CALL_S)
    def collect(self, *, unused_for_s: int, limit: int) -> int:
        """Remove up to `limit` blobs that nothing refers to and that were last used that long ago; how many."""
        ends = time.monotonic() + _COLLECTING_S
        oldest = self._mongo.now() - unused_for_s
        removed = 0
        with self._mongo.reading() as database:
            _sweep(database, oldest)
        for _ in range(_LOOKED_AT):
            batch = min(_BATCH, limit - removed)
            if batch <= 0 or time.monotonic() > ends:
                break
            with self._mongo.reading() as database:
                candidates = list(database[BLOBS].aggregate(_candidates(oldest, batch)))
                self._keep(database, [row["_id"] for row in candidates if row["references"]])
                removed += _remove(
                    database, [row for row in candidates if not row["references"]], oldest, self._mongo.now()
                )
            if len(candidates) < batch:
                break
        return removed

    def _keep(self, database: MongoDatabase, digests: Sequence[bytes]) -> None:
        if digests:
            now = {"lastUsed": self._mongo.now()}
            database[BLOBS].update_many({"_id": {"$in": list(digests)}}, {"$max": now})


def _candidates(oldest: int, limit: int) -> list[BsonDocument]:
    one = [{"$limit": 1}, {"$project": {"_id": 1}}]
    return [
        {"$match": {"lastUsed": {"$lte": oldest}}},
        {"$sort": {"lastUsed": 1}},
        {"$limit": limit},
        {
            "$lookup": {
                "from": MESSAGES,
                "localField": "_id",
                "foreignField": "blobs",
                "pipeline": one,
                "as": "references",
            }
        },
    ]


def _remove(database: MongoDatabase, rows: Sequence[BsonDocument], oldest: int, now: int) -> int:
    """Remove the blobs of these rows that have still not been used, with their chunks; how many."""
    if not rows:
        return 0
    keys = {row["key"]: row["_id"] for row in rows}
    database[BLOB_GARBAGE].bulk_write(
        [
            UpdateOne({"_id": key}, {"$set": {"digest": digest, "at": now}}, upsert=True)
            for key, digest in keys.items()
        ],
        ordered=False,
    )
    removed = database[BLOBS].delete_many(
        {
            "_id": {"$in": list(keys.values())},
            "key": {"$in": list(keys)},
            "lastUsed": {"$lte": oldest},
        }
    )
    _drop_chunks(database, keys)
    return removed.deleted_count


def _sweep(database: MongoDatabase, oldest: int) -> None:
    """Finish what earlier runs began. After the grace no writer has these keys any more: they are forgotten."""
    rows = list(database[BLOB_GARBAGE].find({"at": {"$lte": oldest}}).sort("at", 1).limit(_BATCH))
    if rows:
        _drop_chunks(database, {row["_id"]: row["digest"] for row in rows})
        database[BLOB_GARBAGE].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})


def _drop_chunks(database: MongoDatabase, keys: Mapping[bytes, bytes]) -> None:
    """Remove the chunks of keys whose blob (key → digest) is gone; those that live are garbage no more."""
    living = database[BLOBS].find({"_id": {"$in": list(keys.values())}}, {"key": 1})
    kept = {row["key"] for row in living}.intersection(keys)
    gone = [{"_id": _span(key)} for key in keys if key not in kept]
    if gone:
        database[BLOB_CHUNKS].delete_many({"$or": gone})
    if kept:
        database[BLOB_GARBAGE].delete_many({"_id": {"$in": list(kept)}})


# -- chunks


def _chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def _require_chunks(size: int, first_chunk: int, chunks: Sequence[tuple[bool, bytes]]) -> None:
    """Invalid when `chunks` cannot be those of a blob of `size`."""
    expected = _chunk_count(size)
    if not 0 <= first_chunk <= first_chunk + len(chunks) <= expected < _MAX_CHUNKS:
        raise errors.Invalid(f"chunks {first_chunk}… of a blob that has {expected}", what="blob")


def _id(key: bytes, number: int) -> bytes:
    return key + _NUMBER.pack(number)


def _span(key: bytes) -> dict[str, Any]:
    return {"$gte": _id(key, 0), "$lte": _id(key, _LAST_NUMBER)}


def _chunk(key: bytes, number: int, compressed: bool, data: bytes) -> BsonDocument:
    return {"_id": _id(key, number), "zstd": compressed, "data": Binary(data)}


def _insert(database: MongoDatabase, chunks: Iterable[BsonDocument]) -> None:
    """Add those chunks that are not there yet."""
    documents = list(chunks)
    if not documents:
        return
    try:
        database[BLOB_CHUNKS].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
        faults = details.get("writeErrors", ())
        if details.get("writeConcernErrors") or any(fault["code"] != DUPLICATE_KEY for fault in faults):
            raise


def _read_span(database: MongoDatabase, known: Known, start: int, stop: int) -> bytes | None:
    """Bytes of a blob; None when its chunks are not all there any more."""
    start, stop = max(start, 0), min(stop, known.size)
    if start >= stop:
        return b""
    first, last = start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
    ids = [_id(known.key, number) for number in range(first, last + 1)]
    rows = {row["_id"]: row for row in database[BLOB_CHUNKS].find({"_id": {"$in": ids}})}
    if len(rows) < len(ids):
        return None
    joined = b"".join(chunk_bytes(rows[id_]["zstd"], rows[id_]["data"]) for id_ in ids)
    return joined[start - first * CHUNK_BYTES : stop - first * CHUNK_BYTES]
