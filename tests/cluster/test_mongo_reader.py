"""Reads by the short way: that they are it, that they say what the driver's do, and reads of one moment."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
from cluster_house import fresh_mongo
from mongo_store_support import round_trips

from wd_trio import errors
from wd_trio.adapters.mongo_redis.mongo import PLAIN, BsonDocument, Mongo, bounded
from wd_trio.adapters.mongo_redis.reader import SNAPSHOT, Reader

NUMBERS = "numbers"
COUNT = 500
LARGE = 1 << 40
EVERY = {"find": NUMBERS, "sort": {"_id": 1}}


@pytest.fixture
def mongo() -> Mongo:
    mongo = fresh_mongo(time.time)
    mongo.database[NUMBERS].insert_many([{"_id": n, "large": LARGE + n} for n in range(COUNT)])
    return mongo


@pytest.fixture
def reader(mongo: Mongo) -> Reader:
    return Reader(mongo)


def numbers(documents: list[dict[str, int]]) -> list[int]:
    return [document["_id"] for document in documents]


def test_reads_are_the_short_way(reader: Reader) -> None:
    """What is used of the driver's pool is there, and does it."""
    with round_trips() as made:
        assert reader.find_one(NUMBERS, {"_id": 7}, {"_id": 1}) == {"_id": 7}
        assert reader.find_one(NUMBERS, {"_id": -1}) is None
    assert reader.sent == reader.answered == made["mongodb"] == 2


@pytest.mark.parametrize("short", [True, False], ids=["short", "the driver's"])
def test_both_ways_bring_the_same(reader: Reader, short: bool) -> None:
    reader._short = short
    assert numbers(reader.ask(EVERY)) == list(range(COUNT))
    assert numbers(reader.ask({**EVERY, "batchSize": COUNT + 1}, concern=SNAPSHOT)) == list(range(COUNT))
    pipeline = {"aggregate": NUMBERS, "pipeline": [{"$sort": {"_id": 1}}], "cursor": {"batchSize": 10}}
    assert numbers(reader.ask(pipeline, concern=SNAPSHOT)) == list(range(COUNT))
    sizes = [len(batch) for batch in reader.batches({**EVERY, "batchSize": 200})]
    assert sizes == [200, 200, 100]
    (found,) = reader.ask({"find": NUMBERS, "filter": {"_id": 1}}, codec=PLAIN)
    assert type(found["large"]) is int
    assert found["large"] == LARGE + 1


def test_who_wants_no_more_leaves_no_cursor(mongo: Mongo, reader: Reader) -> None:
    def opened() -> int:
        count: int = mongo.client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"]
        return count

    before = opened()
    with closing(reader.batches({**EVERY, "batchSize": 10})) as batches:
        assert len(next(batches)) == 10
        assert opened() == before + 1
    assert opened() == before


def test_what_cannot_be_stored_is_invalid(reader: Reader) -> None:
    with pytest.raises(errors.Invalid):
        reader.find_one(NUMBERS, {"_id": "\ud800"})


def test_a_command_may_be_large(reader: Reader) -> None:
    many = list(range(20_000))
    found = reader.ask({"find": NUMBERS, "filter": {"_id": {"$in": many}}, "batchSize": COUNT + 1})
    assert len(found) == COUNT


def test_an_answer_may_take_long(reader: Reader) -> None:
    """Longer than the driver waits at a time: the deadline is the call's."""
    slow = {"$where": "sleep(700) || true"}
    assert reader.find_one(NUMBERS, {"_id": 7, **slow}, {"_id": 1}) == {"_id": 7}
    with bounded(0.2), pytest.raises(errors.Unavailable):
        reader.find_one(NUMBERS, {"_id": 7, **slow})


# -- several reads of one moment


@pytest.mark.parametrize("short", [True, False], ids=["short", "the driver's"])
def test_reads_of_a_moment_see_the_first_ones(mongo: Mongo, reader: Reader, short: bool) -> None:
    reader._short = short
    with reader.one_moment() as moment:
        (first,) = moment.ask({"find": NUMBERS, "filter": {"_id": 1}})
        mongo.database[NUMBERS].delete_many({"_id": {"$gte": 100}})
        mongo.database[NUMBERS].update_one({"_id": 1}, {"$set": {"large": 0}})
        assert numbers(moment.ask({**EVERY, "batchSize": 200})) == list(range(COUNT))
        assert moment.find_one(NUMBERS, {"_id": 1}) == first
        assert type((moment.find_one(NUMBERS, {"_id": 2}) or {})["large"]) is int
    with reader.one_moment() as moment:
        assert moment.find_one(NUMBERS, {"_id": 1}) == {"_id": 1, "large": 0}
        assert len(moment.ask(EVERY)) == 100
    assert reader.answered == (6 if short else 0)


@pytest.mark.parametrize("fails", [0, 1], ids=["the first read", "the second read"])
def test_a_moment_outlasts_a_read_that_went_the_long_way(
    mongo: Mongo, reader: Reader, fails: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = reader._answer
    asked: list[bool] = []

    def refuses_one(command: BsonDocument, codec: Any) -> Any:
        asked.append("$clusterTime" in command)
        return ({"ok": 0.0}, None) if len(asked) == fails + 1 else answered(command, codec)

    monkeypatch.setattr(reader, "_answer", refuses_one)
    with reader.one_moment() as moment:
        assert moment.find_one(NUMBERS, {"_id": 1}) == {"_id": 1, "large": LARGE + 1}
        mongo.database[NUMBERS].delete_many({})
        for _ in range(2):
            assert numbers(moment.ask({**EVERY, "batchSize": 200})) == list(range(COUNT))
    assert asked == ([False] if fails == 0 else [False, True]), "the rest is the driver's"
    assert reader.find_one(NUMBERS, {}) is None


def test_a_moment_begins_with_what_is_there(mongo: Mongo, reader: Reader) -> None:
    with reader.one_moment() as moment:
        assert moment.find_one("nowhere", {}) is None
        mongo.database[NUMBERS].delete_many({"_id": {"$gte": 100}})
        assert len(moment.ask(EVERY)) == 100
        mongo.database[NUMBERS].delete_many({})
        assert len(moment.ask(EVERY)) == 100
