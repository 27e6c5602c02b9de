"""A replica set of three loses its primary while clients append: whatever was acknowledged is there afterwards."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_processes import Engine, initiate_replica_set, mongod_is_primary, start_mongod
from engines import or_no_engine
from mongo_store_support import a_message

from wd_trio import errors
from wd_trio.adapters.mongo_redis.mongo import Mongo
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.mail.model import DEFAULT_MAILBOXES, Columns
from wd_trio.mail.numset import MAX_UID, UidSet
from wd_trio.ports.ids import new_id

MEMBERS = 3
CLIENTS = 3
BEFORE = 30
AFTER = 30


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Engine]]:
    made: list[Engine] = []
    try:
        for number in range(MEMBERS):
            folder = tmp_path / str(number)
            made.append(or_no_engine(lambda folder=folder: start_mongod(folder, initiate=False)))
        yield made
    finally:
        for engine in made:
            engine.kill()


class Post:
    """Clients that append for ever; `kept` is what was acknowledged: dates, each used once, by uid."""

    def __init__(self, store: MongoStore, user: str) -> None:
        self._store = store
        self._user = user
        self._stopped = threading.Event()
        self._more = threading.Condition()
        self._numbers = itertools.count()
        self.kept: dict[int, int] = {}
        self.refused = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            date = next(self._numbers)
            try:
                appended = self._store.append(self._user, "INBOX", [replace(a_message(), internal_date=date)])
            except errors.Unavailable:
                self.refused += 1
                continue
            with self._more:
                self.kept[appended.uids[0]] = date
                self._more.notify_all()

    def wait_for(self, count: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.kept) >= count, timeout=60)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def test_nothing_acknowledged_is_lost_in_an_election(members: list[Engine]) -> None:
    url = initiate_replica_set(members, electionTimeoutMillis=1000, heartbeatIntervalMillis=200)
    mongo = Mongo(url)
    try:
        mongo.ensure()
        store, user = MongoStore(mongo), new_id()
        inbox = store.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0]
        post = Post(store, user)
        try:
            post.wait_for(BEFORE)
            primary = next(engine for engine in members if mongod_is_primary(engine.url))
            primary.kill()
            post.wait_for(len(post.kept) + AFTER)
        finally:
            post.stop()
        living: dict[int, int] = {}
        while page := store.fetch(inbox.id, UidSet([(max(living, default=0) + 1, MAX_UID)]), Columns.NONE):
            living |= {row.uid: row.internal_date for row in page}
        assert living.items() >= post.kept.items()
        assert len(set(living.values())) == len(living)
        now = store.get_mailbox(inbox.id)
        assert (now.messages, now.unseen) == (len(living), len(living))
        assert now.uid_next == max(living) + 1
    finally:
        mongo.close()
