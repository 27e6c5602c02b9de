"""The engines under the contract suite. Every test of this folder runs once for each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_house import fresh_mongo, fresh_redis
from contract_make import Clock

from wd_trio.adapters.mongo_redis.documents import MongoDocuments
from wd_trio.adapters.mongo_redis.limits import RedisLimits
from wd_trio.adapters.mongo_redis.sessions import RedisSessions
from wd_trio.adapters.mongo_redis.store import MongoStore
from wd_trio.adapters.sqlite.connection import SqliteOptions
from wd_trio.adapters.sqlite.database import SqliteDatabase
from wd_trio.adapters.sqlite.documents import SqliteDocuments
from wd_trio.adapters.sqlite.limits import SqliteLimits, open_state
from wd_trio.adapters.sqlite.sessions import SqliteSessions
from wd_trio.adapters.sqlite.store import SqliteStore
from wd_trio.mail.model import DEFAULT_MAILBOXES, Mailbox
from wd_trio.ports.documents import Documents
from wd_trio.ports.ids import new_id
from wd_trio.ports.limits import Limits
from wd_trio.ports.mail import MailStore
from wd_trio.ports.sessions import SessionStore


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine's stores, all by one clock."""

    store: MailStore
    documents: Documents
    limits: Limits
    sessions: SessionStore
    clock: Clock


@contextmanager
def sqlite_engine(folder: Path) -> Iterator[Engine]:
    clock = Clock()
    options = SqliteOptions(clock=clock)
    database = SqliteDatabase(folder / "mail.db", options)
    state = open_state(folder / "mail.db", options)
    try:
        yield Engine(
            SqliteStore(database),
            SqliteDocuments(database),
            SqliteLimits(state),
            SqliteSessions(state),
            clock,
        )
    finally:
        state.close()
        database.close()


@contextmanager
def cluster_engine(_: Path) -> Iterator[Engine]:
    clock = Clock()
    mongo, link = fresh_mongo(clock), fresh_redis(clock)
    yield Engine(MongoStore(mongo), MongoDocuments(mongo), RedisLimits(link), RedisSessions(link), clock)


ENGINES: dict[str, Callable[[Path], AbstractContextManager[Engine]]] = {
    "cluster": cluster_engine,
    "sqlite": sqlite_engine,
}


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with ENGINES[request.param](tmp_path) as made:
        yield made


@pytest.fixture
def store(engine: Engine) -> MailStore:
    return engine.store


@pytest.fixture
def documents(engine: Engine) -> Documents:
    return engine.documents


@pytest.fixture
def limits(engine: Engine) -> Limits:
    return engine.limits


@pytest.fixture
def sessions(engine: Engine) -> SessionStore:
    return engine.sessions


@pytest.fixture
def clock(engine: Engine) -> Clock:
    return engine.clock


@pytest.fixture
def user() -> str:
    return new_id()


@pytest.fixture
def inbox(store: MailStore, user: str) -> Mailbox:
    """The INBOX of `user`, who has the default mailboxes."""
    return store.ensure_mailboxes(user, DEFAULT_MAILBOXES)[0]
