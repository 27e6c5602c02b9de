"""Reads by the short way: that they are it, that they say what the driver's do, and calls that are run as a group."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest
from cluster_house import fresh_mongo
from engine_processes import free_port
from engines import database_name, mongo_url
from mongo_store_support import round_trips

from wd_trio import errors
from wd_trio.adapters.mongo_redis.mongo import PLAIN, Mongo, MongoOptions
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


def looks_up(reader: Reader, number: int, begun: list[int]) -> Callable[[], int]:
    """A call of two reads, of which the second needs the first one's answer."""

    def call() -> int:
        begun.append(number)
        first = reader.find_one(NUMBERS, {"_id": number})
        assert first is not None
        second = reader.find_one(NUMBERS, {"large": first["large"] + 1}, {"large": 0})
        if second is None:
            raise errors.NotFound("the last one", what="number")
        return int(second["_id"])

    return call


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


def test_a_group_brings_its_calls_forward_together(reader: Reader) -> None:
    begun: list[int] = []
    places = [*range(40), COUNT - 1]
    with round_trips() as made:
        outcomes = reader.run_group([looks_up(reader, place, begun) for place in places])
    assert [value for value, error in outcomes[:-1]] == [place + 1 for place in places[:-1]]
    assert isinstance(outcomes[-1][1], errors.NotFound)
    assert made["mongodb"] == reader.sent == 2 * len(places)
    assert len(begun) == 3 * len(places)  # in the beginning, and after each answer


def test_in_a_group_faults_are_their_calls_own(reader: Reader) -> None:
    def wrong() -> object:
        return reader.find_one(NUMBERS, {"_id": "\ud800"})

    def refused() -> object:
        return reader.ask({"find": NUMBERS, "filter": {"$nonsense": 1}})

    outcomes = reader.run_group([wrong, looks_up(reader, 3, []), refused, looks_up(reader, 4, [])])
    assert isinstance(outcomes[0][1], errors.Invalid)
    assert "$nonsense" in str(outcomes[2][1])
    assert [outcomes[1], outcomes[3]] == [(4, None), (5, None)]


def test_in_a_group_a_call_of_many_batches_goes_on(reader: Reader) -> None:
    def call() -> object:
        found = [one for batch in reader.batches({**EVERY, "batchSize": 100}) for one in batch]
        return len(found), reader.find_one(NUMBERS, {"_id": 9}, {"_id": 1})

    assert reader.run_group([call, looks_up(reader, 3, []), call])[0::2] == [((COUNT, {"_id": 9}), None)] * 2


def test_commands_too_large_for_one_message_go_apart(reader: Reader) -> None:
    many = list(range(20_000))

    def call() -> object:
        return len(reader.ask({"find": NUMBERS, "filter": {"_id": {"$in": many}}, "batchSize": COUNT + 1}))

    assert reader.run_group([call] * 3) == [(COUNT, None)] * 3


def test_a_group_serves_calls_of_another_mongodb(reader: Reader, mongo: Mongo) -> None:
    with closing(Mongo(mongo_url().replace(database_name(), f"{database_name()}_other"))) as other:
        assert other.database.name != mongo.database.name
        elsewhere = Reader(other)
        outcomes = reader.run_group(
            [lambda: elsewhere.find_one(NUMBERS, {"_id": 1}), lambda: reader.find_one(NUMBERS, {"_id": 1})]
        )
    assert outcomes == [(None, None), ({"_id": 1, "large": LARGE + 1}, None)]


def test_when_mongodb_is_away_a_group_is_told() -> None:
    mongo = Mongo(f"mongodb://127.0.0.1:{free_port()}/x", MongoOptions(selection_s=0.2, connect_s=0.2))
    reader = Reader(mongo)
    outcomes = reader.run_group([lambda: reader.find_one(NUMBERS, {"_id": 1})] * 50)
    assert all(isinstance(error, errors.Unavailable) for _, error in outcomes)
    mongo.close()
