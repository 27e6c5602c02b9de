"""The connection to MongoDB: deadlines, transactions that lose or whose outcome is lost, faults and their names."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster_house import fresh_mongo
from engine_processes import Engine, free_port, start_mongod, start_standalone_mongod
from engines import or_no_engine
from pymongo.client_session import ClientSession
from pymongo.errors import AutoReconnect, OperationFailure

from wd_trio import errors
from wd_trio.adapters.mongo_redis.faults import is_bug
from wd_trio.adapters.mongo_redis.indexes import INDEXES
from wd_trio.adapters.mongo_redis.mongo import Mongo, MongoOptions, bounded
from wd_trio.adapters.mongo_redis.reader import Reader
from wd_trio.telemetry import tally_thread

# The driver asks a server that failed again after half a second.
HASTY = MongoOptions(deadline_s=1.6, selection_s=1.2, connect_s=0.3, heartbeat_s=0.5)
COUNTERS = "counters"


@pytest.fixture
def mongo() -> Mongo:
    return fresh_mongo(time.time)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A mongod that can be told to fail."""
    folder = tmp_path_factory.mktemp("mongod")
    engine = or_no_engine(lambda: start_mongod(folder, "--setParameter", "enableTestCommands=1"))
    yield engine
    engine.kill()


@pytest.fixture
def failing(fragile: Engine) -> Iterator[Mongo]:
    mongo = Mongo(fragile.url, HASTY)
    yield mongo
    mongo.client.admin.command("configureFailPoint", "failCommand", mode="off")
    mongo.database.drop_collection(COUNTERS)
    mongo.close()


def fail(mongo: Mongo, times: int, **how: Any) -> None:
    mongo.client.admin.command("configureFailPoint", "failCommand", mode={"times": times}, data=how)


def count(mongo: Mongo, name: str = "n") -> int:
    with mongo.reading() as database:
        found = database[COUNTERS].find_one({"_id": name})
    return 0 if found is None else found["value"]


def add_one(mongo: Mongo, session: ClientSession, name: str = "n") -> None:
    mongo.database[COUNTERS].update_one({"_id": name}, {"$inc": {"value": 1}}, upsert=True, session=session)


def test_a_standalone_mongod_is_refused_with_the_remedy(tmp_path: Path) -> None:
    engine = or_no_engine(lambda: start_standalone_mongod(tmp_path / "mongod"))
    mongo = Mongo(engine.url)
    try:
        with pytest.raises(errors.Invalid, match=r"--replSet rs0 and run rs\.initiate\(\)"):
            mongo.ensure()
    finally:
        mongo.close()
        engine.kill()


def test_processes_that_begin_together_make_the_indexes_together(fragile: Engine) -> None:
    processes = [Mongo(f"{fragile.url.replace('/?', '/together?')}") for _ in range(4)]
    faults: list[Exception] = []

    def ensure(mongo: Mongo) -> None:
        try:
            mongo.ensure()
        except errors.WdError as error:
            faults.append(error)

    threads = [threading.Thread(target=ensure, args=(mongo,)) for mongo in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    here = set(processes[0].database.list_collection_names())
    for mongo in processes:
        mongo.close()
    assert here >= set(INDEXES)


@pytest.mark.parametrize("url", ["", "nonsense", "mongodb://", "redis://127.0.0.1", "mongodb://h/?ssl=maybe"])
def test_what_is_no_url_is_invalid(url: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        Mongo(url).close()
    assert caught.value.what == "url"


def test_the_url_names_the_database(mongo: Mongo) -> None:
    assert mongo.database.name.startswith("wd_test")
    other = Mongo("mongodb://127.0.0.1:1/?directConnection=true")
    assert other.database.name == "wd_trio"
    other.close()


def test_a_mongodb_that_is_not_there_is_unavailable() -> None:
    options = MongoOptions(deadline_s=0.3, selection_s=0.3)
    mongo = Mongo(f"mongodb://127.0.0.1:{free_port()}/?directConnection=true", options)
    with pytest.raises(errors.Unavailable) as caught, mongo.reading() as database:
        database[COUNTERS].find_one()
    assert caught.value.what == "mongodb"
    with pytest.raises(errors.Unavailable):
        mongo.transaction(lambda session: add_one(mongo, session))
    mongo.close()


def test_a_hung_mongod_is_unavailable_until_it_goes_on(failing: Mongo, fragile: Engine) -> None:
    failing.transaction(lambda session: add_one(failing, session))
    fragile.pause()
    try:
        with pytest.raises(errors.Unavailable):
            count(failing)
        with pytest.raises(errors.Unavailable):
            failing.transaction(lambda session: add_one(failing, session))
    finally:
        fragile.resume()
    for _ in range(20):
        try:
            assert count(failing) >= 1
            failing.transaction(lambda session: add_one(failing, session))
        except errors.Unavailable:
            continue
        break
    assert count(failing) >= 2


def test_an_error_of_the_work_ends_the_transaction(mongo: Mongo) -> None:
    def work(session: ClientSession) -> None:
        add_one(mongo, session)
        raise errors.OverQuota("no room")

    with pytest.raises(errors.OverQuota):
        mongo.transaction(work)
    assert count(mongo) == 0


def test_transactions_on_one_document_all_come_through(mongo: Mongo) -> None:
    mongo.transaction(lambda session: add_one(mongo, session))
    before = replace(mongo.statistics)

    def work() -> None:
        for _ in range(10):
            mongo.transaction(lambda session: add_one(mongo, session))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(mongo) == 61
    after = mongo.statistics
    assert after.commits - before.commits == 60
    assert after.attempts - before.attempts == 60 + after.aborts - before.aborts


def test_a_lost_transaction_is_run_again(failing: Mongo) -> None:
    fail(failing, 3, failCommands=["update"], errorCode=112, errorLabels=["TransientTransactionError"])
    runs = []

    def work(session: ClientSession) -> str:
        runs.append(1)
        add_one(failing, session)
        return "done"

    assert failing.transaction(work) == "done"
    assert len(runs) == 4
    assert count(failing) == 1


def test_a_transaction_that_always_loses_is_unavailable_in_the_end(failing: Mongo) -> None:
    fail(failing, 100_000, failCommands=["update"], errorCode=112, errorLabels=["TransientTransactionError"])
    with pytest.raises(errors.Unavailable):
        failing.transaction(lambda session: add_one(failing, session))
    assert failing.statistics.aborts > 1


def test_a_transaction_is_not_run_again_once_the_call_around_it_is_over(mongo: Mongo) -> None:
    runs = []

    def work(_: ClientSession) -> None:
        runs.append(1)
        raise AutoReconnect("lost", errors={"errorLabels": ["TransientTransactionError"]})

    with bounded(1e-6), pytest.raises(errors.Unavailable):
        mongo.transaction(work)
    assert len(runs) == 1


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 91}, {"errorCode": 50}])
def test_a_commit_whose_outcome_is_lost_is_asked_for_again(failing: Mongo, how: dict[str, Any]) -> None:
    fail(failing, 2, failCommands=["commitTransaction"], **how)
    failing.transaction(lambda session: add_one(failing, session))
    assert count(failing) == 1


