"""Blobs in MongoDB beyond the contract: the collector against writers, and against its own death."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cluster_house import fresh_mongo
from mongo_store_support import a_message, round_trips

from wd_trio import errors
from wd_trio.adapters.mongo_redis import blobs as blobs_module
from wd_trio.adapters.mongo_redis.blobs import MongoBlobs
from wd_trio.adapters.mongo_redis.indexes import BLOB_CHUNKS, BLOB_GARBAGE, BLOBS
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.mail.model import DEFAULT_MAILBOXES, BlobData
from wd_trio.mail.rope import CHUNK_BYTES
from wd_trio.ports.ids import new_id

GRACE_S = 100


class Now:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def mongo(now: Now) -> Mongo:
    return fresh_mongo(now)


@pytest.fixture
def blobs(mongo: Mongo) -> MongoBlobs:
    return MongoBlobs(mongo)


def a_blob(data: bytes) -> BlobData:
    chunks = tuple((False, data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))
    return BlobData(hashlib.sha256(data).digest(), len(data), chunks)


LARGE = a_blob(b"large" * CHUNK_BYTES)
SMALL = a_blob(b"small")


def count(mongo: Mongo, collection: str) -> int:
    return mongo.database[collection].count_documents({})


def test_a_collected_blob_leaves_nothing_but_its_key_for_a_grace(
    mongo: Mongo, blobs: MongoBlobs, now: Now
) -> None:
    blobs.put([LARGE, SMALL])
    now.seconds += GRACE_S
    assert blobs.collect(unused_for_s=GRACE_S, limit=10) == 2
    assert (count(mongo, BLOBS), count(mongo, BLOB_CHUNKS), count(mongo, BLOB_GARBAGE)) == (0, 0, 2)
    now.seconds += GRACE_S
    assert blobs.collect(unused_for_s=GRACE_S, limit=10) == 0
    assert count(mongo, BLOB_GARBAGE) == 0


def test_what_a_dead_collector_left_is_finished_by_the_next(
    mongo: Mongo, blobs: MongoBlobs, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies between removing the blobs and removing their chunks."""

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    blobs.put([LARGE, SMALL])
    now.seconds += GRACE_S
    with monkeypatch.context() as patched:
        patched.setattr(blobs_module, "_drop_chunks", die)
        with pytest.raises(KeyboardInterrupt):
            blobs.collect(unused_for_s=GRACE_S, limit=10)
    assert (count(mongo, BLOBS), count(mongo, BLOB_CHUNKS)) == (0, 6)
    blobs.put([SMALL])  # it comes again, under a key of its own
    now.seconds += GRACE_S - 1
    assert blobs.mark([SMALL.digest]) == 1
    now.seconds += 1
    assert blobs.collect(unused_for_s=GRACE_S, limit=10) == 0
    assert count(mongo, BLOB_CHUNKS) == 1
    assert count(mongo, BLOB_GARBAGE) == 0
    assert blobs.read(SMALL.digest, 0, 5) == b"small"


def test_a_blob_marked_while_the_collector_looks_stays(
    mongo: Mongo, blobs: MongoBlobs, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = blobs_module._remove

    def late(*arguments: Any) -> int:
        assert MongoBlobs(mongo).has([SMALL.digest]) == {SMALL.digest}
        return remove(*arguments)

    blobs.put([LARGE, SMALL])
    now.seconds += GRACE_S
    monkeypatch.setattr(blobs_module, "_remove", late)
    assert blobs.collect(unused_for_s=GRACE_S, limit=10) == 1
    assert blobs.has([LARGE.digest, SMALL.digest]) == {SMALL.digest}
    assert blobs.load([SMALL.digest]) == {SMALL.digest: b"small"}


def test_a_writer_whose_blob_was_collected_under_it_is_told(
    mongo: Mongo, blobs: MongoBlobs, now: Now
) -> None:
    blobs.put_chunks(LARGE.digest, LARGE.size, 0, LARGE.chunks[:2])
    now.seconds += GRACE_S
    assert blobs.collect(unused_for_s=GRACE_S, limit=10) == 1
    blobs.put_chunks(LARGE.digest, LARGE.size, 2, LARGE.chunks[2:])
    assert blobs.has([LARGE.digest]) == set()
    with pytest.raises(errors.Conflict):
        blobs.require([LARGE.digest])
    blobs.put([LARGE])
    assert blobs.read(LARGE.digest, 0, 5) == b"large"


def test_what_this_process_remembers_of_a_blob_outlives_no_removal(
    mongo: Mongo, blobs: MongoBlobs, now: Now
) -> None:
    blobs.put([LARGE])
    assert blobs.read(LARGE.digest, 0, 5) == b"large"
    now.seconds += GRACE_S
    assert MongoBlobs(mongo).collect(unused_for_s=GRACE_S, limit=10) == 1
    with pytest.raises(errors.NotFound):
        blobs.read(LARGE.digest, 0, 5)
    assert blobs.load([LARGE.digest]) == {}
    MongoBlobs(mongo).put([LARGE])
    assert (
        blobs.read(LARGE.digest, CHUNK_BYTES - 2, CHUNK_BYTES + 3)
        == (b"large" * CHUNK_BYTES)[CHUNK_BYTES - 2 : CHUNK_BYTES + 3]
    )
    assert blobs.load([LARGE.digest]) == {LARGE.digest: b"large" * CHUNK_BYTES}


def test_referenced_blobs_do_not_hide_the_others(mongo: Mongo, blobs: MongoBlobs, now: Now) -> None:
    store, user = MongoStore(mongo), new_id()
    store.ensure_mailboxes(user, DEFAULT_MAILBOXES)
    kept = [a_blob(bytes([n])) for n in range(5)]
    for blob in kept:
        store.append(user, "INBOX", [a_message(blobs=(blob.digest,))], blobs=[blob])
    now.seconds += 1
    blobs.put([SMALL])
    now.seconds += GRACE_S
    assert blobs.collect(unused_for_s=GRACE_S, limit=2) == 1
    assert blobs.has([blob.digest for blob in kept]) == {blob.digest for blob in kept}


def test_round_trips(blobs: MongoBlobs) -> None:
    with round_trips() as made:
        blobs.put([LARGE, SMALL])
    assert made == {"mongodb": 4}
    with round_trips() as made:
        blobs.put([LARGE, SMALL])
        blobs.mark([])
        blobs.has([LARGE.digest, SMALL.digest])
        blobs.require([LARGE.digest])
    assert made == {"mongodb": 4}
    blobs.sizes([LARGE.digest, SMALL.digest])
    with round_trips() as made:
        blobs.read(LARGE.digest, 0, LARGE.size)
        blobs.load([LARGE.digest, SMALL.digest])
    assert made == {"mongodb": 2}
