"""Transactions that lose their server: what they leave open there is ended as soon as it is back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from engine_processes import Engine, start_mongod
from engines import or_no_engine
from failing_engines import hurting
from peers import STEP_S, wait_until
from pymongo.client_session import ClientSession

from wd_trio.adapters.mongo_redis.mongo import Mongo, MongoOptions
from wd_trio.errors import NotFound, Unavailable, Uncertain

QUICK = MongoOptions(deadline_s=1.0, selection_s=0.5, connect_s=0.5, heartbeat_s=0.5)
BY_ITSELF_S = 600  # no server ends a transaction of its own accord while a test runs


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    made = or_no_engine(lambda: start_mongod(tmp_path_factory.mktemp("mongodb")))
    yield made
    made.kill()


@pytest.fixture
def mongo(engine: Engine) -> Iterator[Mongo]:
    opened = Mongo(engine.url.replace("/?", "/failing?"), QUICK)
    opened.client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=BY_ITSELF_S)
    opened.database["things"].delete_many({})
    opened.database["things"].insert_one({"_id": 1, "count": 0})
    yield opened
    opened.close()


def count_up(mongo: Mongo, session: ClientSession) -> None:
    mongo.database["things"].update_one({"_id": 1}, {"$inc": {"count": 1}}, session=session)


def counts(mongo: Mongo) -> bool:
    try:
        mongo.transaction(lambda session: count_up(mongo, session))
    except Unavailable:
        return False
    return True


def test_a_transaction_that_lost_its_server_holds_up_nobody_afterwards(engine: Engine, mongo: Mongo) -> None:
    with contextlib.ExitStack() as outage:

        def work(session: ClientSession) -> None:
            count_up(mongo, session)
            outage.enter_context(hurting(engine, "hung"))
            count_up(mongo, session)

        with pytest.raises(Unavailable) as raised:
            mongo.transaction(work)
    assert not isinstance(raised.value, Uncertain)
    wait_until(lambda: counts(mongo), "the document that it held")
    assert mongo.database["things"].find_one() == {"_id": 1, "count": 1}, "and it was undone"


def test_a_commit_that_nobody_answered_is_uncertain(engine: Engine, mongo: Mongo) -> None:
    with contextlib.ExitStack() as outage:

        def work(session: ClientSession) -> None:
            count_up(mongo, session)
            outage.enter_context(hurting(engine, "hung"))

        with pytest.raises(Uncertain):
            mongo.transaction(work)
    wait_until(lambda: counts(mongo), "the document that it held")


def test_a_transaction_given_up_too_late_to_tell_the_server_holds_up_nobody(mongo: Mongo) -> None:
    until = time.monotonic() + QUICK.deadline_s

    def work(session: ClientSession) -> None:
        count_up(mongo, session)
        wait_until(lambda: time.monotonic() > until + STEP_S, "its deadline")
        raise NotFound("of its own", what="thing")

    with pytest.raises(NotFound):
        mongo.transaction(work)
    wait_until(lambda: counts(mongo), "the document that it held")
    assert mongo.database["things"].find_one() == {"_id": 1, "count": 1}, "and it was undone"