@pytest.mark.parametrize("code", [91, 189, 10107, 11600, 13435])
def test_a_step_down_is_outlasted(failing: Mongo, code: int) -> None:
    fail(failing, 1, failCommands=["find"], errorCode=code)
    assert count(failing) == 0


@pytest.mark.parametrize(
    "how", [{"closeConnection": True}, *({"errorCode": code} for code in (91, 189, 10107, 11600, 13435))]
)
def test_short_reads_outlast_it_too(failing: Mongo, how: dict[str, Any]) -> None:
    reader = Reader(failing)
    fail(failing, 1, failCommands=["find"], **how)
    assert reader.find_one(COUNTERS, {"_id": "n"}) is None
    fail(failing, 1, failCommands=["find"], **how)
    with reader.one_moment() as moment:
        assert moment.find_one(COUNTERS, {"_id": "n"}) is None
        fail(failing, 1, failCommands=["find"], **how)
        assert moment.ask({"find": COUNTERS}) == []


def test_a_short_read_that_hangs_is_unavailable_by_the_deadline(failing: Mongo) -> None:
    reader = Reader(failing)
    reader.find_one(COUNTERS, {"_id": "n"})
    fail(failing, 1, failCommands=["find"], blockConnection=True, blockTimeMS=2_500)
    with pytest.raises(errors.Unavailable):
        reader.find_one(COUNTERS, {"_id": "n"})


@pytest.mark.parametrize("code", [13, 46841])
def test_refused_credentials_and_cut_connections_are_unavailable(failing: Mongo, code: int) -> None:
    fail(failing, 1, failCommands=["find"], errorCode=code)
    with pytest.raises(errors.Unavailable):
        count(failing)


def test_a_bug_passes_as_it_is(mongo: Mongo) -> None:
    for pipeline in ([{"$nonsense": 1}], [{"$project": {"a": {"$bitsAllSet": 1}}}], [{"$limit": -1}]):
        with pytest.raises(OperationFailure) as caught, mongo.reading() as database:
            database[COUNTERS].aggregate(pipeline)
        assert is_bug(caught.value)


def test_what_is_not_for_transactions_is_a_bug_and_no_outage(mongo: Mongo) -> None:
    pipeline = [{"$unionWith": {"coll": COUNTERS, "pipeline": []}}]
    with pytest.raises(OperationFailure) as caught:
        mongo.transaction(lambda session: mongo.database[COUNTERS].aggregate(pipeline, session=session))
    assert is_bug(caught.value)


@pytest.mark.parametrize("value", ["\udcff", 1 << 63, {"a\0b": 1}, "x" * (17 << 20), object()])
def test_a_value_that_cannot_be_stored_is_invalid(mongo: Mongo, value: object) -> None:
    with pytest.raises(errors.Invalid) as caught, mongo.reading() as database:
        database[COUNTERS].insert_one({"value": value})
    assert caught.value.what == "value"


def test_integers_come_back_as_integers(mongo: Mongo) -> None:
    with mongo.reading() as database:
        database[COUNTERS].insert_one({"_id": "n", "value": 1 << 40})
    assert type(count(mongo)) is int


def test_round_trips_are_counted(mongo: Mongo) -> None:
    mongo.transaction(lambda session: add_one(mongo, session))
    made: dict[str, int] = {}
    before = tally_thread(made)
    try:
        mongo.transaction(lambda session: add_one(mongo, session))
        assert made == {"mongodb": 2}
        count(mongo)
        assert made == {"mongodb": 3}
    finally:
        tally_thread(before)
